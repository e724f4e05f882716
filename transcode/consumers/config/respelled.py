"""What a statement says of modules by their names, where these are spelled anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .stated import Json

__all__ = ["respelled"]

_WEIGHT = ".weight"


def respelled(statement: Json, modules: Mapping[str, Sequence[str]]) -> tuple[Json, list[str]]:
    """A statement with new names of modules, in lists and as keys, whatever the dialect calls those.

    A name is that of a module, with ``.weight`` behind it or not; or it is the beginning of names, for which
    the modules stand then that have it.

    Args:
        statement: as the source has it.
        modules: of all of the source -> names of those that hold its rows now, mostly one.

    Returns:
        The statement, and the patterns in it that fit modules of other names now, which are left as they are.
    """
    left: dict[str, None] = {}
    return {key: _value(one, modules, left) for key, one in statement.items()}, list(left)


def _value(value: Any, modules: Mapping[str, Sequence[str]], left: dict[str, None]) -> Any:
    if isinstance(value, list):
        names = (_names(one, modules, left) if isinstance(one, str) else [one] for one in value)
        made = [
            _value(one, modules, left) if isinstance(one, dict) else one for some in names for one in some
        ]
        return list(dict.fromkeys(made)) if all(isinstance(one, str) for one in made) else made
    if isinstance(value, dict):
        return {
            name: _value(one, modules, left)
            for key, one in value.items()
            for name in _names(key, modules, left)
        }
    return value


def _names(text: str, modules: Mapping[str, Sequence[str]], left: dict[str, None]) -> Sequence[str]:
    """What stands for a text: itself where it speaks of no module, or of none whose name has changed."""
    end = _WEIGHT if text.endswith(_WEIGHT) else ""
    below = [module for module in modules if f"{module}.".startswith(f"{text.removesuffix(end)}.")]
    if all(tuple(modules[module]) == (module,) for module in below):
        if not below and any(_lost(text, module, others) for module, others in modules.items()):
            left[text] = None
        return [text]
    return [f"{other}{end}" for module in below for other in modules[module]]


def _lost(text: str, module: str, others: Sequence[str]) -> bool:
    """Whether a text is a run of components of a name, and not of all that stand for it now."""
    runs = list(_plain_runs(text))
    return any(_holds(module, run) and not all(_holds(other, run) for other in others) for run in runs)


def _plain_runs(text: str) -> Iterator[str]:
    """The text, or what a pattern of it has between what stands for anything."""
    for run in text.removeprefix("re:").replace("\\.", ".").replace("^", "*").replace("$", "*").split("*"):
        if stripped := run.strip("."):
            yield stripped


def _holds(module: str, run: str) -> bool:
    return f".{run}." in f".{module}."
