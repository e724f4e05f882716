"""The quotient that spares the divider is the correctly rounded one."""

import numpy as np
import pytest

from transcode.numerics.jit import kernel
from transcode.numerics.lanes import quotient

F = np.float32


@kernel
def divide(x, scale, out):
    for i in range(x.shape[0]):
        out[i] = quotient(x[i], scale[i], F(1) / scale[i])


def check(x, scale):
    out = np.empty_like(x)
    divide(x, scale, out)
    np.testing.assert_array_equal(out, x / scale)


@pytest.mark.parametrize("low", [2.0**-60, 2.0**-20, 1.0, 2.0**60])
def test_random_operands(low):
    rng = np.random.default_rng(0)
    scale = (low * (1 + rng.random(1_000_000))).astype(F)
    share = np.exp2(rng.uniform(-20, 9, scale.size)) * rng.choice([-1, 1], scale.size)
    check((scale * share).astype(F), scale)


def test_divisors_with_the_longest_fractions():
    rng = np.random.default_rng(1)
    tail = np.arange(1, 65)
    scale = np.concatenate([2 - tail * 2.0**-23, 1 + tail * 2.0**-23]).astype(F)
    x = rng.integers(1 << 23, 1 << 24, (20_000, 1)).astype(F)
    check(np.tile(x, (1, scale.size)).ravel(), np.tile(scale, len(x)))


def test_quotients_as_near_to_the_middle_of_two_floats_as_can_be():
    # x * 2**25 = m * s + d with m odd (twice a float plus a half) and d small: solved for s modulo 2**25.
    rng = np.random.default_rng(2)
    middle = rng.integers(1 << 24, 1 << 25, 400_000) | 1
    inverse = np.ones_like(middle)
    for _ in range(5):  # Newton's iteration doubles the bits that are right
        inverse = inverse * (2 - middle * inverse) % (1 << 25)
    found = []
    for d in (-3, -2, -1, 1, 2, 3):
        scale = -d * inverse % (1 << 25)
        x, rest = np.divmod(middle * scale + d, 1 << 25)
        fine = (scale >= 1 << 23) & (scale < 1 << 24) & (x >= 1 << 22) & (x < 1 << 24)
        assert not rest[fine].any()
        found.append((x[fine], scale[fine]))
    x, scale = (np.concatenate(side).astype(F) for side in zip(*found, strict=True))
    assert x.size > 100_000
    check(x, scale)
    check(-x, scale)
