"""Values are pickled as their fields, with or without slots, and held once where they are equal."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, make_dataclass, replace

import pytest

from transcode.core.value import Value, changed, contents, interned


@dataclass(frozen=True, slots=True)
class Slotted(Value):
    a: int
    b: tuple[str, ...] = ()


@dataclass(frozen=True)
class Open(Value):
    a: int


@dataclass(frozen=True, slots=True)
class Checked(Value):
    a: int
    hidden: int = field(default=7, compare=False)

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError


@pytest.mark.parametrize(
    "value", [Slotted(1, ("x", "y")), Open(3), Checked(4, 9)], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_value_comes_back_with_all_its_fields(value, protocol):
    again = pickle.loads(pickle.dumps(value, protocol))
    assert again == value
    assert repr(again) == repr(value)
    assert copy.copy(value) == value
    with pytest.raises(FrozenInstanceError):
        again.a = 2


def test_no_constructor_is_called():
    """What was checked once is not checked again."""
    value = Checked(1)
    object.__setattr__(value, "a", -5)
    assert pickle.loads(pickle.dumps(value)).a == -5


def test_equal_values_are_one():
    first = interned(Slotted(1, ("x",)))
    assert interned(Slotted(1, ("x",))) is first
    assert interned(Slotted(2, ("x",))) is not first


def test_a_changed_copy_is_that_of_dataclasses():
    value = Slotted(1, ("x",))
    assert changed(value, {"b": ("y", "z")}) == replace(value, b=("y", "z"))
    assert changed(value, {}) == value
    assert changed(value, {}) is not value
    with pytest.raises(TypeError, match="Slotted has no c"):
        changed(value, {"c": (5,)})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_contents_are_the_fields_in_their_order(count):
    names = ["b", "a", "c"][:count]
    kind = make_dataclass("kind", names, frozen=True)
    assert contents(kind(*range(count))) == tuple(range(count))
