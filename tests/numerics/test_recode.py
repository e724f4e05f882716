"""The kernel against numpy's way of looking up."""

from __future__ import annotations

import numpy as np
import pytest

from transcode.numerics.recode import recode


@pytest.mark.parametrize(("rows", "columns", "width"), [(1, 1, 8), (3, 32, 16), (5, 200, 128), (2, 96, 96)])
def test_codes_and_the_worst_of_each_cell(rows, columns, width):
    rng = np.random.default_rng(columns)
    cells = -(-columns // width)
    codes = rng.integers(0, 256, (rows, columns), np.uint8)
    shifts = rng.integers(0, 5, (rows, cells)).astype(np.int32)
    table, states = rng.integers(0, 256, (5, 256), np.uint8), rng.integers(0, 3, (5, 256), np.uint8)
    out, worst = np.empty_like(codes), np.empty((rows, cells), np.uint8)
    recode(codes, shifts, width, table, states, out, worst)
    each = np.repeat(shifts, width, axis=1)[:, :columns]
    np.testing.assert_array_equal(out, table[each, codes])
    found = states[each, codes]
    for cell in range(cells):
        inside = found[:, cell * width : (cell + 1) * width]
        np.testing.assert_array_equal(worst[:, cell], inside.max(axis=1))
