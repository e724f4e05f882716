"""Rotations of orthogonal adapters, against numpy's and by what rotations are."""

import numpy as np
import pytest

from transcode.numerics.rotation import butterfly_rows, cayley, neumann


def skew(count, size, scale=1.0):
    values = scale * np.random.default_rng(size).standard_normal((count, size, size))
    return values - values.swapaxes(1, 2)


@pytest.mark.parametrize("scale", [0.01, 1, 30])
@pytest.mark.parametrize("size", [1, 2, 5, 32, 64, 65, 131, 200])
def test_cayley(size, scale):
    turned = skew(3, size, scale)
    before = turned.copy()
    got = cayley(turned)
    np.testing.assert_array_equal(turned, before)
    one = np.eye(size)
    np.testing.assert_allclose(got, (one + turned) @ np.linalg.inv(one - turned), atol=1e-11)
    np.testing.assert_allclose(got @ got.swapaxes(1, 2), np.broadcast_to(one, got.shape), atol=1e-11)


def test_a_quarter_turn():
    quarter = np.array([[[0.0, 1.0], [-1.0, 0.0]]])
    np.testing.assert_array_equal(cayley(quarter), quarter)


@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5, 9])
def test_neumann(terms):
    turned = skew(2, 7, 0.2)
    powers = [np.linalg.matrix_power(turned, n) for n in range(max(terms, 4))]
    wanted = powers[0] + sum((2 * power for power in powers[1 : min(terms, 3)]), np.zeros(1))
    if terms > 2:
        wanted = wanted + sum((2 * power for power in powers[3 : terms - 1]), np.zeros(1))
        wanted = wanted + powers[max(terms - 1, 3)]
    np.testing.assert_allclose(neumann(turned, terms), wanted, atol=1e-13)
    if terms == 9:
        assert np.abs(neumann(skew(2, 7, 0.02), 9) - cayley(skew(2, 7, 0.02))).max() < 1e-7


@pytest.mark.parametrize(("stages", "count", "size"), [(1, 3, 4), (3, 4, 2), (2, 6, 4), (2, 2, 6)])
def test_butterflies(stages, count, size):
    blocks = np.random.default_rng(1).standard_normal((stages, count, size, size))
    width = count * size
    whole = np.eye(width)
    for stage in range(stages):
        half = 2**stage * size // 2
        places = np.zeros((width, width))
        for place in range(width):
            c, rest = divmod(place, 2 * half)
            g, t = divmod(rest, half)
            places[c * 2 * half + t * 2 + g, place] = 1
        turns = np.zeros((width, width))
        for n in range(count):
            turns[n * size : (n + 1) * size, n * size : (n + 1) * size] = blocks[stage, n]
        whole = places.T @ turns @ places @ whole
    rows = np.empty((width - 1, width))
    butterfly_rows(blocks, 1, rows)
    np.testing.assert_allclose(rows, whole[1:], atol=1e-12)
