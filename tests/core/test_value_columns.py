"""Many values of a class, pickled by columns."""

from __future__ import annotations

import pickle
from array import array
from dataclasses import FrozenInstanceError, dataclass, fields

import pytest

from transcode.core.value import Columns, Value, interned, pack, unpack


@dataclass(frozen=True, slots=True)
class Slotted(Value):
    name: str
    number: int
    inner: object = None


@dataclass(frozen=True)
class Open(Value):
    only: object


@pytest.mark.parametrize(
    "value", [Slotted("a", 1), Open(2), Open(Slotted("b", -1, Open(None))), Open((Open(1), Open(1)))]
)
def test_pickled_as_it_is(value):
    again = pickle.loads(pickle.dumps(value))
    assert again == value
    assert hash(again) == hash(value)
    field = fields(value)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(again, field, 3)


SAME = Open("shared")
MANY = {
    "few": [Slotted("a", 1)] * 3,
    "none": [],
    "slotted": [Slotted(f"n{i}", i) for i in range(1000)],
    "nested": [Slotted(f"n{i}", i, Open(Slotted("x", i, SAME))) for i in range(1000)],
    "one of another class": [*(Open(i) for i in range(999)), Slotted("z", 0)],
    "one many times": [SAME] * 1000,
    "integers": list(range(-500, 500)),
    "long integers": [1 << 70, *range(999)],
    "truths": [True] * 999 + [False],
    "texts and none": [None, "a"] * 500,
    "tuples that look packed": [(Open, 3, ())] * 1000,
}


@pytest.mark.parametrize("name", MANY)
def test_there_and_back(name):
    values = MANY[name]
    again = list(unpack(pickle.loads(pickle.dumps(pack(values)))))
    assert again == values
    assert [*map(type, again)] == [*map(type, values)]


def test_many_are_held_by_columns():
    packed = pack(MANY["nested"])
    assert isinstance(packed, Columns)
    assert isinstance(packed.columns[1], array)
    assert isinstance(packed.columns[2], Columns)
    assert isinstance(pack(MANY["one many times"]), tuple)


def test_equal_ones_are_one():
    first, second = interned(Open("interned")), interned(Open("interned"))
    assert first is second
