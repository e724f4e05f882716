"""Swizzling is a bijection, and gives the bytes that its formula and two libraries say."""

import numpy as np
import pytest
import torch

from transcode.numerics.swizzle import padded, swizzle, unswizzle

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
