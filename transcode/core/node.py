"""What options need of YAML to be read from it; :mod:`transcode.catalog.strict` is what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import RecipeError

__all__ = ["Node", "Section"]


class Node(Protocol):
    """A value of a YAML file that knows its line, as :class:`~transcode.catalog.strict.Node` does."""

    @property
    def kind(self) -> str:
        """What it is, in words."""

    @property
    def is_null(self) -> bool:
        """Whether nothing was written."""

    def error(self, what: str, hint: str | None = None) -> RecipeError:
        """An error about this value, to be raised."""

    def string(self) -> str:
        """Text."""

    def text(self) -> str:
        """Any scalar, as it is written."""

    def boolean(self) -> bool:
        """True or false."""

    def integer(self, least: int | None = None, most: int | None = None) -> int:
        """A whole number."""

    def number(self, least: float | None = None, most: float | None = None) -> float:
        """A finite number."""

    def mapping(self) -> Section:
        """Keys and values."""

    def sequence(self) -> Sequence[Node]:
        """A list."""

    def strings(self) -> list[str]:
        """A list of texts."""

    def plain(self) -> Any:
        """The value as Python objects."""


class Section(Protocol):
    """Keys and values of a YAML file, as :class:`~transcode.catalog.strict.Mapping` has them."""

    def find(self, key: str) -> Node | None:
        """The value of a key, or None when it is absent or holds nothing."""

    def need(self, key: str) -> Node:
        """The value of a key that must be there."""

    def items(self) -> Sequence[tuple[str, Node]]:
        """All keys and values."""

    def reject_unknown(self) -> None:
        """Refuse keys that were not asked for."""
