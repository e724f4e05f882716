"""Expressions for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from transcode.core.context import Context
from transcode.core.expr import Expr, Piece


@dataclass(frozen=True)
class By(Expr):
    """What a function reads."""

    function: Callable[[int, int, Context], Iterator[Piece]]

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        return self.function(start, stop, context)


NOTHING = By(lambda *_: iter(()))
"""For tensors of which only the facts matter."""
