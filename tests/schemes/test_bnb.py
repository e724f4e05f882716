"""What bitsandbytes makes: equal to a formula of its tables, and to bitsandbytes itself, both ways."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import TranscodeError
from transcode.schemes import make

from .helpers import decode, encode, spec_of

NAME = "model.layers.0.mlp.up_proj"
KINDS = [("nf4", False), ("nf4", True), ("bnb_fp4", False), ("bnb_fp4", True)]
SHAPES = [(96, 320), (40, 72)]
"""Whole blocks to a row, and blocks over the ends of rows."""
FP4 = np.float32([0, 1 / 16, 8, 12, 4, 6, 2, 3, 0, -1 / 16, -8, -12, -4, -6, -2, -3]) / np.float32(12)


def drawn(shape, dtype=torch.bfloat16):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.05).to(dtype)


def folder(tmp_path, weight):
    (tmp_path / "m").mkdir()
    save_file({f"{NAME}.weight": weight}, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "toy"}')
    return tmp_path / "m"


def plain(source, tmp_path, dtype="F32"):
    tc.open(source) | tc.dequantize(dtype) | tc.write(tmp_path / f"plain_{source.name}")
    return load_file(tmp_path / f"plain_{source.name}" / "model.safetensors")[f"{NAME}.weight"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("scheme", "double"), KINDS)
def test_codes_are_nearest_and_values_are_number_times_scale(scheme, double, shape):
    values = drawn(shape, torch.float32).numpy()
    made = make(scheme, double_quant=double)
    parts = encode(made, values)
    numbers = FP4 if scheme == "bnb_fp4" else parts["table"]
    np.testing.assert_array_equal(parts["table"], numbers)
    flat = values.reshape(-1).astype(np.float64)
    peaks = np.maximum.reduceat(np.abs(flat), np.arange(0, flat.size, 64))
    scales = parts["scale"].astype(np.float32)
    if double:
        state = json.loads(bytes(parts[f"{scheme}_state"]))
        offset = np.float32(state["nested_offset"])
        assert offset == np.float32(peaks.mean())
        less = (peaks.astype(np.float32) - offset).astype(np.float64)
        share = (
            less
            / np.abs(np.pad(less, (0, -less.size % 256)).reshape(-1, 256)).max(1).repeat(256)[: less.size]
        )
        near = np.abs(share[:, None] - parts["nested_table"].astype(np.float64)).min(1)
        own = np.abs(share - parts["nested_table"][parts["scale"]])
        assert (own <= near + 1e-7).all()
        nested = parts["nested_scale"].repeat(256)[: less.size]
        scales = parts["nested_table"][parts["scale"]] * nested + offset
    codes = np.stack([parts["codes"] >> 4, parts["codes"] & 15], -1).reshape(-1)
    share = flat / peaks.repeat(64)[: flat.size]
    gap = np.abs(share[:, None] - numbers.astype(np.float64))
    assert (np.take_along_axis(gap, codes[:, None].astype(int), 1)[:, 0] <= gap.min(1) + 1e-7).all()
    wanted = numbers[codes] * scales.repeat(64)[: flat.size]
    out = decode(made, parts, spec_of(values))
    np.testing.assert_array_equal(out.reshape(-1), wanted)


def test_rows_of_8_bits():
    values = drawn((40, 72), torch.float16).numpy()
    values[3] = 0
    parts = encode(make("llm_int8"), values)
    peaks = np.abs(values.astype(np.float32)).max(1)
    np.testing.assert_array_equal(parts["scale"], peaks)
    exact = values.astype(np.float64) / np.where(peaks, peaks, 1)[:, None] * 127
    assert np.abs(parts["codes"] - exact).max() < 0.50001
    wanted = parts["codes"].astype(np.float32) * peaks[:, None] * np.float32(1 / 127)
    np.testing.assert_array_equal(decode(make("llm_int8"), parts, spec_of(values)), wanted)
    for scheme in ("llm_int8", "nf4"):
        tiny = np.full((2, 64), 2.0**-140, np.float32)
        out = decode(make(scheme), encode(make(scheme), tiny), spec_of(tiny))
        assert np.isfinite(out).all()


@pytest.mark.parametrize(("scheme", "double"), [*KINDS, ("llm_int8", None)])
def test_a_model_is_written_recognised_and_repacked(scheme, double, tmp_path):
    options = {} if double is None else {"double_quant": double}
    flow = tc.open(folder(tmp_path, drawn((96, 320)))) | tc.quantize(scheme, include=["up_proj"], **options)
    flow | tc.write(tmp_path / "q", convention="bitsandbytes")
    parts = load_file(tmp_path / "q" / "model.safetensors")
    said = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["load_in_8bit"]) == ("bitsandbytes", double is None)
    values = plain(tmp_path / "q", tmp_path)
    assert (values - drawn((96, 320)).float()).norm() < 0.15 * values.norm()
    if double is not None:
        assert parts[f"{NAME}.weight"].shape == (96 * 160, 1)
        assert (said["bnb_4bit_quant_type"], said["bnb_4bit_use_double_quant"]) == (scheme[-3:], double)
    tc.open(tmp_path / "q") | tc.write(tmp_path / "n", convention="neutral")
    tc.open(tmp_path / "n") | tc.write(tmp_path / "b", convention="bitsandbytes")
    back = load_file(tmp_path / "b" / "model.safetensors")
    assert back.keys() == parts.keys()
    assert all(torch.equal(back[name], value) for name, value in parts.items())
    flow | tc.write(tmp_path / "w", convention="bitsandbytes", workers=2, memory="2MB")
    again = load_file(tmp_path / "w" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in parts.items())


@pytest.mark.parametrize(
    "state",
    [b"", b"[]", b'{"shape": [96]}', b'{"shape": [96, 318], "blocksize": 64, "quant_type": "nf4"}',
     b'{"shape": [96, 320], "blocksize": 128, "quant_type": "nf4"}',
     b'{"shape": [96, 320], "blocksize": 64, "quant_type": "fp4"}'],
)  # fmt: skip
def test_a_state_that_says_something_else_is_refused(state, tmp_path):
    flow = tc.open(folder(tmp_path, drawn((96, 320)))) | tc.quantize("nf4", include=["up_proj"])
    flow | tc.write(tmp_path / "q", convention="bitsandbytes")
    path = tmp_path / "q" / "model.safetensors"
    parts = load_file(path)
    parts[f"{NAME}.weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(state), dtype=torch.uint8)
    save_file(parts, path, {"format": "pt"})
    with pytest.raises(TranscodeError):
        plain(tmp_path / "q", tmp_path)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("shape", "size"), [((21, 2), 64), ((27, 2), 128), ((3, 14), 4096), ((5, 26), 64)])
def test_a_tensor_of_one_block_is_read_whatever_its_size(shape, size, double, tmp_path):
    """One scale says of no size which it is; bitsandbytes' smallest was refused with those beside it."""
    weight = drawn(shape)
    options = {"group_size": size, "double_quant": double}
    flow = tc.open(folder(tmp_path, weight)) | tc.quantize("nf4", include=["up_proj"], **options)
    flow | tc.write(tmp_path / "q", convention="bitsandbytes")
    path = tmp_path / "q" / "model.safetensors"
    stored = load_file(path)
    save_file(stored, path, {"format": "pt"})  # as bitsandbytes: without a record of how it was made
    parts = {name.removeprefix(f"{NAME}.weight").lstrip("."): one for name, one in stored.items()}
    state = json.loads(bytes(parts["quant_state.bitsandbytes__nf4"].tolist()))
    assert state["blocksize"] == size
    scales = parts["absmax"]
    if double:
        scales = parts["nested_quant_map"][scales.long()] * parts["nested_absmax"][0] + state["nested_offset"]
    codes = torch.stack([parts[""] >> 4, parts[""] & 15], -1).reshape(shape)
    scales = scales.repeat_interleave(size)[: weight.numel()].reshape(shape)
    wanted = parts["quant_map"][codes.long()] * scales
    torch.testing.assert_close(plain(tmp_path / "q", tmp_path), wanted, rtol=1e-6, atol=0)


def test_tiles_of_a_gpu_are_refused(tmp_path):
    flow = tc.open(folder(tmp_path, drawn((96, 320)))) | tc.quantize("llm_int8", include=["up_proj"])
    flow | tc.write(tmp_path / "q", convention="bitsandbytes")
    path = tmp_path / "q" / "model.safetensors"
    save_file(
        load_file(path) | {f"{NAME}.weight_format": torch.tensor(1, dtype=torch.uint8)},
        path,
        {"format": "pt"},
    )
    with pytest.raises(TranscodeError, match="weight_format is not 0"):
        plain(tmp_path / "q", tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("scheme", "double"), KINDS)
def test_bitsandbytes_makes_and_decodes_the_same(scheme, double, shape, dtype, tmp_path):
    lib = pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes")
    weight = drawn(shape, dtype)
    flow = tc.open(folder(tmp_path, weight)) | tc.quantize(scheme, include=["up_proj"], double_quant=double)
    flow | tc.write(tmp_path / "q", convention="bitsandbytes")
    parts = load_file(tmp_path / "q" / "model.safetensors")
    codes = parts.pop(f"{NAME}.weight")
    ours = {name.removeprefix(f"{NAME}.weight."): value for name, value in parts.items()}
    theirs, state = lib.quantize_4bit(weight, quant_type=scheme[-3:], compress_statistics=double)
    assert torch.equal(codes, theirs)
    packed = state.as_dict(packed=True)
    assert packed.keys() == ours.keys()
    # The scales of 8 bits of bitsandbytes are not always the nearest numbers; the mean is a sum in float32.
    assert all(
        torch.equal(ours[name], packed[name]) for name in ("quant_map", "nested_quant_map") if name in ours
    )
    if not double:
        assert torch.equal(ours["absmax"], packed["absmax"])
    else:
        assert (ours["absmax"] != packed["absmax"]).float().mean() < 0.02
    known = lib.QuantState.from_dict(ours, device="cpu")
    assert (known.dtype, tuple(known.shape)) == (dtype, shape)
    known.dtype = state.dtype = torch.float32
    assert torch.equal(lib.dequantize_4bit(codes, known), plain(tmp_path / "q", tmp_path))
    (tmp_path / "t").mkdir()
    packed = {f"{NAME}.weight.{name}": value for name, value in packed.items()}
    save_file({f"{NAME}.weight": theirs, **packed}, tmp_path / "t" / "model.safetensors")
    assert torch.equal(lib.dequantize_4bit(theirs, state), plain(tmp_path / "t", tmp_path))


def test_bitsandbytes_makes_and_decodes_the_same_rows(tmp_path):
    lib = pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes")
    weight = drawn((96, 320), torch.float16)
    flow = tc.open(folder(tmp_path, weight)) | tc.quantize("llm_int8", include=["up_proj"])
    flow | tc.write(tmp_path / "q", convention="bitsandbytes")
    parts = load_file(tmp_path / "q" / "model.safetensors")
    codes, peaks, _ = lib.int8_vectorwise_quant(weight)
    assert torch.equal(parts[f"{NAME}.weight"], codes)
    assert torch.equal(parts[f"{NAME}.SCB"], peaks)
    assert torch.equal(lib.int8_vectorwise_dequant(codes, peaks), plain(tmp_path / "q", tmp_path))
