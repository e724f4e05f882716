"""A source is read as what it says and shows that it is, and as nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.expressions import NOTHING
from transcode.consumers.recognise import decipher
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Constant
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError


def planning(tmp_path: Path, config: object = None, metadata: dict[str, str] | None = None) -> Planning:
    made = Planning()
    made.metadata = metadata or {}
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        made.side_files = (tmp_path / "config.json",)
    return made


def tensors(**stored: tuple[str, tuple[int, ...]]) -> list[LazyTensor]:
    return [plain(name, Spec(DTYPES[dtype], shape), NOTHING) for name, (dtype, shape) in stored.items()]


INT8 = tensors(**{"a.weight": ("I8", (8, 64)), "a.weight_scale": ("F32", (8, 1)), "a.bias": ("F32", (8,))})
FP8 = tensors(
    **{"a.weight": ("F8_E4M3", (8, 64)), "b.weight": ("F8_E4M3", (8, 8)), "b.weight_scale": ("F32", (8, 1))}
)


def test_conventions_that_mean_the_same_are_all_named(tmp_path) -> None:
    conventions, read = decipher(INT8, planning(tmp_path))
    assert {"lightx2v", "compressed_tensors"} <= {one.name for one in conventions}
    assert (read["a.weight"].scheme.name, read["a.weight"].spec.shape) == ("int8", (8, 64))
    (only,), _ = decipher(
        INT8, planning(tmp_path, {"quantization_config": {"quant_method": "compressed-tensors"}})
    )
    assert only.name == "compressed_tensors"
    (asked,), _ = decipher(INT8, planning(tmp_path), convention="lightx2v")
    assert asked.name == "lightx2v"


def test_what_one_convention_reads_in_several_ways_is_not_anothers(tmp_path) -> None:
    """Scales of mxfp4 have one shape in rows and in LightX2V's tiles, where mxfp8 has it as well."""
    mx = tensors(**{"a.weight": ("U8", (128, 64)), "a.weight_scale": ("F8_E8M0", (128, 4))})
    with pytest.raises(PlanError, match="as quark or lightx2v stores it, which decode to different values"):
        decipher(mx, planning(tmp_path))
    (named,), read = decipher(mx, planning(tmp_path), convention="lightx2v", scheme="mxfp4")
    assert (named.name, read["a.weight"].scheme.name) == ("lightx2v", "mxfp4")
    (said,), _ = decipher(mx, planning(tmp_path, {"quantization_config": {"quant_method": "quark"}}))
    assert said.name == "quark"


REFUSED = [
    ({"quantization_config": {"quant_method": "aqlm"}}, {}, "'aqlm', which is .*does not decode"),
    ({"quantization_config": ["fp8"]}, {}, r"quantization_config is \['fp8'\], not a JSON object"),
    ({"text_config": {"compression_config": "x"}}, {}, "compression_config is 'x', not a JSON object"),
    (
        {"quantization_config": {"sparsity_config": {"format": "sparse"}}}, {},
        "sparsity_config with format 'sparse'",
    ),
    ({"quantization_config": {"quant_method": "fp8"}}, {"convention": "lightx2v"}, "which is not lightx2v"),
    (None, {"scheme": "fp8"}, "does not store fp8 so|no convention stores"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "asked", "words"), REFUSED)
def test_what_is_refused(config, asked, words, tmp_path) -> None:
    with pytest.raises(PlanError, match=words):
        decipher(INT8, planning(tmp_path, config), **asked)


def test_a_record_and_a_config_that_contradict_each_other(tmp_path) -> None:
    recorded = {"transcode": json.dumps({"convention": "lightx2v", "schemes": ["int8"]})}
    config = {"quantization_config": {"quant_method": "compressed-tensors"}}
    with pytest.raises(PlanError, match="the two contradict each other"):
        decipher(INT8, planning(tmp_path, config, recorded))


def test_a_user_is_asked_where_facts_leave_two_schemes(tmp_path) -> None:
    """One column of scales to 32 columns of codes: a channel, or a group of 32."""
    small = tensors(**{"a.weight": ("F8_E4M3", (8, 32)), "a.weight_scale": ("U8", (8, 1))})
    conventions, read = decipher(small, planning(tmp_path), scheme="mxfp8")
    assert read["a.weight"].scheme.name == "mxfp8"
    assert conventions


def test_nothing_quantized_is_said_with_what_to_do(tmp_path) -> None:
    with pytest.raises(PlanError, match=r"nothing to dequantize: no tensor is quantized"):
        decipher(tensors(**{"a.weight": ("BF16", (8, 8))}), planning(tmp_path))
    with pytest.raises(PlanError, match="1 tensors are F8_E4M3 and have no scale") as error:
        decipher(FP8[:1], planning(tmp_path))
    assert error.value.hint == "cast them instead: cast('bf16')"


def test_a_convention_that_marks_takes_what_is_not_marked_for_plain(tmp_path) -> None:
    with pytest.raises(PlanError, match=r"has no 'a\.comfy_quant', without which comfyui takes it for plain"):
        decipher(INT8[:2], planning(tmp_path), convention="comfyui")
    text = json.dumps({"format": "int8_tensorwise"}).encode()
    spec = Spec(DTYPES["U8"], (len(text),))
    scale = plain("a.weight_scale", Spec(DTYPES["F32"], ()), NOTHING)
    marker = plain("a.comfy_quant", spec, Constant(spec, np.frombuffer(text, np.uint8).tobytes()))
    (first, *_), read = decipher([INT8[0], scale, marker], planning(tmp_path))
    assert (first.name, read["a.weight"].scheme.name) == ("comfyui", "int8")


def test_two_conventions_that_mean_different_values(tmp_path, monkeypatch) -> None:
    """The same names and facts, and nibbles in another order: the user knows whose they are."""
    folder = tmp_path / "formats" / "conventions"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TRANSCODE_FORMATS", str(folder.parent))
    for name, packing in (("high", ", packing: high_first"), ("low", "")):
        (folder / f"{name}.yaml").write_text(
            f"convention: {name}\ntitle: mine\nschemes:\n  int4:\n    parts:\n"
            f"      codes: {{name: '{{name}}.q'{packing}}}\n      scale: {{name: '{{name}}.s'}}\n"
            "files: {}\n"
        )
    packed = tensors(**{"a.weight.q": ("U8", (8, 128)), "a.weight.s": ("BF16", (8, 4))})
    with pytest.raises(PlanError, match="as high or low stores it, which decode to different values"):
        decipher(packed, planning(tmp_path))
    (only,), read = decipher(packed, planning(tmp_path), convention="low")
    assert (only.name, read["a.weight.q"].scheme.name) == ("low", "int4")
