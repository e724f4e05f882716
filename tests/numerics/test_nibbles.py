"""The kernel of 4-bit integers: of the scales it tries the best, all sixteen codes, the even column first."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.numerics.lanes import STORED
from transcode.numerics.nibbles import nibbles

F = np.float32
KEPT = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}


def run(values, divisors, stored="F32"):
    count, size = values.shape
    bits = np.ascontiguousarray(values).view(np.uint32).reshape(-1)
    bits.setflags(write=False)
    codes, scales = np.full(count * size // 2, 0x99, np.uint8), np.full(count, np.nan, F)
    if not nibbles(bits, size, STORED[stored], np.array(divisors, F), codes, scales):
        return None
    numbers = np.stack([codes & 15, codes >> 4], -1).reshape(count, size).astype(np.int8)
    return (numbers ^ 8) - 8, scales[:, None]


@pytest.mark.parametrize("stored", KEPT)
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(
    "divisors",
    [(7, 8, 8.75), tuple(7 + k / 4 for k in range(12))],
    ids=["few", "more"],
)
def test_the_best_of_the_scales_it_tries(stored, size, divisors):
    """Each amax over a divisor, rounded to its dtype; the errors in float64."""
    values = np.random.default_rng(3).standard_t(3, (60, size)).astype(F)
    values[0] = 0
    values[1, 2:] = np.resize([5, -5, 3.5], size - 2)  # what gains most by giving up the largest
    values[1, :2] = 9, 0
    values[2], values[3] = np.abs(values[2]), -np.abs(values[3])
    values[4] = np.resize([-8, 7, 1, 0], size)
    codes, scales = run(values, divisors, stored)
    peak = np.abs(values).max(1, keepdims=True)
    tried = np.where(peak == 0, F(1), (peak / np.array(divisors, F)).astype(KEPT[stored]).astype(F))
    exact = values.astype(np.float64)

    def error(scale):
        return ((exact - np.clip(np.rint(values / scale), -8, 7) * scale.astype(np.float64)) ** 2).sum(1)

    errors = np.stack([error(one[:, None]) for one in tried.T], 1)
    # Errors are summed in float32: of two that are all but equal either may be taken.
    np.testing.assert_allclose(error(scales), errors.min(1), rtol=1e-5)
    assert all(scale in row for scale, row in zip(scales[:, 0], tried, strict=True))
    np.testing.assert_array_equal(codes, np.clip(np.rint(values / scales), -8, 7))
    chosen = errors.argmin(1)
    assert len(set(chosen)) > 2
    assert scales[0, 0] == 1
    assert set(np.unique(codes)) == set(range(-8, 8))


def test_of_equals_the_first_is_kept():
    """Four is exact under the scales 1, 2 and 4."""
    values = np.zeros((1, 32), F)
    values[0, 0] = 4
    for divisors, scale in (((4, 2, 1), 1), ((2, 4, 1), 2), ((1, 2, 4), 4)):
        assert run(values, divisors)[1][0, 0] == scale


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 33, 63])
def test_what_is_not_finite_is_told(bad, at):
    values = np.ones((2, 32), F)
    values.flat[at] = bad
    assert run(values, (7, 8, 8.75)) is None
