"""Quantized formats: one scheme to a module, and the one table of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..core.scheme import Scheme
from ..errors import RecipeError
from .fp8 import Fp8
from .int4 import Int4
from .int8 import Int8
from .mx import Mxfp4, Mxfp6, Mxfp8
from .nvfp4 import Nvfp4

__all__ = ["SCHEMES", "Fp8", "Int4", "Int8", "Mxfp4", "Mxfp6", "Mxfp8", "Nvfp4", "describe", "make"]

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


def describe(name: str) -> tuple[str, dict[str, Any]]:
    """What a scheme is, in one line, and its options with their defaults."""
    scheme = SCHEMES[name]
    return f"{name}: {scheme.summary}", {field.name: field.default for field in fields(scheme)}
