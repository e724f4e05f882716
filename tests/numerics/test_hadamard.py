"""Rows turned by a regular Hadamard matrix are the product with it, by butterflies of one order."""

import ml_dtypes
import numpy as np
import pytest
import torch

from transcode.core.dtypes import DTYPES
from transcode.core.scheme import ROTATIONS
from transcode.numerics import NonFinite
from transcode.numerics.hadamard import reject_turned, rotate, rotated_largest, rotated_symmetric, unit_of
from transcode.numerics.rows import as_bits

F = np.float32
SIZES = [size for size in ROTATIONS if 1 < size <= 4096]


def matrix(size):
    """Kronecker powers of the regular matrix of size 4, whose rows all sum to 2, float64."""
    four = (np.ones((4, 4)) - 2 * np.eye(4)[::-1]) / 2
    return four if size == 4 else np.kron(matrix(size // 4), four)


def turned(values, size):
    dtype = {np.dtype(F): "F32", np.dtype(np.float16): "F16", np.dtype(ml_dtypes.bfloat16): "BF16"}[
        values.dtype
    ]
    rows = values.view(DTYPES[dtype].carrier)
    out = np.full(values.shape, np.nan, F)
    rotate(as_bits(rows, DTYPES[dtype]), size, unit_of(size), out)
    return out


def butterflies(values, size):
    """The sums of a stage, in float32 and in their order, by strided views."""
    out = values.astype(F) * F(size**-0.5)
    stride = 1
    while stride < size:
        a, b, c, d = np.moveaxis(out.reshape(len(out), -1, 4, stride), 2, 0)
        p, m, q, n = a + b, a - b, c + d, c - d
        out = np.stack([p + n, p - n, q + m, q - m], 2).reshape(values.shape)
        stride *= 4
    return out


@pytest.mark.parametrize("size", SIZES)
def test_the_matrix_is_the_consumer_s(size):
    utils = pytest.importorskip("comfy_kitchen.tensor.int8_utils")
    np.testing.assert_array_equal(matrix(size), utils._build_hadamard(size, dtype=torch.float64).numpy())


@pytest.mark.parametrize("kind", [F, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_rows_times_the_matrix(size, kind):
    columns = 20 if size == 4 else 3 * size
    values = np.random.default_rng(size).standard_normal((3, columns)).astype(kind)
    out = turned(values, size)
    np.testing.assert_array_equal(out, butterflies(values, size))
    groups = values.astype(np.float64).reshape(3, -1, size)
    exact = (groups @ matrix(size)).reshape(out.shape)
    reach = np.repeat(np.abs(groups).sum(-1), size, -1) / size**0.5
    assert (np.abs(out - exact) <= np.log2(size) * 2.0**-24 * reach).all()


@pytest.mark.parametrize("size", SIZES)
def test_integers_come_out_exact_and_come_back_in_place(size):
    codes = np.random.default_rng(0).integers(-255, 256, (5, 2 * size))
    values = codes.astype(F)
    bits = values.view(np.uint32)
    bits.setflags(write=False)
    rotate(bits, size, unit_of(size), values)
    np.testing.assert_array_equal(values, (codes.reshape(5, 2, size) @ matrix(size)).reshape(values.shape))
    rotate(bits, size, unit_of(size), values)
    np.testing.assert_array_equal(values, codes)


def test_the_largest_of_turned_rows():
    values = np.random.default_rng(1).standard_normal((9, 512)).astype(F)
    line = np.empty((1, 512), F)
    bits = line.view(np.uint32)
    bits.setflags(write=False)
    rows = as_bits(values, DTYPES["F32"])
    assert rotated_largest(rows, 256, unit_of(256), line, bits) == np.abs(butterflies(values, 256)).max()
    values[4, 300] = np.nan
    assert not np.isfinite(rotated_largest(rows, 256, unit_of(256), line, bits))


def test_values_that_cannot_be_turned_are_named():
    values = np.zeros((3, 128), F)
    values[1, 64:] = 3e38
    values[1, 75] = -3.1e38
    found = reject_turned(values, DTYPES["F32"], 64)
    assert isinstance(found, NonFinite)
    assert (found.row, found.column, found.value) == (1, 75, float(F(-3.1e38)))
    values[2, 5] = np.inf  # what is not finite in the source comes first
    assert (reject_turned(values, DTYPES["F32"], 64).row) == 2


@pytest.mark.parametrize("given", [0, 0.03])
@pytest.mark.parametrize("columns", [48, 64])
def test_one_scale_is_written_where_there_is_one(columns, given):
    rows = np.random.default_rng(0).uniform(-1, 1, (3, columns)).astype(F).view(np.uint32)
    line, codes = np.empty((1, columns), F), np.empty((3, columns), np.int8)
    guarded = np.full((9, 1), 77, F)
    count = 1 if given else 3
    unit, limit = unit_of(16), F(127)
    rows.setflags(write=False)
    words = line.view(np.uint32)
    words.setflags(write=False)
    assert rotated_symmetric(rows, 16, unit, line, words, columns, 0, F(given), limit, codes, guarded[:count])
    x = butterflies(rows.view(F), 16)
    scales = F(given) if given else np.abs(x).max(1, keepdims=True) / limit
    np.testing.assert_array_equal(guarded[:count], scales)
    assert (guarded[count:] == 77).all()
    np.testing.assert_array_equal(codes, np.rint(x / scales))
