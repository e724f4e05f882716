"""Classes of ``records.dataclass`` beside the same ones of the standard library, which says what is right."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, field, fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from transcode.core.records import dataclass


def family(decorate: Any) -> SimpleNamespace:
    """The same classes, decorated by one or the other."""

    @decorate(frozen=True)
    class Plain:
        """With a docstring."""

        a: int
        b: str = "b"
        c: list[int] = field(default_factory=list)
        shared: ClassVar[int] = 7

    @decorate(frozen=True)
    class Heir(Plain):
        d: float = 0.5
        hidden: int = field(default=3, repr=False, compare=False)
        derived: int = field(init=False, default=9)
        made: dict[str, int] = field(init=False, default_factory=dict, compare=False)

    @decorate(frozen=True, slots=True)
    class Slotted:
        x: int
        y: Any = None
        z: tuple[int, ...] = field(default=(), hash=False)

    @decorate(frozen=True, slots=True)
    class SlottedHeir(Slotted):
        w: int = field(default=1, kw_only=True)
        made: list[int] = field(init=False, default_factory=lambda: [1])

    @decorate
    class Open:
        a: int
        b: int = field(default=2, kw_only=True)

        def __post_init__(self) -> None:
            self.sum = self.a + self.b

    @decorate(slots=True)
    class OpenSlotted:
        a: int = 1

    @decorate(frozen=True)
    class Own:
        a: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own) and abs(self.a) == abs(other.a)

        def __hash__(self) -> int:
            return hash(abs(self.a))

        def __repr__(self) -> str:
            return f"<{self.a}>"

    @decorate(frozen=True)
    class OwnEquality:
        a: int

        def __eq__(self, other: object) -> bool:
            return True

    @decorate(frozen=True, eq=False)
    class Same:
        a: int

    @decorate(frozen=True, repr=False)
    class Quiet:
        a: int

    @decorate(frozen=True, init=False, eq=False, repr=False)
    class Bare:
        a: int = 5

    @decorate(frozen=True)
    class Empty:
        pass

    return SimpleNamespace(**{name: one for name, one in locals().items() if isinstance(one, type)})


OURS, THEIRS = family(dataclass), family(dataclasses.dataclass)

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Plain", (1,), {}),
    ("Plain", (1, "x", [2]), {}),
    ("Plain", (), {"b": "k", "a": 3}),
    ("Heir", (1,), {}),
    ("Heir", (1, "x", [], 2.5, 8), {}),
    ("Slotted", (1,), {}),
    ("Slotted", (1, 2, (3,)), {}),
    ("SlottedHeir", (1, 2), {"w": 4}),
    ("Open", (1,), {}),
    ("Open", (1,), {"b": 5}),
    ("OpenSlotted", (), {}),
    ("Own", (-2,), {}),
    ("OwnEquality", (1,), {}),
    ("Same", (1,), {}),
    ("Quiet", (1,), {}),
    ("Bare", (), {}),
    ("Empty", (), {}),
]


def outcome(ask: Any) -> Any:
    try:
        return ask()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(("name", "positional", "keywords"), CALLS)
def test_it_is_what_the_standard_one_is(
    name: str, positional: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    kinds = getattr(OURS, name), getattr(THEIRS, name)
    ours, theirs = (kind(*positional, **keywords) for kind in kinds)
    twins = [kind(*positional, **keywords) for kind in kinds]
    for ask in (
        lambda one: {part.name: getattr(one, part.name) for part in fields(one)},
        lambda one: [(part.name, part.type, part.init, part.compare) for part in fields(one)],
        lambda one: dataclasses.asdict(one),
        lambda one: is_dataclass(one) and type(one).__match_args__,
        lambda one: hash(one) == hash(one),
        lambda one: vars(one),
        lambda one: one == object(),
        lambda one: dataclasses.asdict(replace(one)),
        lambda one: dataclasses.asdict(copy.copy(one)),
        lambda one: dataclasses.asdict(copy.deepcopy(one)),
    ):
        assert outcome(lambda: ask(ours)) == outcome(lambda: ask(theirs))  # noqa: B023
    if name not in ("Quiet", "Bare"):
        assert repr(ours) == repr(theirs)
    assert (ours == twins[0]) == (theirs == twins[1])
    assert str(inspect.signature(kinds[0])) == str(inspect.signature(kinds[1]))
    for change in (
        lambda one: setattr(one, "a", 1),
        lambda one: setattr(one, "x", 1),
        lambda one: setattr(one, "other", 1),
        lambda one: delattr(one, "a"),
    ):
        # Where there are slots, the standard one of some versions refuses by an accidental TypeError.
        done = [isinstance(outcome(lambda: change(one)), type) for one in twins]  # noqa: B023
        assert done[0] == done[1]


@pytest.mark.parametrize("name", ["Plain", "Heir", "Slotted", "Same"])
def test_equality_and_hashes_are_of_the_fields_that_count(name: str) -> None:
    rest = () if name == "Same" else (2, 3)
    for kind in (getattr(OURS, name), getattr(THEIRS, name)):
        one, same, other = kind(1, *rest), kind(1, *rest), kind(2, *rest)
        assert (one == same, one == other) == (name != "Same", False)
        assert (hash(one) == hash(same)) == (name != "Same")
    assert OURS.Heir(1, "x", (), 2.5, 8) == OURS.Heir(1, "x", (), 2.5, 9)  # what is not compared
    assert hash(OURS.Slotted(1, 2, (3,))) == hash(THEIRS.Slotted(1, 2, (4,)))
    assert OURS.Plain(1) != OURS.Heir(1)


@pytest.mark.parametrize(("name", "wrong"), [("Plain", ()), ("Plain", (1, 2, 3, 4)), ("Open", (1, 2))])
def test_calls_that_are_wrong_are_errors(name: str, wrong: tuple[Any, ...]) -> None:
    for kind in (getattr(OURS, name), getattr(THEIRS, name)):
        with pytest.raises(TypeError):
            kind(*wrong)


def test_a_value_within_itself_is_shown_once() -> None:
    one = OURS.Plain(1, "x", [])
    one.c.append(one)
    assert repr(one).endswith("c=[...])")


def test_what_is_frozen_stays_so() -> None:
    for kind in (OURS.Plain, OURS.Slotted):
        one = kind(1)
        name = fields(one)[0].name
        with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(one, name, 2)
        with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
            delattr(one, name)
        assert getattr(one, name) == 1


@dataclass(frozen=True, slots=True)
class Pickled:
    a: int
    b: tuple[int, ...] = ()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(protocol: int) -> None:
    one = Pickled(1, (2, 3))
    assert pickle.loads(pickle.dumps(one, protocol)) == one


def test_methods_are_made_when_they_are_called() -> None:
    @dataclass(frozen=True)
    class Fresh:
        a: int

    before = dict(vars(Fresh))
    one = Fresh(1)
    made = {name for name, value in vars(Fresh).items() if value is not before.get(name)}
    assert made == {"__init__"}
    assert (one == Fresh(1), hash(one), repr(one)) == (True, hash((1,)), f"{Fresh.__qualname__}(a=1)")
    assert Fresh.__init__.__qualname__ == f"{Fresh.__qualname__}.__init__"


def test_the_modules_of_a_start_compile_few_of_them() -> None:
    """What this is for: nearly all methods of a start's classes stay uncalled, so uncompiled."""
    code = (
        "import transcode.execution.write as _, gc\n"
        "from transcode.core.records import _Later\n"
        "print(sum(isinstance(one, _Later) for one in gc.get_objects()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 150
