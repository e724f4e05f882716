"""Codes back into float32, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from transcode.numerics.decode import by_table


@pytest.mark.parametrize(("height", "width"), [(1, 7), (1, 3), (2, 3), (4, 4), (9, 9), (1, 1)])
def test_each_block_has_its_scale_and_zero(height, width):
    random = np.random.default_rng(height * 10 + width)
    rows, columns = 5, 7
    codes = random.integers(0, 256, (rows, columns), np.uint8)
    table = random.standard_normal(256).astype(np.float32)
    shape = (-(-rows // height), -(-columns // width))
    scales = random.standard_normal(shape).astype(np.float32)
    zeros = random.integers(-8, 8, shape).astype(np.float32)
    out = np.full((rows, columns), 99, np.float32)
    by_table(codes, table, height, width, scales, zeros, out)

    def spread(blocks):
        return np.repeat(np.repeat(blocks, height, 0), width, 1)[:rows, :columns]

    np.testing.assert_array_equal(out, (table[codes] - spread(zeros)) * spread(scales))


def test_what_is_not_finite_stays_so():
    codes = np.array([[0, 1, 2, 3]], np.uint8)
    table = np.zeros(256, np.float32)
    table[:4] = [np.nan, np.inf, -np.inf, -0.0]
    one = np.ones((1, 1), np.float32)
    out = np.empty((1, 4), np.float32)
    by_table(codes, table, 1, 4, -one, one * 0, out)
    assert np.isnan(out[0, 0])
    assert out[0, 1:3].tolist() == [-np.inf, np.inf]
    assert out[0, 3] == 0
