"""All codecs by name: what a convention may use, and what the laws of codecs are tried on."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.codec import Codec
from ..errors import RecipeError
from .base import Base
from .less_one import LessOne
from .marlin import Marlin, MarlinScales
from .nibbles import Nibbles
from .numbers import Powers, Reciprocal
from .offset import Offset
from .rows_int32 import RowsInt32
from .shapes import Fold, InGroups, Reshape, Split, Squeeze, Unsqueeze, View
from .strips import Strips
from .swizzle import Swizzle
from .told import Flat, Text
from .transposed import Transposed
from .warps import Warps

__all__ = ["CODECS", "from_config"]

CODECS: Mapping[str, type[Base]] = {
    one.name: one
    for one in (
        View, Offset, Nibbles, Transposed, Swizzle, RowsInt32, LessOne, Reciprocal, Powers, Split,
        Squeeze, Unsqueeze, InGroups, Reshape, Fold, Flat, Text, Marlin, MarlinScales, Strips, Warps,
    )
}  # fmt: skip
"""Name -> codec."""


def from_config(config: Mapping[str, object]) -> Codec:
    """The codec of which that is the :meth:`~transcode.core.codec.Codec.config`.

    Raises:
        RecipeError: no such codec, or option, or value.
    """
    options = dict(config)
    name = options.pop("codec", None)
    if not isinstance(name, str) or name not in CODECS:
        raise RecipeError(f"there is no codec {name!r}", hint=f"use one of {', '.join(CODECS)}")
    kind = CODECS[name]
    for option in options:
        if option not in kind.options:
            known = ", ".join(kind.options) or "none"
            raise RecipeError(f"codec {name} has no option {option!r}", hint=f"it has {known}")
    try:
        return kind(**options)
    except TypeError:
        needed = ", ".join(kind.options)
        raise RecipeError(f"codec {name} lacks an option", hint=f"it needs {needed}") from None
