"""The largest magnitude is found wherever it is, whatever its sign; what is not finite is larger still."""

import numpy as np
import pytest

from transcode.numerics.jit import kernel
from transcode.numerics.lanes import widen
from transcode.numerics.peaks import peak16, peak32, peak_between, peaks16, peaks32
from transcode.numerics.vectors import put16


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


@kernel
def peaks_of_blocks(row, index, out):
    put16(out, 0, widen(peaks16(row, index)))
    put16(out, 16, widen(peaks32(row, index)))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_sixteen_blocks_at_once(dtype):
    """Of all places of a block, each is once that of the largest."""
    rng = np.random.default_rng(1)
    for index in range(32):
        values = rng.uniform(-1, 1, 600)
        values[index : index + 512].reshape(16, 32)[range(16), rng.permutation(32)[:16]] = rng.choice(
            [-2, 3], 16
        )
        sizes = np.abs(as_floats(source(dtype, values), dtype))[index : index + 512]
        found = np.zeros(32, np.float32)
        peaks_of_blocks(source(dtype, values), index, found)
        np.testing.assert_array_equal(found[:16], sizes[:256].reshape(16, 16).max(1))
        np.testing.assert_array_equal(found[16:], sizes.reshape(16, 32).max(1))


def as_floats(bits, dtype):
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16 if dtype == "F16" else np.float32).astype(np.float32)
