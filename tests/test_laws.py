"""Laws of whole conversions: what must change nothing, and what must commute."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import transcode as tc
from transcode import catalog, schemes

ORDER = [
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16",
    "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
]  # fmt: skip
ITEM = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}

STAGES = {
    "copy": [],
    "cast": [tc.cast("F16", saturate=True)],
    "int8 tensor": [tc.quantize("int8", granularity="tensor")],
    "int8 group": [tc.quantize("int8", granularity="group", group_size=32)],
    "int8 zero point": [tc.quantize("int8", symmetric=False)],
    "int8 group zero point": [tc.quantize("int8", granularity="group", group_size=48, symmetric=False)],
    "int8 f32 scale": [tc.quantize("int8", scale_dtype="F32")],
    "fp8 e5m2": [tc.quantize("fp8", format="e5m2", scale_dtype="BF16")],
    "fp8 tensor": [tc.quantize("fp8", granularity="tensor")],
    "fp8 block": [tc.quantize("fp8", granularity="block")],
    "fp8 small block": [tc.quantize("fp8", granularity="block", block=[48, 32], scale_dtype="F16")],
    "cast, quantize": [tc.cast("BF16"), tc.quantize("int8", granularity="tensor", keep_dtype="F32")],
}


FITTING = ("fits", "tall", "odd")
"""Modules whose shapes every scheme and consumer takes; all but mxfp6 and int4; all but those and nvfp4."""

TAKEN = {
    "mxfp8": FITTING, "mxfp4": FITTING, "nvfp4": FITTING[:2], "mxfp6": FITTING[:1], "int4": FITTING[:1],
    "w4a8": FITTING, "w6a8": FITTING,  # groups of 16 columns
    "nvfp4_awq": FITTING[:2],
    "convrot_w4a4": FITTING[:1], "awq_w4a16": FITTING[:1], "affine": FITTING[:1],  # 64 columns
    "hqq": FITTING[:1],
}  # fmt: skip
"""Modules that the schemes of blocks quantize under the conventions of these laws; the others take all."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Matrices of every float dtype with ragged edges, stacks, and everything that is not quantized.

    The widths of ``proj`` and ``wide`` fit no block; those of :data:`FITTING` do. 160 columns are ten scales
    of 16 and five of 32, which the swizzled layout pads; 288 rows are three of its tiles, 131 two.
    """
    draw = torch.Generator().manual_seed(3)

    def values(*shape: int) -> torch.Tensor:
        found = torch.randn(*shape, generator=draw) * torch.logspace(-3, 1, shape[-1])
        return found.reshape(shape)

    tensors = {}
    for number, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16, torch.float64)):
        tensors[f"layers.{number}.proj.weight"] = values(131, 200).to(dtype)
        tensors[f"layers.{number}.wide.weight"] = values(3, 1000).to(dtype)
        tensors[f"layers.{number}.proj.bias"] = values(131).to(dtype)
        tensors[f"layers.{number}.fits.weight"] = values(256, 384).to(dtype)
        tensors[f"layers.{number}.tall.weight"] = values(288, 160).to(dtype)
        tensors[f"layers.{number}.odd.weight"] = values(131, 160).to(dtype)
    tensors["layers.0.proj.weight"][7] = 0
    tensors["layers.1.proj.weight"][:130] = 0
    tensors["layers.0.wide.weight"][1] *= 1e-36
    tensors["experts.stack.weight"] = values(5, 70, 96).bfloat16()
    tensors["conv.weight"] = values(4, 3, 2, 8).bfloat16()
    tensors["tall.weight"] = values(300, 1)
    tensors["empty.weight"] = torch.empty(0, 8)
    tensors["scalar"] = torch.tensor(3.0)
    tensors["count"] = torch.tensor([1, -2, 3])
    tensors["mask"] = torch.tensor([True, False, True])
    path = tmp_path_factory.mktemp("mixed") / "mixed.safetensors"
    safetensors.torch.save_file(tensors, path, {"author": "me"})
    return path


def through(source: Path, stages, out: Path, *, mmap: bool = True, **options) -> bytes:
    """Write a file; returns its bytes. What the stages name must have happened."""
    flow = tc.open(source, mmap=mmap)
    for stage in stages:
        flow = flow | stage
    scheme = getattr(stages[-1], "scheme", None) if stages else None
    if scheme is not None and scheme not in catalog.convention("lightx2v").schemes:
        options["convention"] = next(
            n for n in catalog.conventions() if scheme in catalog.convention(n).schemes
        )
    elif any(getattr(stage, "options", ()) for stage in stages):
        options.setdefault("convention", "neutral")  # the others read some options only
    report = flow | tc.write(out, **options)
    touched(stages, report.plan.tensors)
    return out.read_bytes()


def touched(stages, tensors) -> None:
    """A law about a stage that changes nothing holds for any code: look that each of them did its work."""
    kinds = [stage.kind for stage in stages]
    quantized = {tensor.name for tensor in tensors if tensor.scheme is not None}
    assert bool(quantized) == ("quantize" in kinds)
    if "cast" in kinds:
        assert any(event.kind == "cast" for tensor in tensors for event in tensor.fate)
    for stage in stages:
        if stage.kind == "quantize":
            assert {t.scheme.name for t in tensors if t.scheme is not None} == {stage.scheme}
            if any(name.startswith("layers.0.fits") for name in (tensor.name for tensor in tensors)):
                modules = TAKEN.get(stage.scheme, (*FITTING, "proj", "wide"))
                wanted = {f"layers.{i}.{module}.weight" for i in range(4) for module in modules}
                assert {name for name in quantized if name.startswith("layers.")} == wanted


PARTED = [name for name in schemes.SCHEMES if schemes.block(name) is None]
"""Schemes that a safetensors file can hold; the others are gone through in ``tests/schemes/test_ggml.py``."""

DEFAULTS = {f"{name}, default": [tc.quantize(name)] for name in PARTED}


@pytest.mark.parametrize("stages", [*STAGES.values(), *DEFAULTS.values()], ids=[*STAGES, *DEFAULTS])
def test_workers_tiles_and_maps_change_no_byte(stages, mixed, tmp_path):
    first = through(mixed, stages, tmp_path / "0.safetensors", workers=1)
    ways = [
        {"workers": 8, "tile": 1},
        {"workers": 2, "tile": 3000},
        {"workers": 1, "tile": 20_000, "mmap": False},
        {"workers": 8, "memory": "1GB", "drop_cache": True},
        {},
    ]
    for number, way in enumerate(ways, 1):
        assert through(mixed, stages, tmp_path / f"{number}.safetensors", **way) == first, way


@pytest.mark.parametrize("stages", [*STAGES.values(), *DEFAULTS.values()], ids=[*STAGES, *DEFAULTS])
def test_outputs_are_what_the_reference_library_reads(stages, mixed, tmp_path):
    out = tmp_path / "out.safetensors"
    raw = through(mixed, stages, out)
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert (8 + length) % 4096 == 0
    metadata = header.pop("__metadata__")
    assert metadata["format"] == "pt"
    assert metadata["author"] == "me"
    at = 0
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert begin == at
        assert begin % ITEM.get(entry["dtype"], 1) == 0, name
        at = end
    loaded = load_file(out)
    assert list(header) == order_of_the_reference(loaded, header, tmp_path)
    plan = json.loads(raw[8 : 8 + length])
    with safe_open(out, "pt") as opened:
        assert set(opened.keys()) == set(loaded) == set(header)
        assert opened.metadata() == plan["__metadata__"]
        for name in opened.keys():  # noqa: SIM118  it is no mapping
            assert list(opened.get_slice(name).get_shape()) == header[name]["shape"]
            assert opened.get_slice(name).get_dtype() == header[name]["dtype"]


def order_of_the_reference(tensors, header, tmp_path) -> list[str]:
    if any(entry["dtype"] in ("F8_E8M0", "F4") for entry in header.values()):
        # The reference cannot write these from torch; but this is how it sorts (``Dtype`` of tensor.rs).
        return sorted(header, key=lambda name: (-ORDER.index(header[name]["dtype"]), name))
    path = tmp_path / "again.safetensors"
    safetensors.torch.save_file(tensors, path)
    raw = path.read_bytes()
    return list(json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]]))


def test_tensors_that_stay_keep_every_bit(mixed, tmp_path):
    tc.open(mixed) | tc.quantize("int8", exclude=["layers.1"]) | tc.write(tmp_path / "o.safetensors")
    before, after = load_file(mixed), load_file(tmp_path / "o.safetensors")
    same = [name for name in before if after[name].dtype == before[name].dtype]
    assert len(same) >= 11
    for name in same:
        assert before[name].shape == after[name].shape
        assert torch.equal(before[name].flatten().view(torch.uint8), after[name].flatten().view(torch.uint8))


@pytest.mark.parametrize("stage", [tc.quantize("int8"), tc.quantize("fp8", granularity="block")])
def test_rename_commutes_with_quantize(stage, wan, tmp_path):
    rename = tc.rename([(r"^blocks\.(\d+)\.self_attn\.", r"blocks.\1.attn1."), ("ffn", "mlp")])
    through(wan, [rename, stage], tmp_path / "a.safetensors")
    through(wan, [stage, rename], tmp_path / "b.safetensors")
    first, second = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert set(first) == set(second)
    assert "blocks.0.mlp.0.weight_scale" in first
    for name in first:
        assert torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8)), name


def test_quantize_then_drop_equals_drop_then_quantize(wan, tmp_path):
    through(wan, [tc.drop("blocks.0"), tc.quantize("int8")], tmp_path / "a.safetensors")
    through(wan, [tc.quantize("int8"), tc.drop("blocks.0")], tmp_path / "b.safetensors")
    first, second = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert set(first) == set(second)
    assert "blocks.1.ffn.0.weight_scale" in first
    assert not any(name.startswith("blocks.0.") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_second_run_writes_the_same_bytes(wan, tmp_path, digests):
    flow = tc.open(wan) | tc.quantize("fp8", granularity="tensor")
    flow | tc.write(tmp_path / "a", layout="by_block")
    report = flow | tc.write(tmp_path / "b", layout="by_block")
    touched(flow.steps, report.plan.tensors)
    assert len(digests(tmp_path / "a")) >= 3
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_shards_and_one_file_of_one_model_give_the_same_tensors(wan, tmp_path):
    through(wan, [], tmp_path / "merged.safetensors")
    with_shards = through(wan, [tc.quantize("int8")], tmp_path / "a.safetensors")
    merged = through(tmp_path / "merged.safetensors", [tc.quantize("int8")], tmp_path / "b.safetensors")
    first, second = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert set(first) == set(second)
    assert "blocks.0.ffn.0.weight_scale" in first
    assert all(torch.equal(first[name], second[name]) for name in first)
    # but for the record of how it was made, which names the file before it
    begin = 8 + struct.unpack("<Q", with_shards[:8])[0]
    assert with_shards[begin:] == merged[8 + struct.unpack("<Q", merged[:8])[0] :]


LAYOUTS = {
    "by_block": {"layout": "by_block"},
    "chunked by size": {"max_shard_size": "100kB"},
    "chunked by number": {"max_tensors": 13},
    "single_file": {"layout": "single_file"},
    "plain by size": {"max_shard_size": "100kB", "convention": "plain"},
}


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_hold_the_same_tensors_and_their_index_is_true(options, wan, tmp_path):
    stages = [] if options.get("convention") == "plain" else [tc.quantize("int8")]
    through(wan, stages, tmp_path / "one.safetensors")
    flow = tc.open(wan)
    for stage in stages:
        flow = flow | stage
    flow | tc.write(tmp_path / "out", **options)
    expected = load_file(tmp_path / "one.safetensors")
    files = {path.name: load_file(path) for path in (tmp_path / "out").glob("*.safetensors")}
    held = {name: (file, value) for file, tensors in files.items() for name, value in tensors.items()}
    assert sum(map(len, files.values())) == len(expected)
    assert held.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(held[name][1].view(torch.uint8), value.view(torch.uint8)), name
    assert ((tmp_path / "out" / "config.json").read_bytes()) == (wan / "config.json").read_bytes()
    indexes = list((tmp_path / "out").glob("*.index.json"))
    assert len(indexes) == (len(files) > 1)
    for index in indexes:
        text = index.read_text()
        found = json.loads(text)
        assert found["weight_map"] == {name: file for name, (file, _) in held.items()}
        sizes = sum((tmp_path / "out" / file).stat().st_size for file in files)
        tensors = sum(value.nbytes for value in expected.values())
        plain = options.get("convention") == "plain"
        # LightX2V adds up files, everybody else tensors: FORMATS of their writers
        assert found["metadata"]["total_size"] == (tensors if plain else sizes)
        if plain:
            assert text == json.dumps(found, indent=2, sort_keys=True) + "\n"
            assert index.name == "diffusion_pytorch_model.safetensors.index.json"
            assert sorted(files) == [
                f"diffusion_pytorch_model-{i:05d}-of-{len(files):05d}.safetensors"
                for i in range(1, len(files) + 1)
            ]
    if options.get("layout") == "by_block":
        assert sorted(files) == ["block_0.safetensors", "block_1.safetensors", "non_block.safetensors"]
        for name in held:
            number = name.split(".")[1] if name.startswith("blocks.") else None
            assert held[name][0] == (
                "non_block.safetensors" if number is None else f"block_{number}.safetensors"
            )
    if "max_shard_size" in options:
        assert len(files) > 2
        for tensors in files.values():
            assert sum(value.nbytes for value in tensors.values()) <= 100_000
    if "max_tensors" in options:
        assert max(map(len, files.values())) <= 13


def test_a_written_folder_is_read_again_as_the_same_model(wan, tmp_path):
    tc.open(wan) | tc.write(tmp_path / "a", convention="plain", max_shard_size="50kB")
    tc.open(tmp_path / "a") | tc.write(tmp_path / "b.safetensors")
    tc.open(wan) | tc.write(tmp_path / "c.safetensors")
    first, second = load_file(tmp_path / "b.safetensors"), load_file(tmp_path / "c.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_what_is_sliced_is_what_is_written(scheme, wan, tmp_path):
    flow = tc.open(wan) | tc.quantize(scheme)
    flow | tc.write(tmp_path / "o.safetensors")
    written = load_file(tmp_path / "o.safetensors")
    tensor = flow["blocks.1.ffn.2.weight"]
    codes, scale = tensor.torch("codes"), tensor.torch("scale")
    assert torch.equal(codes.view(torch.uint8), written["blocks.1.ffn.2.weight"].view(torch.uint8))
    assert scale.dtype == written["blocks.1.ffn.2.weight_scale"].dtype
    assert torch.equal(scale, written["blocks.1.ffn.2.weight_scale"])
    assert np.array_equal(tensor.numpy("codes").view(np.uint8), codes.view(torch.uint8).numpy())
