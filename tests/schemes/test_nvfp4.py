"""nvfp4 equals a plain float32 model and comfy-kitchen's reference."""

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.errors import RecipeError
from transcode.numerics import NonFinite
from transcode.numerics.packing import swap_nibbles, unpack4
from transcode.numerics.swizzle import swizzle, unswizzle
from transcode.schemes import make

from .helpers import SOURCES, decode, encode, finite_bf16, spec_of

F = np.float32
E4M3, E2M1 = ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn


def scale_model(values, shared):
    peak = np.abs(values.astype(F)).reshape(*values.shape[:-1], -1, 16).max(-1)
    code = np.minimum(peak / F(6) / shared, F(448)).astype(E4M3).view(np.uint8)
    # Where a quarter of the smallest scale is less than the peak, that one keeps some of the block.
    return np.where((code == 0) & (peak > F(shared) * F(2.0**-11)), 1, code).astype(np.uint8)


def code_model(values, scales, shared):
    unit = np.repeat(shared * scales.view(E4M3).astype(F), 16, -1)
    with np.errstate(all="ignore"):
        quotient = np.where(unit > 0, values.astype(F) / unit, F(0))
    codes = np.abs(np.clip(quotient, -6, 6)).astype(E2M1).view(np.uint8)
    return codes | np.signbit(values).astype(np.uint8) << 3


def check(values, share=None):
    parts = encode(make("nvfp4"), values, share=share)
    peak = max(np.abs(values.astype(F)).max(), F(share or 0))
    # The divisor of a tensor below 2**-116 would be infinite.
    shared = max(peak / F(2688), 1 / np.finfo(F).max)
    with np.errstate(over="ignore"):
        assert parts["global_scale"] == min(F(2688) / peak, np.finfo(F).max)
    scales = scale_model(values, shared)
    np.testing.assert_array_equal(parts["scale"], scales)
    np.testing.assert_array_equal(unpack4(parts["codes"]), code_model(values, scales, shared))


@pytest.mark.parametrize("peak", [1.0, 0.123, 7.3e-5, 2688.0, 3e30])
def test_every_bf16_value_at_every_scale_code(peak):
    # Blocks whose largest value makes each of the E4M3 codes; in them all BF16 values down to 2**-7 of it.
    peak = F(peak)
    steps = np.arange(1, 127, dtype=np.uint8).view(E4M3).astype(F)
    rows = []
    every = finite_bf16()
    every = every[every.astype(F) > 0].astype(F)
    for step in steps:
        largest = every[every <= peak / F(448) * step][-1]
        below = every[(every <= largest) & (every >= largest / 128)]
        block = np.full((-(-len(below) // 15), 16), largest, F)
        block[:, 1:].flat[: len(below)] = below * np.resize([1, -1], len(below))
        rows.append(block)
    values = np.concatenate(rows)
    parts = encode(make("nvfp4"), values.astype(ml_dtypes.bfloat16), share=float(peak))
    assert len(np.unique(parts["scale"])) >= 120
    check(values.astype(ml_dtypes.bfloat16), share=float(peak))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("size", [1.0, 1e-3, 2e-4])
def test_sources_stacks_and_chunks(source, size):
    values = (np.random.default_rng(1).standard_normal((3, 7, 2064)) * size).astype(F)
    check(values.astype(SOURCES[source]))


@pytest.mark.parametrize("size", [2.0**-60, 2.0**-100, 2.0**-120, 2.0**100])
def test_very_small_and_large_tensors(size):
    values = (np.random.default_rng(2).uniform(-1, 1, (20, 160)) * size).astype(F)
    check(values)
    out = decode(make("nvfp4"), encode(make("nvfp4"), values), spec_of(values))
    assert np.linalg.norm((out - values) / size) < 0.2 * np.linalg.norm(values / size)


def test_quotients_next_to_a_tie():
    rng = np.random.default_rng(3)
    shared = F(1.0) / F(2688)
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], F)
    rows = []
    for step in np.arange(8, 127, dtype=np.uint8).view(E4M3).astype(F):
        unit = shared * step
        near = ties * unit
        block = np.concatenate([[unit * 6], near, np.nextafter(near, F(0)), [0]]).astype(F)
        rows.append(block)
    values = np.stack(rows)
    values = np.concatenate([values, np.where(rng.random(values.shape) < 0.5, values, -values)])
    check(values, share=1.0)


def test_equals_comfy_kitchen():
    eager = pytest.importorskip("comfy_kitchen.backends.eager.quantization")
    rng = np.random.default_rng(4)
    for size in (1.0, 0.017, 300.0):
        values = (rng.standard_normal((256, 320)) * np.exp2(rng.uniform(-6, 2, (256, 1))) * size).astype(F)
        values[5, :64] = 0
        shared = torch.tensor(np.abs(values).max() / F(2688))
        codes, scales = eager.quantize_nvfp4(torch.from_numpy(values), shared)
        parts = encode(make("nvfp4"), values)
        np.testing.assert_array_equal(parts["scale"], unswizzle(scales.view(torch.uint8).numpy(), 256, 20))
        theirs = unpack4(swap_nibbles(codes.numpy()))
        ours = unpack4(parts["codes"])
        np.testing.assert_array_equal(ours[theirs != 8], theirs[theirs != 8])
        np.testing.assert_array_equal(ours & 7, theirs & 7)


def test_decoding_and_encoding_again():
    values = np.random.default_rng(5).standard_normal((64, 128)).astype(F)
    scheme = make("nvfp4")
    parts = encode(scheme, values)
    out = decode(scheme, parts, spec_of(values))
    codes = unpack4(parts["codes"]).view(E2M1).astype(F)
    want = codes * np.repeat(parts["scale"].view(E4M3).astype(F) / parts["global_scale"], 16, -1)
    np.testing.assert_array_equal(out, want)
    again = encode(scheme, out)
    np.testing.assert_array_equal(again["scale"], parts["scale"])
    np.testing.assert_array_equal(again["codes"], parts["codes"])


@pytest.mark.parametrize("convention", ["comfyui", "compressed_tensors"])
def test_their_own_decoders_give_the_same_bits(convention, tmp_path):
    """In float32, where they multiply by a scale of the tensor, and where they divide by it."""
    torch.manual_seed(6)
    source, made = tmp_path / "s.safetensors", tmp_path / "m.safetensors"
    save_file({"a.weight": torch.randn(128, 256) * torch.logspace(-2, 1, 128)[:, None]}, source)
    tc.open(source) | tc.quantize("nvfp4", include=["a"]) | tc.write(made, convention=convention)
    stored = load_file(made)
    if convention == "comfyui":
        eager = pytest.importorskip("comfy_kitchen.backends.eager.quantization")
        parts = (stored[f"a.weight{end}"] for end in ("", "_scale_2", "_scale"))
        theirs = eager.dequantize_nvfp4(*parts, output_type=torch.float32)
    else:
        forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
        codes = unpack4(stored["a.weight_packed"].numpy()).view(E2M1).astype(F)
        scales, shared = stored["a.weight_scale"].float(), stored["a.weight_global_scale"]
        how = forward.QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
        theirs = forward.dequantize(torch.from_numpy(codes), scales, args=how, global_scale=shared)
    ours = (tc.open(made) | tc.dequantize("F32"))["a.weight"].torch()
    assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))


def test_zeros():
    values = np.zeros((2, 32), F)
    parts = encode(make("nvfp4"), values)
    assert parts["global_scale"] == 1
    assert not parts["codes"].any()
    assert not parts["scale"].any()
    values[0, 0] = 1000
    values[1, 16:] = 1e-4  # underflows
    parts = encode(make("nvfp4"), values)
    assert parts["scale"].tolist() == [[0x7E, 0], [0, 0]]
    assert not parts["codes"][1].any()
    assert np.isfinite(decode(make("nvfp4"), parts, spec_of(values))).all()


def faint(size=1.0, seed=7):
    """A block of the largest value, and blocks whose peaks are from 2**-24 to 2**-16 of it, down to zeros."""
    sizes = np.exp2(np.linspace(-24, -16, 300))[:, None]
    blocks = np.random.default_rng(seed).uniform(-1, 1, (300, 16)) * sizes
    blocks[:, 3] = sizes[:, 0]
    blocks[0], blocks[1] = 1, 0
    return (blocks * size).astype(F)


@pytest.mark.parametrize("optimize", ["none", "four_over_six", "mse"])
@pytest.mark.parametrize("size", [1.0, 2.0**-90, 2.0**60])
@pytest.mark.parametrize("source", ["F32", "BF16"])
def test_blocks_far_below_the_largest_value_are_kept_as_well_as_can_be(optimize, size, source):
    values = faint(size).astype(SOURCES[source])
    exact = values.astype(np.float64)
    scheme = make("nvfp4", optimize=optimize)
    parts = encode(scheme, values)
    out = decode(scheme, parts, spec_of(values)).astype(np.float64)
    lost = ((out - exact) ** 2).sum(1) / size**2
    nothing = (exact**2).sum(1) / size**2
    # No scale that the format has loses less than the smallest where rounding asks for zero.
    unit = np.abs(exact).max() / 2688 / size
    peak = np.abs(exact).max(1) / size
    faintest = (peak / 6 / unit < 2.0**-10) & (peak > 0)
    assert faintest.sum() > 100
    steps = np.arange(1, 127, dtype=np.uint8).view(E4M3).astype(np.float64) * unit
    shares = np.clip(np.abs(exact[faintest]) / size / steps[:, None, None], 0, 6)
    codes = shares.astype(F).astype(E2M1).astype(np.float64)
    every = ((codes * steps[:, None, None] - np.abs(exact[faintest]) / size) ** 2).sum(-1)
    assert (lost <= nothing * (1 + 1e-6)).all()
    if optimize == "none":
        np.testing.assert_allclose(lost[faintest], every[0], rtol=1e-4)
    if optimize == "mse":
        np.testing.assert_allclose(lost[faintest], every.min(0), rtol=1e-4)
    seen = faintest & (peak > 0.3 * 2.0**-9 * unit)
    assert (lost < nothing)[seen].all()
    assert (parts["scale"][seen, 0] > 0).all()
    assert parts["scale"][1, 0] == 0  # zeros
    assert not parts["codes"][1].any()


def test_comfy_kitchen_reads_the_smallest_scales():
    eager = pytest.importorskip("comfy_kitchen.backends.eager.quantization")
    values = np.tile(faint(), (1, 8))[:256]
    parts = encode(make("nvfp4"), values)
    assert (parts["scale"] == 1).sum() > 100
    theirs = eager.dequantize_nvfp4(
        torch.from_numpy(swap_nibbles(parts["codes"])),
        torch.tensor(1 / float(parts["global_scale"])),
        torch.from_numpy(swizzle(parts["scale"])).view(torch.float8_e4m3fn),
        output_type=torch.float32,
    )
    ours = decode(make("nvfp4"), parts, spec_of(values))
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-6)
    assert (np.abs(ours).max(1) > 0).sum() > 150


def test_the_smallest_tensor_has_a_finite_global_scale():
    values = np.full((1, 16), 2.0**-149, F)
    parts = encode(make("nvfp4"), values)
    assert np.isfinite(parts["global_scale"])
    assert np.isfinite(decode(make("nvfp4"), parts, spec_of(values))).all()


def best_of(values, steps, shared):
    """Least squared error of each block over some scale codes, in float64."""
    blocks = values.reshape(-1, 16)
    plain = scale_model(values, shared).reshape(-1).astype(int)
    errors = []
    for codes in steps(blocks, plain):
        codes = codes.astype(np.uint8)
        unit = (shared * codes.view(E4M3).astype(F)).astype(np.float64)[:, None]
        found = code_model(blocks, codes[:, None], shared).view(E2M1).astype(np.float64) * unit
        errors.append(((found - blocks) ** 2).sum(1))
    return np.array(errors)


@pytest.mark.parametrize("optimize", ["mse", "four_over_six"])
def test_optimized_scales_are_the_best_of_those_tried(optimize):
    values = np.random.default_rng(6).standard_t(4, (64, 128)).astype(F)
    shared = np.abs(values).max() / F(2688)

    def steps(blocks, plain):
        yield plain
        if optimize == "mse":
            for step in (-4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7):
                yield np.clip(plain + step, 1, 126)
        else:
            yield np.minimum(np.abs(blocks).max(1) / F(4) / shared, F(448)).astype(E4M3).view(np.uint8)

    errors = best_of(values, steps, shared)
    scheme = make("nvfp4", optimize=optimize)
    parts = encode(scheme, values)
    out = decode(scheme, parts, spec_of(values)).astype(np.float64).reshape(-1, 16)
    found = ((out - values.reshape(-1, 16)) ** 2).sum(1)
    np.testing.assert_allclose(found, errors.min(0), rtol=1e-4)
    assert found.sum() < 0.95 * errors[0].sum()


def hard_blocks(kind):
    """Blocks ``[n, 16]`` of float64, whose largest value is 1, so that scales are codes of their own."""
    rng = np.random.default_rng(11)
    blocks = rng.standard_normal((4000, 16))
    if kind == "heavy tails":
        blocks = rng.standard_t(2, blocks.shape)
    elif kind == "uniform":
        blocks = rng.uniform(-1, 1, blocks.shape)
    elif kind == "hot column":
        blocks[:, 3] *= 20
    elif kind == "mostly zeros":
        blocks[:, :14] = 0
    elif kind == "one below another":  # every other value is one and the same share of the largest
        blocks[:, 1:] = np.sign(blocks[:, 1:]) * rng.uniform(0, 1, (4000, 1))
        blocks[:, 0] = 1
    elif kind == "on a grid":
        blocks = rng.integers(-12, 13, blocks.shape) / 4
    blocks *= np.exp2(rng.uniform(-9, 0, (4000, 1))) / max(np.abs(blocks).max(), 1e-9)
    blocks[0] = 1
    return blocks


@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
@pytest.mark.parametrize(
    "kind",
    ["Gaussian", "heavy tails", "uniform", "hot column", "mostly zeros", "one below another", "on a grid"],
)
def test_no_scale_that_e4m3_has_is_better(kind, source):
    """All 126 of them, in float64; what the search leaves out without a look never has the least error."""
    values = hard_blocks(kind).astype(SOURCES[source])
    scheme = make("nvfp4", optimize="mse")
    parts = encode(scheme, values)
    exact = values.astype(np.float64)
    lost = ((decode(scheme, parts, spec_of(values)).astype(np.float64) - exact) ** 2).sum(1)
    unit = 1 / float(parts["global_scale"])
    grid = np.arange(8, dtype=np.uint8).view(E2M1).astype(np.float64)
    every = []
    for scale in np.arange(1, 127, dtype=np.uint8).view(E4M3).astype(np.float64) * unit:
        share = np.abs(exact) / scale
        nearest = grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, share)]
        every.append((((share - nearest) * scale) ** 2).sum(1))
    least = np.min(every, 0)
    peak = np.abs(exact).max(1)
    normal = peak / 6 / unit >= 2.0**-5  # of subnormal scales, more would have to be tried
    assert normal.sum() > 2000
    assert (lost <= least * (1 + 1e-5) + 1e-8 * peak**2)[normal].all()
    assert len(np.unique(np.argmin(every, 0) - scale_model(values, unit).reshape(-1).astype(int))) > 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_values_are_named(bad):
    values = np.ones((9, 160), F)
    values[7, 131] = bad
    with pytest.raises(NonFinite, match="row 7, column 131"):
        encode(make("nvfp4"), values)
    with pytest.raises(NonFinite, match="row 7, column 131"):
        list(make("nvfp4").encode(values, spec_of(values), 0, 1.0, Scratch()))


@pytest.mark.parametrize("size", [1.0, 0.0123, 7e-20, 2.0**-120, 2.0**-148, 3e38])
def test_a_global_scale_that_is_read_as_bf16(size):
    values = (np.random.default_rng(8).uniform(-1, 1, (20, 160)) * size).astype(F)
    values[3, 5] = size
    scheme = make("nvfp4", global_scale_dtype="BF16")
    parts = encode(scheme, values)
    with np.errstate(over="ignore"):
        divisor = min(F(2688) / F(size), F(3.3895314e38)).astype(ml_dtypes.bfloat16)
    assert parts["global_scale"].dtype == F
    assert parts["global_scale"] == divisor.astype(F)
    scales = scale_model(values, 1 / divisor.astype(F))
    np.testing.assert_array_equal(parts["scale"], scales)
    np.testing.assert_array_equal(unpack4(parts["codes"]), code_model(values, scales, 1 / divisor.astype(F)))
    assert not encode(scheme, np.zeros((1, 16), F))["codes"].any()


def test_what_is_refused_and_stored():
    assert make("nvfp4").refuses(Spec(DTYPES["F32"], (4, 24))) == "24 columns are not a multiple of 16"
    parts = make("nvfp4").parts(Spec(DTYPES["F32"], (4, 32)))
    assert [(part.role, str(part.spec)) for part in parts] == [
        ("codes", "F4[4,32]"),
        ("scale", "F8_E4M3[4,2]"),
        ("global_scale", "F32[]"),
    ]
    assert make("nvfp4", global_scale_dtype="BF16").parts(Spec(DTYPES["F32"], (4, 32))) == parts
    with pytest.raises(RecipeError, match="global_scale_dtype cannot be 'F16'; choose from F32, BF16"):
        make("nvfp4", global_scale_dtype="F16")
    with pytest.raises(RecipeError, match="choose from none, four_over_six, mse"):
        make("nvfp4", optimize="best")
