"""The largest magnitude of some rows, against numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.numerics.reduce import largest
from transcode.numerics.rows import as_bits

NATIVE = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def bits(values, name):
    return as_bits(np.asarray(values).astype(NATIVE[name]).view(DTYPES[name].carrier), DTYPES[name])


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 64), (2, 1)])
def test_the_largest_magnitude(name, shape):
    values = np.random.default_rng(shape[1]).standard_normal(shape).astype(NATIVE[name])
    for place in (0, values.size // 2, values.size - 1):
        values.reshape(-1)[place] = -9 - place
        assert largest(bits(values, name)) == np.abs(values.astype(np.float32)).max()


@pytest.mark.parametrize("name", NATIVE)
def test_ends(name):
    assert largest(bits(np.zeros((2, 3)), name)) == 0
    assert largest(bits([[-0.0]], name)) == 0
    assert largest(bits(np.empty((0, 4)), name)) == 0
    assert largest(bits([[1, -np.inf, 2]], name)) == np.inf
    assert np.isnan(largest(bits([[1, np.nan, np.inf]], name)))
    smallest = ml_dtypes.finfo(NATIVE[name]).smallest_subnormal
    assert largest(bits([[0, -smallest]], name)) == float(smallest)
