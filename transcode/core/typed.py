"""Metadata of formats that know more than text: text to whoever reads it, with its type and bytes beside."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Typed", "whole"]


class Typed(str):
    """The text of a value that has a type of its own.

    Equal to another of them by type and bytes, to plain text by its text alone.

    Attributes:
        kind: what type it is, in the format's own word.
        raw: its bytes, as the format writes them.
        full: all of it as text, where this is only a summary of it, as of arrays of tokens; else None.
        local: it tells how its own file is stored, and would be untrue of another.
    """

    kind: str
    raw: bytes | memoryview
    full: Callable[[], str] | None
    local: bool

    def __new__(
        cls,
        text: str,
        kind: str,
        raw: bytes | memoryview,
        *,
        full: Callable[[], str] | None = None,
        local: bool = False,
    ) -> Typed:
        value = super().__new__(cls, text)
        value.kind, value.raw, value.full, value.local = kind, raw, full, local
        return value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Typed):
            return self.kind == other.kind and self.raw == other.raw
        return str.__eq__(self, other) if isinstance(other, str) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __reduce__(self) -> tuple[object, ...]:
        return _made, (str(self), self.kind, bytes(self.raw), whole(self), self.local)


def _made(text: str, kind: str, raw: bytes, full: str, local: bool) -> Typed:
    return Typed(text, kind, raw, full=None if full == text else lambda: full, local=local)


def whole(value: str) -> str:
    """All of a value as text, also where its text is a summary."""
    return value.full() if isinstance(value, Typed) and value.full is not None else value
