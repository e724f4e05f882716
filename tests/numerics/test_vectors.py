"""Vectors of a block hold what they should, for each source, at any address."""

import numpy as np
import pytest

from transcode.numerics.jit import kernel
from transcode.numerics.lanes import bits
from transcode.numerics.packing import pack4, pack6
from transcode.numerics.vectors import columns16, columns32, total, values16, values32
from transcode.numerics.vectors import pack4 as store4
from transcode.numerics.vectors import pack6 as store6
from transcode.numerics.vectors import pack8 as store8

F = np.float32


@kernel
def sums(row, index, out):
    even, odd = columns32(row, index)
    out[0], out[1], out[2] = total(even), total(odd), total(values32(row, index))
    even, odd = columns16(row, index)
    out[3], out[4], out[5] = total(even), total(odd), total(values16(row, index))


def source(dtype, values):
    if dtype == "BF16":
        return (values.astype(F).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16).view(np.int16) if dtype == "F16" else values.astype(F).view(np.uint32)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("index", [0, 1, 7])
def test_each_element_is_in_its_half(dtype, index):
    for place in range(32):
        values = np.full(41, 0.0)
        values[index + place] = -1.5
        outside = [k for k in range(41) if not index <= k < index + 32]
        values[outside] = 64
        out = np.full(6, np.nan, F)
        row = source(dtype, values)
        sums(row, index, out)
        odd = place % 2
        wide = [-1.5 * (not odd), -1.5 * odd, -1.5]
        narrow = wide if place < 16 else [0, 0, 0]
        assert out.tolist() == wide + narrow


def test_sum_adds_halves_to_halves():
    values = np.random.default_rng(0).standard_normal(32).astype(F)
    out = np.empty(6, F)
    sums(values.view(np.uint32), 0, out)
    for run, found in ((values, out[2]), (values[:16], out[5]), (values[0::2], out[0])):
        while run.size > 1:
            run = run[: run.size // 2] + run[run.size // 2 :]
        assert found == run[0]


@kernel
def store(row, width, out, index):
    even, odd = columns32(row, 0)  # any float32 is some code
    low, high = bits(even), bits(odd)
    if width == 4:
        store4(out, index, low, high)
    elif width == 6:
        store6(out, index, low, high)
    else:
        store8(out, index, low, high)


@pytest.mark.parametrize("width", [4, 6, 8])
@pytest.mark.parametrize("index", [0, 3])
def test_codes_are_packed_in_order(width, index):
    words = np.random.default_rng(width).integers(0, 1 << 32, 32, dtype=np.uint32)  # junk above the codes
    codes = (words & ((1 << width) - 1)).astype(np.uint8)
    wanted = {4: pack4, 6: pack6, 8: np.array}[width](codes)
    out = np.full(40, 0xA5, np.uint8)
    store(words, width, out, index)
    stop = index + wanted.size
    np.testing.assert_array_equal(out[index:stop], wanted)
    assert (np.delete(out, slice(index, stop)) == 0xA5).all()
