"""What a way to lay out the bytes of a part has to tell the rest of the house."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from .constraint import Constraint
from .expr import Piece
from .scratch import Scratch
from .spec import Spec
from .types import Array

__all__ = ["Codec", "Constraint"]


class Codec(Protocol):
    """How the bytes of one part are laid out in a file.

    Codecs are frozen dataclasses whose fields are their options; a part may go through several in order.
    """

    name: ClassVar[str]
    """Its name in conventions."""
    summary: ClassVar[str]
    """What it does, for people."""
    options: ClassVar[Mapping[str, Constraint]]
    """Its options, which are its fields, with their legal values."""
    moves: ClassVar[bool]
    """Whether bytes change. Where they do not, only facts do, and encoding costs nothing."""
    exact: ClassVar[bool]
    """Whether decoding gives back every value that was encoded, to the bit."""
    loose: ClassVar[bool]
    """Whether files of others may have less of it than is written here."""
    folds: ClassVar[bool]
    """Whether files of others may have the last axis as two."""

    def config(self) -> dict[str, object]:
        """Name and options: JSON."""

    def bound(self, scheme: Any) -> Self:
        """The codec for parts of a certain scheme, where its options are those of the scheme; else itself."""

    def rows(self, spec: Spec) -> int:
        """How many rows of a part of these facts are stored together: pieces start at multiples of it."""

    def spec(self, spec: Spec) -> Spec:
        """Facts of the part as stored. Raises PlanError for facts that it cannot hold."""

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """Whole rows of a part as they are stored, and where.

        Args:
            piece: from a row that is a multiple of :meth:`rows` to another one, or to the end; its data are
                ``[rows, columns]`` in the carrier dtype of ``spec``, sub-byte dtypes ``[rows, bytes]``.
            spec: facts of the part, before this codec.

        Raises:
            DataError: values that it cannot hold.
        """

    def decode(self, stored: Array, spec: Spec) -> Array:
        """The inverse of :meth:`encode`, in the carrier dtype of ``spec``.

        Args:
            stored: the whole part, or any whole rows of it where :meth:`rows` is 1; ``[rows, columns]`` as
                for :meth:`encode`, of the facts as stored.
            spec: facts of the whole part, before this codec.
        """

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """The inverse of :meth:`spec`: the facts of which ``stored`` is made.

        Args:
            stored: facts of a part in a file.
            spec: any facts of that part's dtype.

        Returns:
            None where it makes no such facts, or they do not tell, as those of padded parts.
        """
