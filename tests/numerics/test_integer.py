"""The kernels of integers: blocks of any shape, scales as stored, and zero points."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.numerics.integer import symmetric, with_zero
from transcode.numerics.lanes import STORED

F = np.float32
KEPT = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}


def as_bits(values):
    kinds = {np.dtype(F): np.uint32, np.dtype(np.float16): np.int16}
    bits = np.ascontiguousarray(values).view(kinds.get(values.dtype, np.uint16))
    bits.setflags(write=False)
    return bits


def run(values, *, height=1, width=None, stored="F32", given=0.0, top=127):
    rows, columns = values.shape
    width = columns if width is None else width
    codes = np.full(values.shape, 99, np.int8)
    scales = np.full((-(-rows // height), -(-columns // width)), np.nan, F)
    fine = symmetric(as_bits(values), height, width, STORED[stored], F(given), F(top), codes, scales)
    return (codes, scales) if fine else None


def run_zero(values, *, width=None, stored="F32", span=255):
    rows, columns = values.shape
    width = columns if width is None else width
    codes = np.full(values.shape, 99, np.int8)
    scales = np.full((rows, -(-columns // width)), np.nan, F)
    zeros = np.full(scales.shape, 99, np.int8)
    fine = with_zero(as_bits(values), width, STORED[stored], F(span), codes, scales, zeros)
    return (codes, scales, zeros) if fine else None


def clamped(quotient, top):
    return np.clip(np.rint(quotient), -top, top).astype(np.int8)


@pytest.mark.parametrize("top", [127, 7])
@pytest.mark.parametrize("stored", KEPT)
@pytest.mark.parametrize(("height", "width"), [(1, 70), (1, 16), (4, 16), (5, 64), (128, 128), (13, 70)])
def test_blocks_of_any_shape(top, stored, height, width):
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((13, 70)) * np.exp2(rng.integers(-9, 9, (13, 70)))).astype(F)
    values[:4, :16] = 0
    codes, scales = run(values, height=height, width=width, stored=stored, top=top)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            here = (slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
            peak = np.abs(values[here]).max()
            wanted = F(1) if peak == 0 else (peak / F(top)).astype(KEPT[stored]).astype(F)
            assert scales[i, j] == wanted
            np.testing.assert_array_equal(codes[here], clamped(values[here] / wanted, top))


@pytest.mark.parametrize("top", [127, 7])
@pytest.mark.parametrize("given", [1.0, 0.37, 2.0**-40, 2.0**-70, 2.0**-130])
def test_every_bf16_value_under_a_given_scale(top, given):
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    every = every[np.isfinite(every.astype(F))]
    every = every[np.abs(every.astype(F)) <= F(given) * F(top)]
    codes, scales = run(every[None], given=given, top=top)
    assert scales[0, 0] == F(given)
    np.testing.assert_array_equal(codes[0], clamped(every.astype(F) / F(given), top))
    assert set(range(1 - top, top)) <= set(np.unique(codes))


@pytest.mark.parametrize("top", [127, 7])
def test_ties_go_to_the_even_code(top):
    half = np.arange(-top, top) + F(0.5)
    codes, _ = run(np.concatenate([[F(top)], half]).astype(F)[None], top=top)
    assert (codes[0, 1:] % 2 == 0).all()


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, F])
def test_sources_of_every_width(kind):
    values = np.random.default_rng(2).standard_normal((5, 96)).astype(kind)
    codes, scales = run(values)
    wide = values.astype(F)
    peak = np.abs(wide).max(1, keepdims=True) / F(127)
    np.testing.assert_array_equal(scales, peak)
    np.testing.assert_array_equal(codes, clamped(wide / peak, 127))


@pytest.mark.parametrize("stored", KEPT)
@pytest.mark.parametrize("span", [255, 15])
@pytest.mark.parametrize("width", [70, 16])
def test_zero_points(stored, span, width):
    rng = np.random.default_rng(4)
    values = (rng.standard_normal((30, 70)) + rng.uniform(-3, 3, (30, 1))).astype(F)
    values[3] = 0
    values[4] = np.abs(values[4]) + 1  # the range is stretched to hold zero
    values[5] = -np.abs(values[5]) - 1
    codes, scales, zeros = run_zero(values, width=width, stored=stored, span=span)
    floor = -(span + 1) / 2
    for j in range(scales.shape[1]):
        here = values[:, j * width : (j + 1) * width]
        low, high = np.minimum(here.min(1), 0), np.maximum(here.max(1), 0)
        scale = ((high - low) / F(span)).astype(KEPT[stored]).astype(F)
        scale = np.where(high == low, F(1), scale)
        zero = np.clip(np.rint(F(floor) - low / scale), floor, floor + span)
        zero = np.where(high == low, 0, zero)
        np.testing.assert_array_equal(scales[:, j], scale)
        np.testing.assert_array_equal(zeros[:, j], zero)
        wanted = np.clip(np.rint(here / scale[:, None]) + zero[:, None], floor, floor + span)
        wanted = np.where((high == low)[:, None], 0, wanted)
        np.testing.assert_array_equal(codes[:, j * width : (j + 1) * width], wanted)


@pytest.mark.parametrize("span", [255, 15])
def test_a_range_beyond_float32_still_has_a_scale(span):
    """The difference of two finite floats may be infinite: the scale is not."""
    values = np.array([[-3e38, 3e38, 0, 1e38]], F)
    codes, scales, _ = run_zero(values, span=span)
    assert np.isfinite(scales).all()
    assert scales[0, 0] == pytest.approx(6e38 / span, rel=1e-6)
    assert codes[0, 0] == -(span + 1) / 2
    assert codes[0, 1] >= (span - 1) / 2 - 1


@pytest.mark.parametrize("stored", KEPT)
def test_a_range_below_the_least_scale_still_has_one(stored):
    """A scale of zero would be a division by zero."""
    _, scales, _ = run_zero(np.array([[0, 1e-44, 0, 4e-45]], F), stored=stored, span=255)
    assert scales[0, 0] == F(ml_dtypes.finfo(KEPT[stored]).smallest_subnormal)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [(0, 0), (12, 69), (5, 33)])
def test_what_is_not_finite_is_told(bad, at):
    values = np.ones((13, 70), F)
    values[at] = bad
    for height, width in ((1, 70), (4, 16), (128, 128)):
        assert run(values, height=height, width=width) is None
    for width in (70, 16):
        assert run_zero(values, width=width) is None
