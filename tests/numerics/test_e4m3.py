"""Scales in E4M3, sixteen at once, are those of ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from transcode.numerics.e4m3 import e4m3_code, e4m3_value
from transcode.numerics.jit import kernel
from transcode.numerics.vectors import get16, put16


@kernel
def both(wanted, codes, values):
    for i in range(0, wanted.shape[0], 16):
        code = e4m3_code(get16(wanted, i))
        put16(codes, i, code)
        put16(values, i, e4m3_value(code))


def test_codes_and_values():
    exact = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    between = (exact[1:] + exact[:-1]) / 2
    random = np.exp2(np.random.default_rng(0).uniform(-14, 9, 4000)).astype(np.float32)
    edges = [np.nextafter(between, side).astype(np.float32) for side in (np.float32(0), np.float32(1e9))]
    wanted = np.concatenate([exact, between, *edges, random, np.float32([1e-45, 500, 1e30, np.inf])])
    wanted = np.concatenate([wanted, np.zeros(-len(wanted) % 16, np.float32)])
    codes, values = np.empty_like(wanted), np.empty_like(wanted)
    both(wanted, codes, values)
    expected = np.minimum(wanted, 448).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(codes, expected.view(np.uint8))
    np.testing.assert_array_equal(values, expected.astype(np.float32))
