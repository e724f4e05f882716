"""GGUF files through whole runs: read, written, split, in both byte orders, by the package of the format."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import transcode as tc
from tests.laws.gguf_file import gguf, value
from transcode.containers.gguf.types import NUMBERS, TYPES, swaps
from transcode.containers.gguf.writing import lay_out
from transcode.core.dtypes import BLOCKS, DTYPES
from transcode.core.output import Stored, Unit
from transcode.core.spec import Spec
from transcode.core.typed import Typed
from transcode.errors import FormatError, PlanError

random = np.random.default_rng(5)
WEIGHT = random.standard_normal((6, 64)).astype(np.float32)
HALF = random.standard_normal((4, 3, 5)).astype(np.float16)
Q8 = np.concatenate(
    [np.full((12, 1), 0.5, np.float16).view(np.uint8), random.integers(0, 256, (12, 32), np.uint8)], 1
)
WAN = ["self_attn.q.weight", "cross_attn.k.weight", "ffn.0.weight", "modulation"]
METADATA = {
    "general.architecture": ("string", "wan"),
    "wan.blocks": ("uint32", 40),
    "wan.eps": ("float32", 1e-6),
    "tokenizer.ggml.tokens": ("array", ("string", [f"t{n}" for n in range(500)])),
    "general.file_type": ("uint32", 7),
}


def decoded() -> np.ndarray:
    return (Q8[:, 2:].view(np.int8).astype(np.float32) * np.float32(0.5)).reshape(6, 64)


def source(path: Path, order: str = "<", **metadata: tuple) -> Path:
    block = Q8 if order == "<" else np.concatenate([Q8[:, 1::-1], Q8[:, 2:]], 1)
    big = "=" if order == "<" else ">"
    path.write_bytes(
        gguf(
            [
                ("a.weight", 0, WEIGHT.shape, WEIGHT.astype(WEIGHT.dtype.newbyteorder(big)).tobytes()),
                ("q.weight", 8, (6, 64), block.tobytes()),
                ("h", 1, HALF.shape, HALF.astype(HALF.dtype.newbyteorder(big)).tobytes()),
            ],
            {**METADATA, **metadata},
            order=order,
        )
    )
    return path


def test_block_dtypes_are_those_of_the_format():
    assert {name for name in NUMBERS if name in BLOCKS} == set(BLOCKS)
    sizes = pytest.importorskip("gguf").GGML_QUANT_SIZES
    assert {int(kind): (dtype.elements, dtype.bits // 8) for kind, dtype in TYPES.items()} == {
        int(kind): size for kind, size in sizes.items()
    }


@pytest.mark.parametrize("order", "<>")
def test_both_byte_orders_give_the_same(cli, order, tmp_path):
    path = source(tmp_path / "m.gguf", order)
    cli("run", path, tmp_path / "m.safetensors", "--dequantize", "f32")
    found = load_file(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(found["q.weight"], decoded())
    np.testing.assert_array_equal(found["a.weight"], WEIGHT)
    np.testing.assert_array_equal(
        found["h"], HALF.astype(np.float32) if found["h"].dtype == np.float32 else HALF
    )


def test_bytes_of_two_orders_are_not_compared(tmp_path):
    paths = [source(tmp_path / f"{n}.gguf", order) for n, order in enumerate("<>")]
    assert not tc.meta.diff(*paths, tensors=True).changes["tensors"]
    with pytest.raises(FormatError, match=r"a\.weight: is big-endian where .*1\.gguf is not"):
        tc.meta.diff(*paths, data=True)


def test_big_endian_blocks_whose_order_is_not_settled_are_refused(tmp_path):
    assert swaps(BLOCKS["Q5_0"]) is None
    (tmp_path / "m.gguf").write_bytes(gguf([("q", 6, (1, 32), bytes(22))], {}, order=">"))
    with pytest.raises(FormatError, match=r"q: is Q5_0 in a big-endian file"):
        tc.open(tmp_path / "m.gguf")


def test_a_copy_is_the_same(cli, tmp_path):
    """Tensors to the byte, metadata by type; what the file says of itself is made anew."""
    path = source(tmp_path / "m.gguf", **{"general.alignment": ("uint32", 64), "split.no": ("uint16", 0)})
    del path
    raw = gguf([("q.weight", 8, (6, 64), Q8.tobytes()), ("h", 1, HALF.shape, HALF.tobytes())], METADATA)
    (tmp_path / "m.gguf").write_bytes(raw)
    cli("run", tmp_path / "m.gguf", tmp_path / "n.gguf")
    one, other = (tc.open(tmp_path / name) for name in ("m.gguf", "n.gguf"))
    assert {t.name: (t.spec, t.numpy().tobytes()) for t in one} == {
        t.name: (t.spec, t.numpy().tobytes()) for t in other
    }
    before, after = (dict(flow.source.metadata) for flow in (one, other))
    after.pop("transcode")
    assert after.pop("general.quantization_version") == "2"
    assert after == before
    assert all(isinstance(held, Typed) for held in after.values())
    assert bytes(after["tokenizer.ggml.tokens"].raw) == value(*METADATA["tokenizer.ggml.tokens"])[4:]


def test_blocks_do_not_become_safetensors_unless_they_are_decoded(cli, tmp_path):
    said = cli("run", source(tmp_path / "m.gguf"), tmp_path / "m.safetensors", code=2).err
    assert "q.weight: its dtype Q8_0 is none that safetensors can name; decode it: --dequantize" in said
    assert not (tmp_path / "m.safetensors").exists()


def test_metadata_becomes_text_and_what_is_long_is_said_to_stay_behind(cli, tmp_path):
    said = cli("run", source(tmp_path / "m.gguf"), tmp_path / "m.safetensors", "--dequantize", "bf16")
    assert "metadata tokenizer.ggml.tokens: only short values become text" in said.out + said.err
    held = dict(tc.open(tmp_path / "m.safetensors").source.metadata)
    held.pop("transcode")
    assert held == {"format": "pt", "general.architecture": "wan", "wan.blocks": "40", "wan.eps": "1e-06"}


def test_safetensors_become_gguf_with_what_is_said_of_them(cli, tmp_path):
    save_file({"w": WEIGHT, "h": HALF}, tmp_path / "m.safetensors", {"format": "pt", "author": "me"})
    cli(
        "run", tmp_path / "m.safetensors", tmp_path / "m.gguf", "--metadata", "general.architecture=wan",
        "--metadata", "wan.blocks:uint32=40", "--metadata", "wan.x:bool=true",
    )  # fmt: skip
    held = tc.open(tmp_path / "m.gguf").source.metadata
    kinds = {key: (one.kind, str(one)) for key, one in held.items() if key != "transcode"}
    assert kinds == {
        "general.architecture": ("string", "wan"), "author": ("string", "me"), "wan.blocks": ("uint32", "40"),
        "wan.x": ("bool", "true"), "general.file_type": ("uint32", "0"),
    }  # fmt: skip
    assert next(iter(held)) == "general.architecture"


def test_image_models_are_called_as_comfyui_gguf_knows_them(tmp_path):
    """Wan's own names, and Diffusers', of which ComfyUI-GGUF has no word; what the user says wins."""
    names = [f"blocks.{i}.{part}" for i in range(2) for part in WAN]
    save_file(dict.fromkeys(names, WEIGHT), tmp_path / "m.safetensors")
    tc.open(tmp_path / "m.safetensors") | tc.write(tmp_path / "wan.gguf")
    assert tc.open(tmp_path / "wan.gguf").metadata["general.architecture"] == "wan"
    said = {"general.architecture": "mine"}
    tc.open(tmp_path / "m.safetensors") | tc.write(tmp_path / "mine.gguf", metadata=said)
    assert tc.open(tmp_path / "mine.gguf").metadata["general.architecture"] == "mine"
    tc.open(tmp_path / "m.safetensors") | tc.convert("diffusers") | tc.write(tmp_path / "d.gguf")
    assert "general.architecture" not in tc.open(tmp_path / "d.gguf").metadata


@pytest.mark.parametrize(
    ("said", "why"), [("a:uint8=256", "'256' is no uint8"), ("a:bool=1", "is not true or false")]
)
def test_values_that_are_none_of_their_type_are_refused(cli, said, why, tmp_path):
    save_file({"w": WEIGHT}, tmp_path / "m.safetensors")
    assert why in cli("run", tmp_path / "m.safetensors", tmp_path / "m.gguf", "--metadata", said, code=2).err


def test_what_readers_will_miss_is_said(cli, tmp_path):
    save_file({"w" * 64: WEIGHT, "v": WEIGHT.reshape(1, 2, 3, 4, 16)}, tmp_path / "m.safetensors")
    said = cli("run", tmp_path / "m.safetensors", tmp_path / "m.gguf").err
    assert "no general.architecture" in said
    assert "1 names are longer than the 63 bytes" in said
    assert "1 tensors have more than the 4 dimensions" in said
    assert tc.open(tmp_path / "m.gguf")["v"].shape == (1, 2, 3, 4, 16)


def test_what_gguf_cannot_hold_is_refused(cli, tmp_path):
    save_file({"w": np.zeros((2, 2), np.uint8)}, tmp_path / "m.safetensors")
    assert (
        "w: its dtype U8 is none that GGUF has"
        in cli("run", tmp_path / "m.safetensors", tmp_path / "m.gguf", code=2).err
    )
    save_file({"blocks.0.a.weight": WEIGHT}, tmp_path / "m.safetensors")
    words = "run", tmp_path / "m.safetensors", tmp_path / "m.gguf", "--scheme", "int8"
    assert "convention gguf has no spelling for scheme 'int8'" in cli(*words, code=2).err
    said = cli(*words, "--convention", "neutral", code=2).err
    assert "would be GGUF, and neutral is for programs that read safetensors" in said


def test_parts_beside_each_other_have_no_place():
    """Conventions that have such parts are refused before: this is what holds whatever they say."""
    for role, dtype in (("scale", "F32"), ("codes", "I8")):
        unit = Unit(0, (Stored("a.weight", role, Spec(DTYPES[dtype], (2, 32))),))
        with pytest.raises(PlanError, match=f"its {role} have no place in GGUF"):
            lay_out("m.gguf", [unit], {}, None, "m.gguf")


def test_split_files(cli, tmp_path):
    path = source(tmp_path / "m.gguf")
    cli("run", path, tmp_path / "s", "--convention", "gguf", "--max-shard-size", "1600B")
    names = sorted(one.name for one in (tmp_path / "s").iterdir())
    assert names == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    parts = [tc.meta.get(tmp_path / "s" / name) for name in names]
    for number, held in enumerate(parts):
        assert (held["split.no"], held["split.count"], held["split.tensors.count"]) == (str(number), "2", "3")
    assert parts[0]["general.architecture"] == "wan"
    assert "general.architecture" not in parts[1]
    whole, cut = tc.open(path), tc.open(tmp_path / "s")
    assert {t.name: t.numpy().tobytes() for t in whole} == {t.name: t.numpy().tobytes() for t in cut}
    assert not any(key.startswith("split.") for key in cut.source.metadata)
    (tmp_path / "s" / names[0]).unlink()
    with pytest.raises(FormatError, match="00001"):
        tc.open(tmp_path / "s")


def test_other_cuts_are_refused(tmp_path):
    save_file({f"blocks.{n}.w": WEIGHT for n in range(2)} | {"h": HALF}, tmp_path / "m.safetensors")
    flow = tc.open(tmp_path / "m.safetensors")
    with pytest.raises(PlanError, match="is no name of one of several GGUF files"):
        flow.plan(tc.write(tmp_path / "out", convention="gguf", layout="by_block"))


def test_metadata_is_read_and_compared(cli, tmp_path):
    path = source(tmp_path / "m.gguf")
    assert json.loads(tc.meta.get(path, "tokenizer.ggml.tokens")) == [f"t{n}" for n in range(500)]
    assert cli("meta", "get", path, "wan.blocks").out.strip() == "wan.blocks: 40"
    assert "tokenizer.ggml.tokens: [500 x string]" in cli("meta", "get", path).out
    other = source(
        tmp_path / "o.gguf",
        **{
            "wan.blocks": ("int32", 40), "wan.eps": ("float32", 1e-5),
            "tokenizer.ggml.tokens": ("array", ("string", [f"t{n}" for n in range(499)] + ["x"])),
        },
    )  # fmt: skip
    changes = {one.key: one for one in tc.meta.diff(path, other, data=True).changes["metadata"]}
    assert set(changes) == {"wan.blocks", "wan.eps", "tokenizer.ggml.tokens"}
    assert (changes["wan.blocks"].a, changes["wan.blocks"].b) == ("uint32 40", "int32 40")
    assert changes["tokenizer.ggml.tokens"].inside == ('[499]: "t499" -> "x"',)


def test_scales_that_runtimes_multiply_with_are_not_passed_over(cli, tmp_path):
    raw = gguf([("q.weight", 8, (6, 64), Q8.tobytes()), ("q.scale", 0, (1,), struct.pack("<f", 2))], METADATA)
    (tmp_path / "m.gguf").write_bytes(raw)
    said = cli("run", tmp_path / "m.gguf", tmp_path / "m.safetensors", "--dequantize", "f32", code=2).err
    assert "q.weight: 'q.scale' stands beside it" in said


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("shape", [(6, 64), (384,), (2, 3, 4, 16), (3, 128)])
def test_tensors_under_other_shapes_are_decoded(cli, shape, workers, tmp_path):
    """Rows that are no whole blocks, as those of ComfyUI-GGUF's reshaped tensors; vectors in blocks."""
    held = {"comfy.gguf.orig_shape.q": ("array", ("int32", list(shape)))}
    (tmp_path / "m.gguf").write_bytes(gguf([("q", 8, (6, 64), Q8.tobytes())], held))
    cli("run", tmp_path / "m.gguf", tmp_path / "m.safetensors", "--dequantize", "f32", "-w", workers)
    np.testing.assert_array_equal(load_file(tmp_path / "m.safetensors")["q"], decoded().reshape(shape))


def test_the_package_of_the_format_reads_what_is_written(cli, tmp_path):
    package = pytest.importorskip("gguf")
    cli("run", source(tmp_path / "m.gguf"), tmp_path / "n.gguf")
    reader = package.GGUFReader(tmp_path / "n.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    for key, (kind, of) in METADATA.items():
        wanted = of[1] if kind == "array" else of
        assert fields[key] == (pytest.approx(wanted) if kind == "float32" else wanted), key
    found = {one.name: one for one in reader.tensors}
    np.testing.assert_array_equal(found["a.weight"].data, WEIGHT)
    np.testing.assert_array_equal(found["q.weight"].data.reshape(12, 34), Q8)
    np.testing.assert_array_equal(found["h"].data, HALF)
