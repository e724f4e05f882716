"""The kernels of LoRA merges: right to the last bit, whatever surrounds an element."""

from fractions import Fraction

import numpy as np
import pytest

from transcode.numerics.lora import (
    BAND,
    RANKS,
    add,
    add_column_squares,
    add_hadamard,
    add_kronecker,
    add_product,
    padded,
    row_squares,
)


def rounded(exact: Fraction) -> Fraction:
    """To float32, nearest even, by whole numbers; for results in the normal range."""
    if exact == 0:
        return exact
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    step = Fraction(2) ** (exponent - 23)
    steps = round(size / step)  # Python rounds halves to even
    return steps * step * (1 if exact > 0 else -1)


def chain(up, down, scale, before):
    """The documented chain of fused multiply-adds for one element, in exact arithmetic."""
    total = Fraction(0)
    for a, b in zip(up, down, strict=True):
        total = rounded(Fraction(float(a)) * Fraction(float(b)) + total)
    return float(rounded(Fraction(float(scale)) * total + Fraction(float(before))))


def product(up, down, scale, before):
    out = before.copy()
    add_product(up, down, np.float32(scale), out)
    return out


def test_each_element_is_the_documented_chain():
    rng = np.random.default_rng(1)
    up = rng.standard_normal((BAND * 2, 12), np.float32)
    down = rng.standard_normal((12, 7), np.float32)
    before = rng.standard_normal((BAND * 2, 7), np.float32)
    got = product(up, down, 0.3, before)
    for i in range(up.shape[0]):
        for j in range(7):
            assert got[i, j] == chain(up[i], down[:, j], np.float32(0.3), before[i, j])


@pytest.mark.parametrize("columns", [1, 511, 512, 513, 1300])
@pytest.mark.parametrize("rank", [4, 16, 64])
def test_near_the_float64_product(rank, columns):
    rng = np.random.default_rng(rank * columns)
    up = rng.standard_normal((8, rank), np.float32)
    down = rng.standard_normal((rank, columns), np.float32)
    before = rng.standard_normal((8, columns), np.float32)
    exact = before + 0.7 * (up.astype(np.float64) @ down.astype(np.float64))
    bound = np.abs(before) + 0.7 * (np.abs(up).astype(np.float64) @ np.abs(down)) * rank
    assert (np.abs(product(up, down, 0.7, before) - exact) <= bound * 2.0**-23).all()


def test_small_integers_are_exact():
    rng = np.random.default_rng(2)
    up = rng.integers(-9, 9, (12, 8)).astype(np.float32)
    down = rng.integers(-9, 9, (8, 530)).astype(np.float32)
    before = rng.integers(-99, 99, (12, 530)).astype(np.float32)
    np.testing.assert_array_equal(product(up, down, 2, before), before + 2 * (up @ down))


def test_neighbours_and_padding_change_nothing():
    rng = np.random.default_rng(3)
    up = rng.standard_normal((24, 20), np.float32)
    down = rng.standard_normal((20, 1100), np.float32)
    before = rng.standard_normal((24, 1100), np.float32)
    whole = product(up, down, 1.5, before)
    for rows in (slice(0, 4), slice(8, 20)):
        np.testing.assert_array_equal(product(up[rows], down, 1.5, before[rows]), whole[rows])
    for left, right in ((0, 1), (500, 1100), (1099, 1100)):
        part = np.ascontiguousarray(down[:, left:right]), np.ascontiguousarray(before[:, left:right])
        np.testing.assert_array_equal(product(up, part[0], 1.5, part[1]), whole[:, left:right])
    more_up = np.zeros((24, 20 + RANKS), np.float32)
    more_up[:, :20] = up
    more_down = np.zeros((20 + RANKS, 1100), np.float32)
    more_down[:20] = down
    np.testing.assert_array_equal(product(more_up, more_down, 1.5, before), whole)


def test_add_rounds_once():
    rng = np.random.default_rng(4)
    values, before = rng.standard_normal((2, 50), np.float32)
    out = before.copy()
    add(values, np.float32(0.1), out)
    for value, was, now in zip(values, before, out, strict=True):
        assert now == chain([np.float32(value)], [np.float32(1)], np.float32(0.1), was)


def test_padded():
    assert [padded(count) for count in (0, 1, 4, 5)] == [0, 4, 4, 8]


def test_hadamard_and_kronecker_are_the_documented_chains():
    rng = np.random.default_rng(5)
    left, right, before = rng.standard_normal((3, 20), np.float32)
    out = before.copy()
    add_hadamard(left, right, np.float32(0.3), out)
    for a, b, was, now in zip(left, right, before, out, strict=True):
        product_ = float(rounded(Fraction(float(a)) * Fraction(float(b))))
        assert now == chain([product_], [1.0], np.float32(0.3), was)
    rows, before = rng.standard_normal((4, 7), np.float32), rng.standard_normal((4, 35), np.float32)
    out = before.copy()
    add_kronecker(left[:5], rows, np.float32(0.3), out)
    for i in range(4):
        for a in range(5):
            for k in range(7):
                product_ = float(rounded(Fraction(float(left[a])) * Fraction(float(rows[i, k]))))
                assert out[i, a * 7 + k] == chain([product_], [1.0], np.float32(0.3), before[i, a * 7 + k])


def test_sums_of_squares():
    rows = np.random.default_rng(6).standard_normal((9, 33)).astype(np.float32) * 1e20
    exact = rows.astype(np.float64) ** 2
    sums, more = np.empty(9), np.full(33, 7.0)
    row_squares(rows, sums)
    add_column_squares(rows, more)
    np.testing.assert_allclose(sums, exact.sum(1), rtol=1e-14)
    np.testing.assert_allclose(more, exact.sum(0) + 7, rtol=1e-14)
    part = np.full(33, 7.0)
    for start in (0, 4, 5):
        add_column_squares(rows[start : {0: 4, 4: 5, 5: 9}[start]], part)
    np.testing.assert_array_equal(part, more)
