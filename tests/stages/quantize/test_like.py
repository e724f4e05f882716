"""Header and types of another GGUF file, which is written by hand here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc
from tests.laws.gguf_file import gguf
from transcode.cli import main
from transcode.containers.gguf.types import NUMBERS, TYPES
from transcode.errors import FormatError, PlanError, RecipeError
from transcode.recipe.read import parse

random = np.random.default_rng(3)
SHAPES = {
    "blocks.0.self_attn.q.weight": (64, 256), "blocks.0.self_attn.v.weight": (64, 256),
    "blocks.0.ffn.0.weight": (96, 256), "blocks.0.norm3.weight": (256,), "head.head.weight": (8, 64),
    "patch_embedding.weight": (64, 2, 1, 2, 2), "ids": (3,),
}  # fmt: skip
TYPED = {
    "blocks.0.self_attn.q.weight": "Q4_K", "blocks.0.self_attn.v.weight": "Q8_0",
    "blocks.0.ffn.0.weight": "F16", "blocks.0.norm3.weight": "F32", "head.head.weight": "BF16",
    "patch_embedding.weight": "F32", "ids": "I32",
}  # fmt: skip
HEADER: dict[str, tuple[str, Any]] = {
    "general.architecture": ("string", "wan"), "general.name": ("string", "another"),
    "general.file_type": ("uint32", 15), "wan.blocks": ("uint32", 1),
    "quantize.imatrix.file": ("string", "x"),
    "tokenizer.ggml.tokens": ("array", ("string", ["a", "b"])),
}  # fmt: skip


def other(
    path: Path, types: Mapping[str, str] = TYPED, shapes: Mapping[str, tuple[int, ...]] = SHAPES
) -> Path:
    tensors = []
    for name, kind in types.items():
        dtype = TYPES[NUMBERS[kind]]
        size = int(np.prod(shapes[name])) // dtype.elements * dtype.bits // 8
        tensors.append((name, NUMBERS[kind], shapes[name], bytes(size)))
    path.write_bytes(gguf(tensors, HEADER))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("like") / "model.safetensors"
    tensors = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    save_file({**tensors, "ids": np.arange(3, dtype=np.int32)}, path)
    return path


def types_of(path: Path) -> dict[str, str]:
    return {one.name: one.spec.dtype.name for one in tc.open(path)}


def test_header_and_types(source: Path, tmp_path: Path) -> None:
    like, out = other(tmp_path / "other.gguf"), tmp_path / "out.gguf"
    report = tc.open(source) | tc.quantize(like=like) | tc.write(out)
    made = tc.open(out)
    assert types_of(out) == TYPED
    taken = {"general.architecture", "general.file_type", "wan.blocks", "tokenizer.ggml.tokens"}
    said = tc.open(like).metadata
    assert {key: made.metadata[key] for key in taken} == {key: said[key] for key in taken}
    assert made.metadata.keys() - taken == {"transcode", "general.quantization_version"}
    assert "like other.gguf: 2 F32, 1 F16, 1 Q4_K, 1 Q8_0, 1 BF16; 1 other" in map(str, report.plan.log.notes)

    def patterns(action: str) -> list[tuple[str, str]]:
        return [(name, action) for name, kind in TYPED.items() if kind == action.upper()]

    alone = tmp_path / "alone.gguf"
    steps = tc.cast("f16", only=["*ffn*"]) | tc.cast("bf16", only=["head*"])
    rules = [*patterns("q4_k"), *patterns("q8_0"), ("*", "keep")]
    tc.open(source) | steps | tc.quantize("q4_k", overrides=rules) | tc.write(alone)
    for name in TYPED:
        assert made[name].numpy().tobytes() == tc.open(alone)[name].numpy().tobytes(), name


def test_with_a_scheme_the_header_alone(source: Path, tmp_path: Path) -> None:
    like, out = other(tmp_path / "other.gguf"), tmp_path / "out.gguf"
    tc.open(source) | tc.quantize("q5_k", like=like) | tc.write(out)
    assert types_of(out)["blocks.0.self_attn.q.weight"] == "Q5_K"
    assert tc.open(out).metadata["wan.blocks"] == "1"
    assert tc.open(out).metadata["general.file_type"] == "16"  # MOSTLY_Q5_K_S, not what the other says


def test_overrides_and_exclude_win(source: Path, tmp_path: Path) -> None:
    like = other(tmp_path / "other.gguf", {**TYPED, "blocks.0.self_attn.q.weight": "IQ1_M"})
    out = tmp_path / "out.gguf"
    choices: dict[str, Any] = {"overrides": [("*.q", "q6_k")], "exclude": ["*ffn*"]}
    with pytest.raises(PlanError, match=r"self_attn\.q\.weight: is IQ1_M in other\.gguf.*not written"):
        (tc.open(source) | tc.quantize(like=like)).plan(tc.write(out))
    tc.open(source) | tc.quantize(like=like, **choices) | tc.write(out)
    assert types_of(out) == {**TYPED, "blocks.0.self_attn.q.weight": "Q6_K", "blocks.0.ffn.0.weight": "F32"}


def test_what_a_gguf_source_says_of_its_model_goes(source: Path, tmp_path: Path) -> None:
    like, first, out = other(tmp_path / "other.gguf"), tmp_path / "first.gguf", tmp_path / "out.gguf"
    said = {"general.architecture": "flux", "flux.depth:uint32": "19", "general.name": "mine"}
    tc.open(source) | tc.quantize("q8_0") | tc.write(first, metadata=said)
    tc.open(first) | tc.quantize(like=like) | tc.write(out)
    made = tc.open(out).metadata
    assert "flux.depth" not in made
    assert made["general.architecture"] == "wan"
    assert made["general.name"] == "mine"
    assert types_of(out) == TYPED


def test_nvfp4_with_a_scale_of_the_tensor(tmp_path: Path) -> None:
    source, like, out = (tmp_path / name for name in ("model.safetensors", "other.gguf", "out.gguf"))
    shapes = {"blk.0.ffn_up.weight": (64, 128), "blk.1.ffn_up.weight": (64, 128)}
    save_file(
        {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}, source
    )
    scale = {"blk.0.ffn_up.scale": (1,)}
    types = {**dict.fromkeys(shapes, "NVFP4"), "blk.0.ffn_up.scale": "F32"}
    other(like, types, {**shapes, **scale})
    tc.open(source) | tc.quantize(like=like) | tc.write(out)
    assert types_of(out) == types


@pytest.mark.parametrize(
    ("types", "shapes", "message"),
    [
        ({**TYPED, "more.weight": "F32"}, {"more.weight": (4, 4)}, r"more\.weight: is in other\.gguf"),
        ({"ids": "I32"}, {}, r"blocks\.0\.ffn\.0\.weight: is not in other\.gguf.*and so 5 more"),
        (TYPED, {"head.head.weight": (4, 128)}, r"head\.head\.weight: is \[8, 64\], and \[4, 128\] in other"),
        ({**TYPED, "ids": "F32"}, {}, r"ids: is F32 in other\.gguf.*it is I32 in the source"),
        ({**TYPED, "blocks.0.norm3.weight": "I8"}, {}, r"norm3\.weight: is I8 in other\.gguf"),
    ],
)  # fmt: skip
def test_another_model_is_refused(
    source: Path, tmp_path: Path, types: dict[str, str], shapes: dict[str, Any], message: str
) -> None:
    like = other(tmp_path / "other.gguf", types, {**SHAPES, **shapes})
    with pytest.raises(PlanError, match=message):
        (tc.open(source) | tc.quantize(like=like)).plan(tc.write(tmp_path / "out.gguf"))
    if shapes != {"head.head.weight": (4, 128)}:
        return
    with pytest.raises(PlanError, match=message):
        (tc.open(source) | tc.quantize("q8_0", like=like)).plan(tc.write(tmp_path / "out.gguf"))


def test_names_that_only_one_has_are_allowed(source: Path, tmp_path: Path) -> None:
    types = {name: kind for name, kind in TYPED.items() if "ffn" not in name} | {"more.weight": "F32"}
    like = other(tmp_path / "other.gguf", types, {**SHAPES, "more.weight": (4, 4)})
    plan = (tc.open(source) | tc.quantize(like=like)).plan(
        tc.write(tmp_path / "out.gguf", allow_unmatched=True)
    )
    warnings = "\n".join(map(str, plan.log.warnings))
    assert "blocks.0.ffn.0.weight: is not in other.gguf" in warnings
    assert "more.weight: is in other.gguf" in warnings
    kinds = {part.name: part.spec.dtype.name for file in plan.files for part in file.places}
    assert kinds["blocks.0.ffn.0.weight"] == "F32"
    assert kinds["blocks.0.self_attn.v.weight"] == "Q8_0"


def test_what_is_no_header_is_refused(source: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(gguf([], {"general.name": ("string", "x")}))
    for path in (bare, source):
        with pytest.raises(FormatError, match=r"has no general\.architecture"):
            (tc.open(source) | tc.quantize(like=path)).plan(tc.write(tmp_path / "out.gguf"))


def test_idle_options_are_refused(source: Path, tmp_path: Path) -> None:
    like = other(tmp_path / "other.gguf")
    for options in ({"include": ["*"]}, {"targets": ["*"]}, {"keep_dtype": "bf16"}, {"group_size": 32}):
        with pytest.raises(RecipeError, match="does nothing without a scheme"):
            tc.quantize(like=like, **options)
    with pytest.raises(RecipeError, match="nothing is given"):
        tc.quantize()
    with pytest.raises(PlanError, match=r"like other\.gguf: .* the output is for comfyui"):
        (tc.open(source) | tc.quantize(like=like)).plan(tc.write(tmp_path / "out", convention="comfyui"))


def test_as_a_recipe_and_on_the_command_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like, out = other(tmp_path / "other.gguf"), tmp_path / "out"
    (step,) = parse(f"steps: [quantize: {{like: {like}, overrides: [['*.q', q6_k]]}}]").steps
    assert step == tc.quantize(like=like, overrides=[("*.q", "q6_k")])
    assert step.config() == {"like": str(like), "overrides": [["*.q", "q6_k"]]}
    assert step.recorded()["like"] == "other.gguf"
    arguments = ["run", str(source), str(out), "--like", str(like), "--override", "*.q=q6_k", "--json"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert [file["name"] for file in told["files"]] == ["model.gguf"]
    assert types_of(out / "model.gguf") == {**TYPED, "blocks.0.self_attn.q.weight": "Q6_K"}
