"""Quantized files as blocks of GGUF, and back, by their codes; packed here once more as ggml has them."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import transcode as tc
from transcode.containers.gguf import header
from transcode.errors import DataError

NAMES = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"]
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate((E2M1, -E2M1))


def rows(seed, shape=(64, 128), spread=3):
    rng = np.random.default_rng(seed)
    sizes = np.exp2(rng.integers(-spread, spread + 1, (*shape[:-1], 1)))
    return (rng.standard_normal(shape) * sizes).astype(ml_dtypes.bfloat16)


def made(folder, scheme, convention, shape=(64, 128), **options):
    """A quantized file of four matrices."""
    plain = folder / "plain.safetensors"
    save_file({name: rows(seed, shape) for seed, name in enumerate(NAMES)}, plain)
    out = folder / f"{convention}.safetensors"
    tc.open(plain) | tc.quantize(scheme, **options) | tc.write(out, convention=convention)
    return out


def to_gguf(source, scheme, out, **how):
    how = {"lossless": True, "workers": 1, **how}
    return tc.open(source) | tc.quantize(scheme) | tc.write(out, convention="gguf", **how)


def blocks(path):
    """Bytes of each tensor of a GGUF file."""
    data = path.read_bytes()
    with path.open("rb") as file:
        entries = header.read(file, path).entries
    return {
        one.name: np.frombuffer(data, np.uint8, one.spec.nbytes, one.start).reshape(one.spec.shape[0], -1)
        for one in entries
    }


def parts(path):
    """Bytes of each tensor of a safetensors file, which can be changed: by rows where there are any."""
    data = np.memmap(path, np.uint8, "r+")
    size = 8 + int.from_bytes(data[:8].tobytes(), "little")
    listed = json.loads(data[8:size].tobytes())
    return {
        name: data[slice(*(size + at for at in one["data_offsets"]))].reshape((*one["shape"][:1], -1))
        for name, one in listed.items()
        if name != "__metadata__"
    }


def nibbles(packed):
    """Codes of bytes that hold the even column in the low half."""
    return np.stack((packed & 15, packed >> 4), -1).reshape(len(packed), -1)


def as_mxfp4(codes, scales):
    """``block_mxfp4`` of ggml: E8M0, then values j and j + 16 in one byte."""
    groups = codes.reshape(len(codes), -1, 2, 16)
    joined = groups[:, :, 0] | groups[:, :, 1] << 4
    return np.concatenate((scales[..., None], joined), -1).reshape(len(codes), -1)


def as_nvfp4(codes, scales):
    """``block_nvfp4`` of ggml: four UE4M3, then values j and j + 8 of each 16 in one byte."""
    groups = codes.reshape(len(codes), -1, 4, 2, 8)
    joined = (groups[..., 0, :] | groups[..., 1, :] << 4).reshape(*groups.shape[:2], 32)
    return np.concatenate((scales.reshape(len(codes), -1, 4), joined), -1).reshape(len(codes), -1)


def values(path, tmp_path):
    out = tmp_path / f"{path.name}.f32.safetensors"
    tc.open(path) | tc.dequantize("F32") | tc.write(out, force=True)
    return load_file(out)


@pytest.mark.parametrize("convention", ["compressed_tensors", "neutral"])
def test_mxfp4_has_the_same_codes(convention, tmp_path):
    source = made(tmp_path, "mxfp4", convention)
    report = to_gguf(source, "ggml_mxfp4", tmp_path / "o.gguf")
    assert set(report.recoded) == set(NAMES)
    stored, out = parts(source), blocks(tmp_path / "o.gguf")
    codes, scale = ("_packed", "_scale") if convention == "compressed_tensors" else ("", "_scale")
    for name in NAMES:
        np.testing.assert_array_equal(
            out[name], as_mxfp4(nibbles(stored[name + codes]), stored[name + scale])
        )
    for workers, tile in ((2, 5000), (3, 1 << 20)):
        to_gguf(source, "ggml_mxfp4", tmp_path / "p.gguf", workers=workers, tile=tile, force=True)
        assert (tmp_path / "p.gguf").read_bytes() == (tmp_path / "o.gguf").read_bytes()
    back = tmp_path / "back.safetensors"
    tc.open(tmp_path / "o.gguf") | tc.quantize("mxfp4") | tc.write(back, convention=convention, lossless=True)
    again = parts(back)
    assert all(np.array_equal(again[key], stored[key]) for key in stored)


def test_experts_of_gpt_oss(tmp_path):
    rng = np.random.default_rng(0)
    name = "model.layers.0.mlp.experts.down_proj"
    stored = {
        f"{name}_blocks": rng.integers(0, 256, (3, 32, 4, 16), np.uint8),
        f"{name}_scales": rng.integers(110, 130, (3, 32, 4), np.uint8),
    }
    save_file(stored, tmp_path / "s.safetensors")
    flow = tc.open(tmp_path / "s.safetensors") | tc.quantize("ggml_mxfp4", include=["down_proj"])
    flow | tc.write(tmp_path / "o.gguf", convention="gguf", lossless=True)
    (out,) = blocks(tmp_path / "o.gguf").values()
    codes = nibbles(stored[f"{name}_blocks"].reshape(96, -1))
    np.testing.assert_array_equal(
        out.reshape(96, -1), as_mxfp4(codes, stored[f"{name}_scales"].reshape(96, 4))
    )


@pytest.mark.parametrize("convention", ["modelopt", "comfyui"])
def test_nvfp4_has_the_same_codes_and_scales(convention, tmp_path):
    source = made(tmp_path, "nvfp4", convention)
    to_gguf(source, "ggml_nvfp4", tmp_path / "o.gguf")
    stored, out = parts(source), blocks(tmp_path / "o.gguf")
    if convention == "modelopt":
        for name in NAMES:
            wanted = as_nvfp4(nibbles(stored[name]), stored[f"{name}_scale"])
            np.testing.assert_array_equal(out[name], wanted)
    for name in NAMES:
        one = out[name.replace(".weight", ".scale")]
        assert one.tobytes() == stored[f"{name}_scale_2"].tobytes()
    back = tmp_path / "back.safetensors"
    tc.open(tmp_path / "o.gguf") | tc.quantize("nvfp4") | tc.write(back, convention=convention, lossless=True)
    again = parts(back)
    assert all(again[key].tobytes() == stored[key].tobytes() for key in stored)
    # what is decoded is what the codes stand for, times the scale
    name = NAMES[0]
    scales = out[name].reshape(64, 2, 36)[:, :, :4].reshape(64, 8).view(ml_dtypes.float8_e4m3fn)
    halves = out[name].reshape(64, 2, 36)[:, :, 4:].reshape(64, 2, 4, 8)
    codes = np.stack((halves & 15, halves >> 4), 3).reshape(64, 128)
    wanted = E2M1[codes] * np.repeat(scales.astype(np.float32), 16, 1)
    wanted *= stored[f"{name}_scale_2"].view(np.float32)
    np.testing.assert_array_equal(values(tmp_path / "o.gguf", tmp_path)[name], wanted)


def test_a_divisor_is_rounded_once_and_no_more(tmp_path):
    source = made(tmp_path, "nvfp4", "compressed_tensors")
    with pytest.raises(DataError, match=r"would lose: its scale .* is a reciprocal in one of the two"):
        to_gguf(source, "ggml_nvfp4", tmp_path / "o.gguf")
    to_gguf(source, "ggml_nvfp4", tmp_path / "o.gguf", lossless=False)
    stored, out = parts(source), blocks(tmp_path / "o.gguf")
    for name in NAMES:
        one = out[name.replace(".weight", ".scale")].view(np.float32)
        divisor = stored[name.replace(".weight", ".weight_global_scale")].view(np.float32)
        assert one == np.float32(1) / divisor


def test_joined_layers_with_scales_of_their_own_are_encoded_anew(tmp_path):
    """modelopt has one for q, k and v; transcode's own files have one to each."""
    source = made(tmp_path, "nvfp4", "neutral")
    to_gguf(source, "ggml_nvfp4", tmp_path / "o.gguf", lossless=False)
    flow = tc.open(tmp_path / "o.gguf") | tc.quantize("nvfp4")
    report = flow | tc.write(tmp_path / "m.safetensors", convention="modelopt")
    assert set(report.recoded) == {NAMES[3]}
    stored = parts(tmp_path / "m.safetensors")
    scales = {stored[f"{name}_scale_2"].tobytes() for name in NAMES[:3]}
    assert len(scales) == 1


@pytest.mark.parametrize(
    ("source", "scheme", "options"),
    [
        ("q8_0", "int8", {"granularity": "group", "group_size": 32}),
        ("q4_0", "int4", {"group_size": 32}),
        ("q5_0", "int8", {"granularity": "group", "group_size": 32}),
        ("iq4_nl", "int8", {"granularity": "group", "group_size": 32}),
        ("ggml_mxfp4", "nvfp4", {}),
        ("ggml_mxfp4", "mxfp8", {}),
    ],
)
def test_blocks_become_others_without_loss(source, scheme, options, tmp_path):
    path = tmp_path / "s.gguf"
    save_file({name: rows(seed) for seed, name in enumerate(NAMES)}, tmp_path / "p.safetensors")
    tc.open(tmp_path / "p.safetensors") | tc.quantize(source) | tc.write(path, convention="gguf")
    out = tmp_path / "o.safetensors"
    flow = tc.open(path) | tc.quantize(scheme, **options)
    report = flow | tc.write(out, convention="neutral", lossless=True, tile=5000)
    assert set(report.recoded) == set(NAMES)
    before, after = values(path, tmp_path), values(out, tmp_path)
    assert all(np.array_equal(before[name], after[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("scheme", "to", "options"),
    [
        ("mxfp4", "q8_0", {}),
        ("mxfp4", "ggml_nvfp4", {}),
        ("int4", "q4_0", {"group_size": 64, "scale_dtype": "F16"}),
        ("int8", "q8_0", {"granularity": "group", "group_size": 64, "scale_dtype": "F16"}),
    ],
)
def test_others_become_blocks_without_loss(scheme, to, options, tmp_path):
    source = made(tmp_path, scheme, "neutral", **options)
    to_gguf(source, to, tmp_path / "o.gguf", tile=5000)
    before, after = values(source, tmp_path), values(tmp_path / "o.gguf", tmp_path)
    assert all(np.array_equal(before[name], after[name]) for name in NAMES)


def test_what_reaches_beyond_f16_is_counted_or_refused(tmp_path):
    source = made(tmp_path, "mxfp4", "neutral")
    parts(source)[f"{NAMES[0]}_scale"][3, 1] = 127 + 60
    with pytest.raises(DataError, match="would lose"):
        to_gguf(source, "q8_0", tmp_path / "o.gguf")
    report = to_gguf(source, "q8_0", tmp_path / "o.gguf", lossless=False)
    exact, cells = report.recoded[NAMES[0]]
    assert (exact, cells) == (64 * 4 - 1, 64 * 4)
    after = values(tmp_path / "o.gguf", tmp_path)[NAMES[0]][3, 32:64]
    assert set(np.abs(after)) <= {0, 127 * 2.0**15}


def test_a_scale_that_is_no_number_stops_the_run(tmp_path):
    source = made(tmp_path, "nvfp4", "modelopt")
    for byte, what in ((127, "a scale is NaN"), (0xB8, "a scale is negative")):
        parts(source)[f"{NAMES[1]}_scale"][0, 0] = byte
        with pytest.raises(DataError, match=what):
            to_gguf(source, "ggml_nvfp4", tmp_path / "o.gguf")
