"""The search of 4-bit integers finds what trying all scales finds, to the last bit and among equals too."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.scratch import Scratch
from transcode.numerics.lanes import STORED
from transcode.numerics.nibble_search import nibble_scales, work
from transcode.schemes.int4 import DIVISORS

F = np.float32
KEPT = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
BEYOND = (7, *(13 + k / 4 for k in range(31)), 8.5, 9, 9.5, 10)
"""The best are not among the first, which reach further than bounds are known for."""


def run(values, divisors, stored):
    count, size = values.shape
    bits = np.ascontiguousarray(values).reshape(-1)
    if values.dtype == ml_dtypes.bfloat16:
        bits = bits.view(np.uint16)
    else:
        bits = bits.view(np.int16 if values.dtype == np.float16 else np.uint32)
    bits.setflags(write=False)
    scales = np.full(count, np.nan, F)
    room = work(size, Scratch())
    if not nibble_scales(bits, size, STORED[stored], np.array(divisors, F), room, scales):
        return None
    return scales


def kept(scales, stored):
    """The nearest number of the dtype, as ``lanes.store`` says: neither zero nor infinite."""
    dtype = KEPT[stored]
    with np.errstate(over="ignore"):
        rounded = scales.astype(dtype).astype(F)
    smallest = F(2.0**-24) if stored == "F16" else F(2.0**-133) if stored == "BF16" else F(2.0**-149)
    return np.clip(rounded, smallest, F(65504) if stored == "F16" else None)


def by_trying_all(values, divisors, stored):
    """Errors in float32, summed as the kernel of few scales does: 16 side by side, then halves to halves."""
    x = values.astype(F)
    peak = np.abs(x).max(1)
    tried = kept(peak[:, None] / np.array(divisors, F), stored)
    # The first holds the largest value: one up where it was rounded to a subnormal number that does not.
    step = {"F16": F(2.0**-24), "BF16": F(2.0**-133), "F32": F(2.0**-149)}[stored]
    normal = F(2.0**-14) if stored == "F16" else F(2.0**-126)
    short = (tried[:, 0] < normal) & (peak / tried[:, 0] > F(7.5))
    tried[:, 0] = np.where(short, tried[:, 0] + step, tried[:, 0])
    with np.errstate(over="ignore", invalid="ignore"):  # of what is too small to be searched
        inverse, unit = F(1) / tried, F(1) / tried[:, :1]
        share = x[:, None, :] * inverse[..., None]
        gap = share - np.rint(np.clip(share, F(-8), F(7)))
    parts = (gap * gap).reshape(*gap.shape[:2], -1, 16)
    sums = parts[:, :, 0]
    for j in range(1, parts.shape[2]):
        sums = sums + parts[:, :, j]
    while sums.shape[-1] > 1:
        half = sums.shape[-1] // 2
        sums = sums[..., :half] + sums[..., half:]
    errors = sums[..., 0] * ((tried * unit) * (tried * unit))
    chosen = np.where(peak >= F(2.0**-56), errors.argmin(1), 0)
    return np.where(peak == 0, F(1), tried[np.arange(len(x)), chosen]), chosen


def samples(kind, count, size):
    rng = np.random.default_rng(5)
    if kind == "normal":
        return rng.standard_normal((count, size)) * 0.02
    if kind == "heavy":
        return rng.standard_t(3, (count, size))
    if kind == "flat":
        return rng.uniform(-1, 1, (count, size))
    if kind == "whole":  # many errors are equal
        return rng.integers(-9, 10, (count, size)) * 0.5
    if kind == "of one sign":
        return np.abs(rng.standard_normal((count, size))) * rng.choice([-1, 1], (count, 1))
    if kind == "two":  # what gains most by giving up the largest
        values = rng.choice([5, -5, 3.5], (count, size))
        values[:, 0] = rng.uniform(5, 12, count)
        return values
    if kind == "few":  # two scales lose the same
        values = np.where(
            rng.random((count, size)) < 3.2 / size, rng.choice([3.5, -3.5, 26], (count, size)), 0
        )
        values[:, 0] = -56
        return values
    if kind == "tiny":  # F16 has but some numbers for the scales
        return rng.standard_normal((count, size)) * 2.0**-22
    exponents = rng.integers(-24, 15, (count, 1))  # to the ends of F16, and zeros
    return rng.standard_normal((count, size)) * 2.0**exponents * (np.arange(count) % 9 > 0)[:, None]


@pytest.mark.parametrize("stored", KEPT)
@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
@pytest.mark.parametrize(
    "kind", ["normal", "heavy", "flat", "whole", "of one sign", "two", "few", "tiny", "wide"]
)
def test_the_choice_is_that_of_trying_all(kind, source, stored):
    chosen = set()
    for size, divisors in ((32, DIVISORS["mse"]), (64, BEYOND), (128, DIVISORS["mse"])):
        values = samples(kind, 150, size)
        if source == "F16":
            values = np.clip(values, -60000, 60000)
        values = values.astype(KEPT[source])
        wanted, numbers = by_trying_all(values, divisors, stored)
        np.testing.assert_array_equal(run(values, divisors, stored), wanted)
        chosen |= set(numbers)
    assert len(chosen) > 2


def test_rows_that_are_one_group():
    values = np.random.default_rng(1).standard_normal((3, 5120)).astype(F)
    wanted, numbers = by_trying_all(values, DIVISORS["mse"], "F32")
    np.testing.assert_array_equal(run(values, DIVISORS["mse"], "F32"), wanted)
    assert numbers.all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 33, 63])
def test_what_is_not_finite_is_told(bad, at):
    values = np.ones((2, 32), F)
    values.flat[at] = bad
    assert run(values, DIVISORS["mse"], "BF16") is None
