"""Types that the whole house speaks of, each under one name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Array", "Json", "JsonObject"]

Array: TypeAlias = "NDArray[Any]"
"""An array in the carrier of a dtype, which is known at run time only. A text, as facts do without numpy."""

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A JSON value."""

JsonObject: TypeAlias = dict[str, Json]
"""A JSON object."""
