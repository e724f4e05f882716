"""Expressions: what the bytes of a tensor are made of, as values.

An expression says what to do and holds nothing that is alive: no file, no memory, no result. So it can be
compared, pickled and sent elsewhere, and gives the same bytes there. What is alive comes with the
:class:`~.context.Context` that it is read with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import field

from .context import Context
from .extent import Extent
from .records import dataclass
from .spec import Spec
from .types import Array
from .value import Value, contents

__all__ = ["Constant", "Expr", "Piece"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some whole rows of one part, in flight.

    It says itself where it belongs, so a sink can place pieces in any order.

    Attributes:
        role: the part it belongs to.
        offset: byte in that part at which ``data`` starts.
        data: C-contiguous array in the part's carrier dtype; valid until the worker empties its scratch.
    """

    role: str
    offset: int
    data: Array


class Expr(Value, ABC):
    """What yields the pieces of a tensor's parts. Implementations are frozen dataclasses."""

    __slots__ = ()

    @abstractmethod
    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """The pieces of rows ``start`` to ``stop``, one for each part that these rows touch.

        ``start`` is a multiple of the tensor's grain; ``stop`` too, or the number of rows. Thread-safe,
        repeatable.
        """

    def extents(self) -> Mapping[str, tuple[Extent, ...]]:
        """The parts, by role, that are bytes of files as they lie there, one run after the other: nobody need
        look at them.
        """
        return {}

    def lying(self, codecs: Mapping[str, tuple[object, ...]]) -> tuple[Expr, frozenset[str]]:
        """What yields some parts as they lie in a file, as undoing codecs and doing them again may round.

        Args:
            codecs: role -> those that each part is to go through.

        Returns:
            The expression, and the roles of the parts that it yields as those codecs made them.
        """
        return self, frozenset()

    def loses(self) -> str | None:
        """How it may change values that it gets, in words; None where all stay what they are."""
        return None

    def in_powers(self) -> frozenset[str]:
        """Roles of the parts whose numbers are powers of two: their reciprocals are exact."""
        return frozenset()

    def inputs(self) -> tuple[object, ...]:
        """What its values are made of: its fields, unless it says better."""
        return contents(self)

    def flat(self) -> Expr | None:
        """The same elements of a plain tensor in the same order, each a row; None if rows must be whole."""
        return None

    def room(self) -> float:
        """The memory that reading a tile takes, pages of a map among it, over the bytes of the tile's values.

        Four covers every transform there is: values, and float32 on the way from one stage to the next.
        """
        return 4


@dataclass(frozen=True, slots=True)
class Constant(Expr):
    """Values that are known while planning.

    Attributes:
        spec: of the tensor.
        data: its bytes, row-major.
    """

    spec: Spec
    data: bytes = field(repr=False)

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`Expr.read`."""
        import numpy as np  # commands that look at facts alone do without

        begin, end = self.spec.row_offset(start), self.spec.row_offset(stop)
        yield Piece("values", begin, np.frombuffer(self.data[begin:end], self.spec.dtype.carrier))
