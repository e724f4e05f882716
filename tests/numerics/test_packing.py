"""Packing and swizzling are bijections, and give the bytes that their definitions and two libraries say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transcode.numerics.pack import pack_nibbles
from transcode.numerics.packing import pack4, pack6, swap_nibbles, unpack4, unpack6
from transcode.numerics.swizzle import padded, swizzle, unswizzle


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


def test_the_kernel_packs_likewise():
    codes = np.arange(256, dtype=np.uint8).view(np.int8)
    out = np.empty(128, np.uint8)
    pack_nibbles(codes.view(np.uint16), out)
    np.testing.assert_array_equal(out, pack4(codes.view(np.uint8) & 15))


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


SHAPES = [(1, 1), (128, 4), (129, 5), (256, 8), (300, 7), (1024, 36), (127, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_swizzle_follows_its_formula_and_comes_back(shape):
    rows, columns = shape
    scales = np.random.default_rng(0).integers(1, 256, shape, np.uint8)
    out = swizzle(scales)
    assert out.shape == padded(rows, columns)
    flat = out.reshape(-1)
    tiles = -(-columns // 4)
    m, k = np.indices(shape)
    at = ((m // 128) * tiles + k // 4) * 512 + (m % 32) * 16 + ((m % 128) // 32) * 4 + k % 4
    np.testing.assert_array_equal(flat[at], scales)
    rest = np.delete(flat, at.reshape(-1))
    assert not rest.any()
    np.testing.assert_array_equal(unswizzle(out, rows, columns), scales)
    np.testing.assert_array_equal(unswizzle(flat, rows, columns), scales)


@pytest.mark.parametrize("shape", SHAPES)
def test_swizzle_equals_comfy_kitchen_and_torchao(shape):
    eager = pytest.importorskip("comfy_kitchen.float_utils")
    scales = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    theirs = eager.to_blocked(torch.from_numpy(scales), flatten=True).numpy()
    np.testing.assert_array_equal(swizzle(scales).reshape(-1), theirs.reshape(-1))
    utils = pytest.importorskip("torchao.prototype.mx_formats.utils")
    theirs = utils.to_blocked(torch.from_numpy(scales), use_triton_kernel=False).numpy()
    np.testing.assert_array_equal(swizzle(scales).reshape(-1), theirs.reshape(-1))


@pytest.mark.parametrize("shape", [(300, 7), (512, 12), (130, 4)])
def test_tiles_of_128_rows_are_contiguous_pieces(shape):
    scales = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    whole = swizzle(scales)
    pieces = [swizzle(scales[start : start + 128]) for start in range(0, shape[0], 128)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    out = np.full(whole.shape, 0xEE, np.uint8)
    assert swizzle(scales, out) is out
    np.testing.assert_array_equal(out, whole)


def test_a_wrong_number_of_bytes():
    with pytest.raises(ValueError, match="512 are needed for 3 x 3 scales"):
        unswizzle(np.zeros(500, np.uint8), 3, 3)
