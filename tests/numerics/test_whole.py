"""Vectors are rounded, narrowed and taken from bytes as numpy does."""

import numpy as np

from transcode.numerics.jit import kernel
from transcode.numerics.vectors import get16, put16
from transcode.numerics.whole import byte16, ceil, floor, nearest_integer, put_integers32, put_numbers16

F = np.float32


@kernel
def numbered(row, words, which, rounded, numbers, narrow, parts):
    x, y = get16(row, 3), get16(row, 19)
    put16(rounded, 0, floor(x))
    put16(rounded, 16, ceil(x))
    put16(rounded, 32, nearest_integer(x))
    put_numbers16(numbers, 1, nearest_integer(y))
    put_integers32(narrow, 5, x, y)
    put16(parts, 0, byte16(words, 2, which))


def test_numbers_are_rounded_and_narrowed():
    random = np.random.default_rng(0)
    row = random.uniform(-200, 200, 35).astype(F)
    row[3:11] = [0.5, 1.5, -0.5, -2.5, 127.5, -128.5, 3, 126.5]
    words = random.integers(0, 1 << 32, 18, dtype=np.uint32)
    for which in range(4):
        rounded, parts, numbers = np.empty(48, F), np.empty(16, F), np.full(18, 9, np.int32)
        narrow = np.full(38, 99, np.int8)
        numbered(row, words, which, rounded, numbers, narrow, parts)
        x = row[3:19]
        np.testing.assert_array_equal(rounded.reshape(3, 16), [np.floor(x), np.ceil(x), np.rint(x)])
        assert numbers.tolist() == [9, *np.rint(row[19:]).astype(int), 9]
        assert narrow.tolist() == [99] * 5 + np.clip(np.rint(row[3:]), -128, 127).astype(int).tolist() + [99]
        np.testing.assert_array_equal(parts, words[2:].view(np.int8).reshape(16, 4)[:, which])
