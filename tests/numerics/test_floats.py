"""The kernel of scaled 8-bit floats: every BF16 value, every block shape, the scale as it is stored."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.numerics.floats import scaled
from transcode.numerics.lanes import STORED
from transcode.numerics.minifloat import FORMATS

F = np.float32
KINDS = {"e4m3fn": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
TOPS = {"e4m3fn": 448.0, "e5m2": 57344.0}
KEPT = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}


def run(values, kind, *, height=1, width=None, stored="F32", given=0.0):
    """Codes and scales of rows of float32 or bfloat16; None where something was not finite."""
    form = FORMATS[kind]
    rows, columns = values.shape
    width = columns if width is None else width
    codes = np.full(values.shape, 0xA5, np.uint8)
    scales = np.full((-(-rows // height), -(-columns // width)), np.nan, F)
    bits = np.ascontiguousarray(values).view(np.uint32 if values.dtype == F else np.uint16)
    bits.setflags(write=False)
    fine = scaled(
        bits, height, width, STORED[stored], F(given),
        F(form.max), form.normal_bits, form.mantissa_shift, form.magic, codes, scales,
    )  # fmt: skip
    return (codes, scales) if fine else None


def cast(values, kind):
    top = F(TOPS[kind])
    with np.errstate(over="ignore"):
        return np.clip(values, -top, top).astype(KINDS[kind]).view(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [1.0, 0.37, 2.0**-40, 2.0**-70, 2.0**-130, 1e30])
def test_every_bf16_value_under_a_given_scale(kind, given):
    """Also where the scale is too small to spare the division, and the quotient far beyond the top."""
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    every = every[np.isfinite(every.astype(F))]
    # A given scale is that of the whole tensor: no value is larger than its top, as long as it is gentle.
    if given >= 2.0**-60:
        every = every[np.abs(every.astype(F)) <= F(given) * F(TOPS[kind])]
    codes, scales = run(every[None], kind, given=given)
    assert scales[0, 0] == F(given)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(codes[0], cast(every.astype(F) / F(given), kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", KEPT)
@pytest.mark.parametrize(("height", "width"), [(1, 70), (1, 16), (4, 16), (5, 64), (128, 128), (13, 70)])
def test_blocks_of_any_shape(kind, stored, height, width):
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((13, 70)) * np.exp2(rng.integers(-9, 9, (13, 70)))).astype(F)
    values[:4, :16] = 0
    codes, scales = run(values, kind, height=height, width=width, stored=stored)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            here = (slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
            block = values[here]
            peak = np.abs(block).max()
            wanted = F(1) if peak == 0 else (peak / F(TOPS[kind])).astype(KEPT[stored]).astype(F)
            assert scales[i, j] == wanted
            np.testing.assert_array_equal(codes[here], cast(block / wanted, kind))


@pytest.mark.parametrize("stored", KEPT)
@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-9, 1e38])
def test_scales_at_the_ends_of_their_dtype(stored, size):
    """Never zero and never infinite: the nearest number of the dtype that is neither."""
    values = (np.linspace(-1, 1, 64, dtype=F) * F(size))[None]
    codes, scales = run(values, "e4m3fn", stored=stored)
    limits = ml_dtypes.finfo(KEPT[stored])
    with np.errstate(over="ignore"):
        near = (np.abs(values).max() / F(448)).astype(KEPT[stored]).astype(F)
    assert scales[0, 0] == np.clip(near, F(limits.smallest_subnormal), F(limits.max))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(codes, cast(values / scales[0, 0], "e4m3fn"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [(0, 0), (12, 69), (5, 33)])
def test_what_is_not_finite_is_told(bad, at):
    values = np.ones((13, 70), F)
    values[at] = bad
    for height, width in ((1, 70), (4, 16), (128, 128)):
        assert run(values, "e4m3fn", height=height, width=width) is None


@pytest.mark.parametrize("kind", KINDS)
def test_signs_of_zeros_are_kept_where_division_keeps_them(kind):
    codes, _ = run(np.array([[1.0, -1.0, 0.0, -0.0]], F), kind)
    top = cast(np.array([TOPS[kind]], F), kind)[0]
    assert codes.tolist() == [[top, top | 0x80, 0, 0x80]]
