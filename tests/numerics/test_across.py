"""Sixteen groups side by side."""

from __future__ import annotations

import numpy as np
import pytest

from transcode.numerics.across import across16, back_nibbles, back_uppers, peaks16, total16
from transcode.numerics.jit import kernel
from transcode.numerics.lanes import real
from transcode.numerics.vectors import get16, put16, total

WIDTH = 48


@kernel
def turned(values, start, stride, last, out):
    across16(values, start, stride, last, out, 16)


@kernel
def packed(rows, out, start, stride, last, peaks):
    back_nibbles(rows, 16, out, start, stride, last)
    back_uppers(rows, 16, out, 200 + start // 2, stride // 2, 200 + last // 2)
    put16(peaks, 0, real(peaks16(rows, 17)))


@kernel
def totals(rows, out, alone):
    put16(out, 0, total16(rows, 16))
    for g in range(16):
        for k in range(8):
            alone[k] = rows[16 + 16 * k + g]
            alone[k + 8] = np.float32(0)
        alone[16 + g] = total(get16(alone, 0))


@pytest.mark.parametrize("groups", [1, 5, 16, 19])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32])
def test_row_j_holds_value_j_of_each_group_and_the_last_stands_for_those_behind_it(dtype, groups):
    random = np.random.default_rng(groups)
    exact = random.integers(-100, 100, (groups, WIDTH)).astype(np.float32)
    values = exact.view(np.uint32) if dtype == np.uint32 else (exact.view(np.uint32) >> 16).astype(np.uint16)
    if dtype == np.int16:
        values = exact.astype(np.float16).view(np.int16)
    out = np.full(16 + 256 + 16, 7, np.float32)
    turned(values.reshape(-1), 16, WIDTH, (groups - 1) * WIDTH + 16, out)
    expected = exact[np.minimum(np.arange(16), groups - 1), 16:32].T
    np.testing.assert_array_equal(out[16:272].reshape(16, 16), expected)
    assert (np.delete(out, np.s_[16:272]) == 7).all()  # and nothing beside it


@pytest.mark.parametrize("groups", [5, 16])
def test_the_way_back_packs_codes_of_each_group(groups):
    random = np.random.default_rng(groups)
    codes = random.integers(0, 64, (groups, 16))
    rows = np.zeros((17, 16), np.float32)
    rows[1:] = codes[np.minimum(np.arange(16), groups - 1)].T
    rows[0] = -70 * (np.arange(16) == 3)
    out, peaks = np.full(400, 77, np.uint8), np.empty(16, np.float32)
    packed(rows.reshape(-1), out, 8, 10, 8 + 10 * (groups - 1), peaks)
    low = (codes[:, 0::2] & 15) | (codes[:, 1::2] & 15) << 4
    four = codes.reshape(groups, 4, 4) >> 4
    high = (four << np.arange(0, 8, 2)).sum(2)
    expected = np.full(400, 77, np.uint8)
    for group in range(groups):
        expected[8 + 10 * group :][:8] = low[group]
        expected[204 + 5 * group :][:4] = high[group]
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(peaks, np.abs(rows).max(axis=0))


def test_sums_are_those_of_lanes_added_in_halves():
    rows = (np.random.default_rng(0).standard_normal((9, 16)) ** 3).astype(np.float32)
    out, alone = np.empty(16, np.float32), np.empty(32, np.float32)
    totals(rows.reshape(-1), out, alone)
    part = rows[1:]
    while len(part) > 1:
        part = part[: len(part) // 2] + part[len(part) // 2 :]
    np.testing.assert_array_equal(out, part[0])
    np.testing.assert_array_equal(out, alone[16:])
    assert (out != rows[1:].sum(axis=0, dtype=np.float32)).any()  # another order tells
