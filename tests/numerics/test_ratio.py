"""A quotient in two steps is rounded to the same integer, wherever it is said to be."""

import numpy as np

from transcode.numerics.jit import kernel
from transcode.numerics.ratio import distinct, ratio, remainder

F = np.float32


@kernel
def share(x, scale, out, sure):
    for i in range(x.shape[0]):
        inverse = F(1) / scale[i]
        out[i] = ratio(x[i], inverse, remainder(scale[i], inverse))
        sure[i] = distinct(scale[i])


def test_a_product_with_one_over_the_scale_is_rounded_to_the_same_integers():
    """At quotients beside those halfway between two integers, for scales near to the doubtful ones."""
    rng = np.random.default_rng(3)
    count = 200_000
    near = rng.integers(1 << 6, 1 << 7, count) * (1 << 17) + rng.integers(-80, 81, count)
    mantissa = np.clip(
        np.where(rng.random(count) < 0.8, near, rng.integers(1 << 23, 1 << 24, count)), 1 << 23, (1 << 24) - 1
    )
    scale = mantissa.astype(F) * F(2.0**-30)
    half = (rng.integers(0, 127, count) + 0.5).astype(F)
    beside = half + rng.choice([-1, -0.5, -0.25, 0, 0.5, 1], count) * np.spacing(half).astype(np.float64)
    x = (beside * scale).astype(F)
    out, sure = np.empty_like(x), np.empty(count, np.bool_)
    share(x, scale, out, sure)
    low = mantissa & 0x1FFFF
    off = np.minimum(low, (1 << 17) - low)
    np.testing.assert_array_equal(sure, (off == 0) | (off > 64))
    np.testing.assert_array_equal(np.rint(out)[sure], np.rint(x / scale)[sure])
