"""Sizes follow from dtype and shape: against numpy, and against bits counted one by one."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.core.dtypes import DTYPES
from transcode.core.spec import Part, Spec, tallied

SHAPES = [(), (1,), (0,), (7,), (3, 5), (0, 4), (4, 0), (2, 3, 5), (1, 1, 1, 1), (2, 3, 4, 8)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [n for n in DTYPES if not DTYPES[n].packed])
def test_sizes_are_those_of_numpy(name, shape):
    spec = Spec(DTYPES[name], shape)
    array = np.zeros(shape, DTYPES[name].carrier)
    assert spec.numel == array.size
    assert spec.nbytes == array.nbytes
    assert spec.rows * spec.columns == array.size
    if array.ndim >= 2:
        assert spec.columns == shape[-1]
    else:
        assert spec.columns == 1
    assert spec.row_bits == spec.columns * DTYPES[name].bits
    assert spec.grain == 1
    for row in range(spec.rows + 1):
        assert spec.row_offset(row) == row * spec.columns * array.itemsize


def test_a_scalar_is_one_row():
    spec = Spec(DTYPES["F32"], ())
    assert (spec.numel, spec.rows, spec.columns, spec.nbytes) == (1, 1, 1, 4)


@given(
    st.sampled_from(["F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "BF16", "F64"]),
    st.lists(st.integers(0, 40), min_size=0, max_size=4),
)
def test_a_grain_is_the_least_run_of_rows_that_fills_bytes(name, lengths):
    spec = Spec(DTYPES[name], tuple(lengths))
    bits = DTYPES[name].bits * (lengths[-1] if len(lengths) >= 2 else 1)
    assert spec.row_bits == bits
    whole = [rows for rows in range(1, 9) if rows * bits % 8 == 0]
    assert spec.grain == whole[0]
    for row in range(0, spec.rows + 1, spec.grain):
        assert spec.row_offset(row) * 8 == row * bits
    assert spec.nbytes == math.prod(lengths) * DTYPES[name].bits // 8
    if spec.rows % spec.grain == 0:
        assert spec.row_offset(spec.rows) == spec.nbytes


def test_worked_grains():
    assert Spec(DTYPES["F4"], (8, 1)).grain == 2
    assert Spec(DTYPES["F4"], (8, 2)).grain == 1
    assert Spec(DTYPES["F6_E2M3"], (8, 1)).grain == 4
    assert Spec(DTYPES["F6_E2M3"], (8, 2)).grain == 2
    assert Spec(DTYPES["F6_E2M3"], (8, 4)).grain == 1
    assert Spec(DTYPES["F6_E2M3"], (8, 4)).nbytes == 24


def test_printing_equality_and_pickling():
    spec = Spec(DTYPES["BF16"], (3, 4))
    assert str(spec) == "BF16[3,4]"
    assert str(Spec(DTYPES["F32"], ())) == "F32[]"
    assert spec == Spec(DTYPES["BF16"], (3, 4)) != Spec(DTYPES["F16"], (3, 4))
    assert len({spec, Spec(DTYPES["BF16"], (3, 4)), Spec(DTYPES["BF16"], (4, 3))}) == 2
    part = Part("codes", spec)
    assert pickle.loads(pickle.dumps(part)) == part
    assert part != Part("scale", spec)


@pytest.mark.parametrize("name", ["F32", "BF16", "I8", "F4", "F6_E2M3"])
@pytest.mark.parametrize("shape", [(7,), (8, 4), (6, 12), (16, 1), (3, 2, 20)])
def test_the_row_of_a_byte(name, shape):
    spec = Spec(DTYPES[name], shape)
    for row in range(0, spec.rows, spec.grain):
        begin, end = spec.row_offset(row), spec.row_offset(min(row + spec.grain, spec.rows))
        assert spec.row_of(begin) == row
        assert all(row <= spec.row_of(byte) < row + spec.grain for byte in range(begin, end))


def test_what_many_have_is_counted_in_the_order_of_the_first():
    one, other = Spec(DTYPES["BF16"], (2, 3)), Spec(DTYPES["F32"], (4,))
    assert tallied(iter([other, one, other, other])) == [(other, 3), (one, 1)]
    assert tallied([]) == []
    fresh = [Spec(DTYPES["BF16"], (2, 3)) for _ in range(5)]
    assert sum(times for spec, times in tallied([one, *fresh]) if spec == one) == 6


def test_what_was_asked_of_facts_is_no_part_of_them():
    """Sizes are remembered: not in a pickle, and not where facts are compared."""
    asked, fresh = Spec(DTYPES["BF16"], (2, 3)), Spec(DTYPES["BF16"], (2, 3))
    assert (asked.nbytes, asked.rows, hash(asked)) == (12, 2, hash(fresh))
    assert asked == fresh
    assert pickle.dumps(asked) == pickle.dumps(fresh)
    assert repr(asked) == repr(fresh)
