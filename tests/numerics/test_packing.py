"""Packing is a bijection, and gives the bytes that its definition says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.numerics.packing import pack4, pack6, swap_nibbles, unpack4, unpack6


def test_nibbles_by_example():
    codes = np.array([[1, 2, 3, 15]], np.uint8)
    assert pack4(codes).tolist() == [[0x21, 0xF3]]
    assert pack4(codes, high_first=True).tolist() == [[0x12, 0x3F]]
    assert swap_nibbles(pack4(codes)).tolist() == [[0x12, 0x3F]]


@pytest.mark.parametrize("high_first", [False, True])
def test_every_pair_of_nibbles(high_first):
    packed = np.arange(256, dtype=np.uint8).reshape(2, 4, 32)
    codes = unpack4(packed, high_first=high_first)
    assert codes.shape == (2, 4, 64)
    assert codes.max() == 15
    np.testing.assert_array_equal(pack4(codes, high_first=high_first), packed)
    np.testing.assert_array_equal(unpack4(swap_nibbles(packed), high_first=not high_first), codes)
    np.testing.assert_array_equal(swap_nibbles(swap_nibbles(packed)), packed)


def test_swapping_in_place():
    packed = np.array([[0x21, 0xF3]], np.uint8)
    assert swap_nibbles(packed, packed) is packed
    assert packed.tolist() == [[0x12, 0x3F]]


@given(st.lists(st.integers(0, 63), min_size=4, max_size=64).map(lambda codes: codes[: len(codes) // 4 * 4]))
def test_six_bits_are_a_little_endian_stream(codes):
    row = np.array([codes], np.uint8)
    packed = pack6(row)
    stream = sum(code << (6 * k) for k, code in enumerate(codes))
    assert packed.tobytes() == stream.to_bytes(len(codes) * 6 // 8, "little")
    np.testing.assert_array_equal(unpack6(packed), row)


def test_columns_that_do_not_fill_bytes():
    with pytest.raises(ValueError, match="3 columns"):
        pack4(np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="6 columns"):
        pack6(np.zeros((2, 6), np.uint8))
    with pytest.raises(ValueError, match="4 bytes"):
        unpack6(np.zeros((2, 4), np.uint8))
