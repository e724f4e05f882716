"""Planned files: their sizes, and that they are pickled to the same."""

from __future__ import annotations

import pickle

import pytest

from transcode.core.dtypes import DTYPES
from transcode.core.output import Place, PlannedFile, Stored, Unit
from transcode.core.spec import Spec


def place(name, begin, end):
    return Place(name, Spec(DTYPES["U8"], (end - begin,)), 3, "values", begin, end)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_planned_file_is_pickled_to_the_same(count):
    places = tuple(place(f"t{i}", 10 * i, 10 * i + 7) for i in range(count))
    file = PlannedFile("a", b"header", places, b"tail")
    assert pickle.loads(pickle.dumps(file)) == file
    assert file.size == 6 + (10 * (count - 1) + 7 if count else 0) + 4


def test_bytes_of_a_unit_are_those_of_all_its_parts():
    codes, scale = Spec(DTYPES["F4"], (3, 8)), Spec(DTYPES["F32"], (3, 1))
    unit = Unit(0, (Stored("a", "codes", codes), Stored("a_scale", "scale", scale)))
    assert unit.nbytes == 3 * 4 + 3 * 4
    assert Unit(0, ()).nbytes == 0
