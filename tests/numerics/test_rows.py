"""Source values as kernels want them, against numpy and ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.numerics.errors import NonFinite
from transcode.numerics.rows import as_bits, as_float64, peak, reject

NATIVE = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def rows(values, name):
    return np.asarray(values).astype(NATIVE[name]).view(DTYPES[name].carrier)


@pytest.mark.parametrize(("name", "kind"), [("F32", "u4"), ("F16", "i2"), ("BF16", "u2")])
def test_bits_are_a_read_only_view(name, kind):
    values = rows([[1.5, -2, np.inf]], name)
    bits = as_bits(values, DTYPES[name])
    assert bits.dtype == kind
    assert np.shares_memory(bits, values)
    assert bits.tobytes() == values.tobytes()
    assert not bits.flags.writeable
    assert values.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        bits[0, 0] = 0


@pytest.mark.parametrize("scratch", [None, Scratch()])
def test_float64_is_rounded_once_to_float32(scratch):
    values = np.array([[1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**128, -(2.0**-150), np.nan]])
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = values.astype(np.float32)
    np.testing.assert_array_equal(as_bits(values, DTYPES["F64"], scratch).view(np.float32), wanted)


def test_rows_that_lie_apart_are_copied():
    values = rows(np.arange(24).reshape(4, 6), "BF16")
    bits = as_bits(values[:, ::2], DTYPES["BF16"])
    assert bits.flags.c_contiguous
    np.testing.assert_array_equal(bits, values[:, ::2])


@pytest.mark.parametrize("name", NATIVE)
def test_exact_values(name):
    values = rows([[0.1, -3e-5, 65504, np.inf]], name)
    with np.errstate(over="ignore"):
        wanted = values.view(NATIVE[name]).astype(np.float64)
    np.testing.assert_array_equal(as_float64(values, DTYPES[name]), wanted)


@pytest.mark.parametrize(
    ("name", "bad"), [("F32", np.inf), ("BF16", -np.inf), ("F16", np.inf), ("F64", 1e39), ("F64", -np.inf)]
)
def test_the_first_value_that_is_not_finite_is_named(name, bad):
    values = np.ones((4, 5))
    assert peak(rows(values, name), DTYPES[name]) == 1
    values[2, 3] = values[3, 0] = bad
    error = reject(rows(values, name), DTYPES[name])
    assert (error.row, error.column, error.value) == (2, 3, bad)
    with pytest.raises(NonFinite, match="row 2, column 3"):
        peak(rows(values, name), DTYPES[name])


def test_nothing_is_rejected_of_finite_values():
    with pytest.raises(AssertionError, match="all values are finite"):
        reject(np.ones((2, 2), np.float32), DTYPES["F32"])
