"""Quantized formats: one scheme to a module, and the one table of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from ..core.scheme import Scheme
from ..errors import RecipeError
from .fp8 import Fp8
from .int4 import Int4
from .int8 import Int8
from .mx import Mxfp4, Mxfp6, Mxfp8
from .nvfp4 import Nvfp4

__all__ = [
    "SCHEMES",
    "Fp8",
    "Int4",
    "Int8",
    "Mxfp4",
    "Mxfp6",
    "Mxfp8",
    "Nvfp4",
    "describe",
    "make",
    "refuse_idle",
]

SCHEMES: dict[str, type[Any]] = {
    scheme.name: scheme for scheme in (Int8, Fp8, Mxfp8, Mxfp6, Mxfp4, Nvfp4, Int4)
}
"""Every scheme by its name in recipes."""


def make(name: str, **options: Any) -> Scheme:
    """The scheme of that name.

    Raises:
        RecipeError: no such scheme, option or value; tells what there is.
    """
    if name not in SCHEMES:
        raise RecipeError(f"unknown scheme {name!r}", hint=f"choose from {', '.join(SCHEMES)}")
    scheme = SCHEMES[name]
    known = [field.name for field in fields(scheme)]
    for option in options:
        if option not in known:
            raise RecipeError(f"{name} has no option {option!r}", hint=f"choose from {', '.join(known)}")
    made: Scheme = scheme(**options)
    return made


_TOGETHER = {"group_size": ("granularity", "group"), "block": ("granularity", "block")}
"""Options that only one value of another option looks at."""


def refuse_idle(scheme: Scheme, given: Collection[str]) -> None:
    """Refuse options that were asked for and that the scheme, as it is, does not look at.

    Args:
        given: names of the options that the user named.

    Raises:
        RecipeError: with the option, and what would give it a meaning.
    """
    for option, (other, value) in _TOGETHER.items():
        if option in given and getattr(scheme, other, value) != value:
            raise RecipeError(
                f"{scheme.name}: {option} does nothing with {other}={getattr(scheme, other)}",
                hint=f"add {other}={value}, or leave {option} out",
            )


def describe(name: str) -> tuple[str, dict[str, Any]]:
    """What a scheme is, in one line, and its options with their defaults."""
    scheme = SCHEMES[name]
    return f"{name}: {scheme.summary}", {field.name: field.default for field in fields(scheme)}
