"""Values are pickled as their fields, with or without slots, and held once where they are equal."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, make_dataclass, replace

import pytest

from transcode.core.value import Known, Value, changed, contents, interned, plentiful


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


@plentiful
@dataclass(frozen=True, slots=True)
class Many(Value):
    """One of many.

    Attributes:
        kind: called as what makes it might be.
    """

    kind: int
    b: tuple[str, ...] = ("x",)

    @property
    def twice(self) -> int:
        return 2 * self.kind


@pytest.mark.parametrize("one", [Many(3), Many(kind=3), changed(Many(5), {"kind": 3})])
def test_one_of_many_is_a_frozen_dataclass(one):
    """What makes or changes one leaves it as dataclasses would: of its class, closed, equal."""
    assert type(one) is Many
    assert (one.kind, one.b, one.twice) == (3, ("x",), 6)
    assert one == Many(3, ("x",))
    assert hash(one) == hash(replace(one)) == hash(copy.copy(one))
    assert repr(one) == "Many(kind=3, b=('x',))"
    assert pickle.loads(pickle.dumps(one)) == one
    assert str(inspect.signature(Many)) == "(kind: 'int', b: 'tuple[str, ...]' = ('x',)) -> None"
    for name in ("kind", "c"):
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(one, name, 4)
    with pytest.raises(FrozenInstanceError):
        del one.kind
    with pytest.raises(TypeError):
        Many()
    with pytest.raises(TypeError):
        Many(1, c=2)


@pytest.mark.parametrize(
    "field_of", [{"default_factory": list}, {"init": False, "default": 3}], ids=["factory", "no argument"]
)
def test_what_is_made_otherwise_is_not_plentiful(field_of):
    kind = make_dataclass("kind", [("a", object, field(**field_of))], frozen=True, slots=True)
    with pytest.raises(TypeError, match=r"kind\.a has a default"):
        plentiful(kind)
    for checked in (Checked, Open):
        with pytest.raises(TypeError, match="no slots, or checks"):
            plentiful(checked)


def test_what_follows_from_the_same_objects_is_found_once():
    asked = []

    def find(*facts):
        asked.append(None)  # not the facts, which are to be held by nobody else
        return len(asked)

    known = Known(find)
    one, same = Slotted(1), Slotted(1)
    assert [known(one, "a"), known(one, "a"), known(same, "a"), known(one, "b")] == [1, 1, 2, 3]
    # Of objects that are gone others may have the place: they are held, so that none has.
    found = [known(Slotted(number)) for number in range(10_000)]
    assert len(set(found)) == 10_000


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
