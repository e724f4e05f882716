"""Options as Python callers give them: one text where a list is meant is a list of one, never its letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike, fspath

from ..errors import RecipeError

__all__ = ["number", "pairs", "path", "text", "texts"]


def text(what: str, value: object) -> str:
    """A text. Raises RecipeError, which names the option ``what``, for anything else."""
    if not isinstance(value, str):
        raise RecipeError(f"{what}: {value!r} is not a text")
    return value


def texts(what: str, value: object) -> tuple[str, ...]:
    """Texts: one, or several in a list, a tuple or the like.

    Raises:
        RecipeError: anything else.
    """
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping | bytes) or not isinstance(value, Iterable):
        raise RecipeError(f"{what}: {value!r} is not a list of texts")
    return tuple(text(what, one) for one in value)


def pairs(what: str, value: object, *, sign: str | None = None) -> tuple[tuple[str, str], ...]:
    """Pairs of texts: a mapping, a list of pairs, or with a sign between them ``"a=b"`` or a list of such.

    Raises:
        RecipeError: anything else.
    """
    if isinstance(value, Mapping):
        return tuple((text(what, key), text(f"{what} {key}", one)) for key, one in value.items())
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise RecipeError(f"{what}: {value!r} are not pairs")
    return tuple(_pair(what, one, sign) for one in value)


def _pair(what: str, value: object, sign: str | None) -> tuple[str, str]:
    if isinstance(value, str):
        first, separator, second = value.partition(sign) if sign else (value, "", "")
        if not separator or not first:
            hint = (
                f'write "one{sign}other", or give a pair or a mapping' if sign else "give pairs or a mapping"
            )
            raise RecipeError(f"{what}: {value!r} is one text, not a pair", hint=hint)
        return first, second
    if not isinstance(value, Iterable) or len(both := tuple(value)) != 2:
        raise RecipeError(f"{what}: {value!r} is not a pair")
    return text(what, both[0]), text(what, both[1])


def number(what: str, value: object) -> float:
    """A number. Raises RecipeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(f"{what}: {value!r} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise RecipeError(f"{what}: the number is too large") from None


def path(what: str, value: object) -> str:
    """A path as text. Raises RecipeError for anything else."""
    if not isinstance(value, str | PathLike):
        raise RecipeError(f"{what}: {value!r} is not a path")
    name = fspath(value)
    return text(what, name)
