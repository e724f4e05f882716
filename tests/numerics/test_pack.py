"""The kernel that packs 4-bit codes, pair by pair."""

import numpy as np

from transcode.numerics.pack import pack_nibbles


def test_every_pair_and_whatever_stands_above_its_bits():
    low, high = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    codes = np.stack([low.reshape(-1), high.reshape(-1)], 1).astype(np.int8)
    out = np.empty(len(codes), np.uint8)
    pack_nibbles(codes.reshape(-1).view(np.uint16), out)
    np.testing.assert_array_equal(out, low.reshape(-1) % 16 + high.reshape(-1) % 16 * 16)


def test_nothing_is_packed_of_nothing():
    pack_nibbles(np.empty(0, np.uint16), np.empty(0, np.uint8))
