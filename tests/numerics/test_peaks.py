"""The largest magnitude is found wherever it is, whatever its sign; what is not finite is larger still."""

import numpy as np
import pytest

from transcode.numerics.jit import kernel
from transcode.numerics.peaks import peak16, peak32, peak_between


@kernel
def peaks(row, index, size, out):
    out[0], out[1], out[2] = peak16(row, index), peak32(row, index), peak_between(row, index, index + size)


def source(dtype, values):
    if dtype == "BF16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if dtype == "F16":
        return values.astype(np.float16).view(np.int16)
    return values.astype(np.float32).view(np.uint32)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("index", [0, 7])
@pytest.mark.parametrize("large", [-1.5, np.inf, np.nan])
def test_each_place_counts_and_none_beside_it(dtype, index, large):
    rng = np.random.default_rng(0)
    for place in range(48):
        values = rng.uniform(-1, 1, 60)
        inside = np.zeros(60, bool)
        inside[index : index + 48] = True
        values[~inside] = 64
        values[index + place] = large
        row = source(dtype, values)
        sizes = row & np.array(0x7FFF if row.itemsize == 2 else 0x7FFFFFFF, row.dtype)
        found = np.zeros(3, row.dtype)
        peaks(row, index, 48, found)
        assert found.tolist() == [sizes[index : index + size].max() for size in (16, 32, 48)]
        assert found[2] == source(dtype, np.abs(np.array([large])))[0]
