"""The kernel against its own words, in Python's integers and floats."""

from __future__ import annotations

import numpy as np
import pytest

from transcode.numerics.dither import dither

MASK = (1 << 64) - 1


def chance(key: int, number: int) -> float:
    """SplitMix64's output number ``number`` from the seed ``key``, as a fraction."""
    mixed = (key + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return ((mixed ^ (mixed >> 31)) >> 11) * 2.0**-53


def test_splitmix_is_that_of_the_paper():
    """The first numbers of seed 1234567, as its reference prints them."""
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for number, one in enumerate(wanted):
        assert chance(1234567, number) == (one >> 11) * 2.0**-53


@pytest.mark.parametrize("width", [4, 8, 32])
def test_each_value_goes_to_a_neighbour(width):
    rng = np.random.default_rng(width)
    values = rng.standard_normal((5, 32)).astype(np.float32) * 4
    values[0, :4] = [0, 6, -100, 100]
    scales = rng.uniform(0.5, 2, (5, 32 // width))
    zeros = rng.integers(-2, 3, scales.shape).astype(np.float64)
    scales[0], zeros[0] = 1, 0
    numbers = np.array([-6.0, -4, -1, 0, 0.5, 2, 3, 6])
    codes = np.array([14, 13, 11, 0, 1, 4, 5, 7], np.uint8)
    out = np.empty(values.shape, np.uint8)
    dither(values, scales, zeros, width, numbers, codes, np.uint64(99), np.uint64(320), out)
    for (i, j), value in np.ndenumerate(values):
        wanted = float(value) / scales[i, j // width] + zeros[i, j // width]
        if wanted <= -6 or wanted >= 6:
            assert out[i, j] == (14 if wanted < 0 else 7)
            continue
        low = max(number for number in numbers if number <= wanted)
        high = min(number for number in numbers if number > wanted)
        up = wanted - low > chance(99, 320 + i * 32 + j) * (high - low)
        assert out[i, j] == codes[list(numbers).index(high if up else low)]
    assert out[0, :4].tolist() == [0, 7, 14, 7]
