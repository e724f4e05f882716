"""Options: each is described once, where the field is that holds it.

A field that is declared with :func:`option` says what kind of value it has, what it is for, its default, its
choices, and how it is spelled. From that follow what recipes may say (``recipe/nodes.py``), what they are
written as (:meth:`Declared.config`), the checks of values from Python (:meth:`Declared.__post_init__`), the
flags of commands, their groups in help texts and the completion of values (``cli/options.py``), the JSON
Schema of recipes (``recipe/schema.py``) and the reference (``cli/reference.py``)::

    @dataclass(frozen=True)
    class CastOptions(Transform):
        to: str = option(kinds.DTYPE, "Dtype of the result.", argument="DTYPE", run="--cast")
        saturate: bool = option(kinds.FLAG, "Clip what is too large.", default=False)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from typing import Any, ClassVar

from ..errors import RecipeError
from .kinds import Kind
from .nearest import guess
from .records import dataclass

__all__ = [
    "GROUPS",
    "HOW",
    "OUTPUT",
    "REPORTING",
    "SAME",
    "SOURCES",
    "SPEED",
    "WHAT",
    "WHICH",
    "Declared",
    "Option",
    "again",
    "option",
    "options_of",
]

WHAT = "What to do"
WHICH = "Which tensors"
HOW = "How to quantize"
SOURCES = "Sources"
OUTPUT = "Output"
SPEED = "Speed and memory"
REPORTING = "Reporting"
GROUPS = (WHAT, WHICH, HOW, OUTPUT, SOURCES, SPEED, REPORTING)
"""Groups of help texts, in their order."""

SAME = "same"
"""That ``transcode run`` spells an option as its own command does."""

_KEY = "transcode"

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "REQUIRED"})()
"""The default of what must be given."""


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        kind: what kind of value it has.
        help: what it is for, in one line.
        about: what else there is to say.
        default: what it is where nothing is said; ``REQUIRED`` where something must be.
        group: where it stands in help texts.
        choices: all values that it may have.
        names: the table of names of which its values are; see :mod:`transcode.stages.names`.
        key: its key in recipes, if that is not the name of the field.
        section: the section of a recipe that it belongs to, where a class has several.
        flag: its spelling in a command of its own, if that is not the name of the field; empty for none.
        argument: what stands for it in the usage of that command, whose argument it is then.
        run: its spellings in ``transcode run``, or :data:`SAME`; empty where it has none.
        run_help: what it is for there, if that is to be said in other words.
        metavar: what stands for its value in help texts.
        off: whether its flag stands for false.
        head: whether ``transcode run`` does what the stage does where it is given.
        needs: flags of ``transcode run`` without which it does nothing, beside that of its own stage.
        most: the largest that a number may be.
        written: whether recipes say it even where it is the default.
        carries: whether it concerns how a plan is carried out, and not what it says.
        short: options of the schemes that have flags of their own, where it holds these.
    """

    kind: Kind
    help: str
    about: str = ""
    default: Any = REQUIRED
    group: str = WHAT
    choices: tuple[str, ...] = ()
    names: str = ""
    key: str = ""
    section: str = ""
    flag: str | None = None
    argument: str = ""
    run: str = ""
    run_help: str = ""
    metavar: str = ""
    off: bool = False
    head: bool = False
    needs: tuple[str, ...] = ()
    most: int | None = None
    written: bool = False
    carries: bool = False
    short: Mapping[str, Option] = field(default_factory=dict)

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is REQUIRED

    def normal(self, what: str, value: Any) -> Any:
        """What the field holds of a value that a caller gave; None stays where it is the default.

        Raises:
            RecipeError: it is of another kind, or none of the choices.
        """
        if value is None and self.default is None:
            return None
        value = self.kind.normal(what, value)
        if self.most is not None and value > self.most:
            raise RecipeError(
                f"{what}: more than {self.most} is asked for", hint="give less, or leave it out"
            )
        for member in self.kind.members(value) if self.choices else ():
            if member not in self.choices:
                near = guess(member, self.choices) if isinstance(member, str) else ""
                raise RecipeError(f"{what}: {member!r} is not one of {', '.join(self.choices)}{near}")
        return value

    @property
    def key_help(self) -> str:
        """What its value does; the help is of the flag, which may stand for false."""
        return f"False: {self.help[0].lower()}{self.help[1:]}" if self.off else self.help

    def own_flag(self, name: str) -> str:
        """How its own command spells it, where the field has that name; empty where it is no flag of it."""
        if self.argument:
            return ""
        return "--" + name.replace("_", "-") if self.flag is None else self.flag

    def run_flag(self, name: str) -> str:
        """How ``transcode run`` spells it; empty where it does not."""
        return self.own_flag(name) if self.run == SAME else self.run

    @property
    def shown_default(self) -> str | None:
        """The default as people write it, where it says something."""
        if self.required or self.default in (None, (), "") or self.kind.takes == 0:
            return None
        return self.kind.shown(self.default)


def option(kind: Kind, help: str, *, default: Any = REQUIRED, **more: Any) -> Any:
    """A field of a frozen dataclass, with its description.

    Args:
        more: see :class:`Option`.
    """
    described = Option(kind, help, default=default, **more)
    return _field(described)


def again(owner: type, name: str) -> Any:
    """The field of another class once more, with the same description."""
    described = options_of(owner)[name]
    return _field(described)


def _field(described: Option) -> Any:
    return field(default=MISSING if described.required else described.default, metadata={_KEY: described})


def options_of(owner: type) -> dict[str, Option]:
    """The options of a dataclass, by the names of their fields."""
    described: dict[str, Option] = {
        one.name: one.metadata[_KEY] for one in fields(owner) if _KEY in one.metadata
    }
    return described


class Declared:
    """What dataclasses have whose fields are options."""

    kind: ClassVar[str] = ""
    """Name of the stage or section in recipes; messages begin with it."""
    alone: ClassVar[str] = ""
    """The field whose value may stand in a recipe in the place of all: ``cast: BF16``."""
    any_of: ClassVar[tuple[str, ...]] = ()
    """Fields of which one must be given, where none must be by itself."""
    only_alone: ClassVar[bool] = False
    """Whether that is how it is written, too: there are no others."""

    def __post_init__(self) -> None:
        """Bring values to what fields hold, and refuse what they cannot be."""
        for name, described in options_of(type(self)).items():
            what = f"{self.kind}: {name}" if self.kind and not self.only_alone else self.kind or name
            object.__setattr__(self, name, described.normal(what, getattr(self, name)))
        if self.any_of and not any(getattr(self, name) for name in self.any_of):
            raise RecipeError(
                f"{self.kind}: nothing is given",
                hint=f"give {' or '.join(self.any_of)}, or leave the stage out",
            )

    def config(self) -> Any:
        """What a recipe says of it, as JSON: what must be said, and what differs from the defaults."""
        return self._stated(lambda kind, value: kind.plain(value))

    def recorded(self) -> Any:
        """As :meth:`config`, without paths: what the record in an output file says of it."""
        return self._stated(lambda kind, value: kind.recorded(value))

    def stated(self, section: str) -> dict[str, Any]:
        """What one section of a recipe says of it."""
        stated: dict[str, Any] = self._stated(lambda kind, value: kind.plain(value), section)
        return stated

    def _stated(self, write: Any, section: str | None = None) -> Any:
        stated: dict[str, Any] = {}
        for name, described in options_of(type(self)).items():
            value = getattr(self, name)
            if section is not None and described.section != section:
                continue
            if value == described.default and not (described.written or described.required):
                continue
            written = write(described.kind, value)
            if self.only_alone:
                return written
            stated |= written if described.kind.keys else {described.key or name: written}
        return stated
