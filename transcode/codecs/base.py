"""What the codecs share: options, refusals, and rows of a piece as an array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, Self

from ..core.codec import Constraint
from ..core.expr import Piece
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import PlanError, RecipeError

__all__ = ["Base", "first_row", "matrix", "only_matrices"]


class Base:
    """A codec that keeps facts and rows apart as they are; others say what they do differently."""

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[Mapping[str, Constraint]] = {}
    moves: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    loose: ClassVar[bool] = False
    """Whether files of others may have less of it than is written here."""
    folds: ClassVar[bool] = False
    """Whether files of others may have the last axis as two."""
    takes: ClassVar[tuple[str, ...]] = ()
    """Dtypes that it can hold; empty for all."""

    def __post_init__(self) -> None:
        for option, legal in self.options.items():
            value = getattr(self, option)
            if not legal.holds(list(value) if isinstance(value, tuple) else value):
                raise RecipeError(f"{self.name}: {option} cannot be {value!r}", hint=f"it is {legal.said}")

    def config(self) -> dict[str, object]:
        """Name and options: JSON."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))  # type: ignore[arg-type]
        return {"codec": self.name} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in values
        }

    def bound(self, scheme: Any) -> Self:
        """The same, whatever the scheme."""
        return self

    def rows(self, spec: Spec) -> int:
        """Each row by itself."""
        return 1

    def spec(self, spec: Spec) -> Spec:
        """The same facts. Raises PlanError for a dtype that it cannot hold."""
        if self.takes and spec.dtype.name not in self.takes:
            raise PlanError(f"{self.name} is for {' or '.join(self.takes)}, not for {spec}")
        return spec

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """The same bytes."""
        return piece

    def decode(self, stored: Array, spec: Spec) -> Array:
        """The same array."""
        return stored

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """The stored shape, in the dtype of ``spec``."""
        return replace(stored, dtype=spec.dtype)


def only_matrices(what: str, spec: Spec) -> tuple[int, int]:
    """Rows and columns of a matrix. Raises PlanError for anything else; ``what`` says of which layout."""
    if len(spec.shape) != 2:
        held = f"{len(spec.shape)}-D stacks" if len(spec.shape) > 2 else f"the shape {list(spec.shape)}"
        raise PlanError(
            f"the {what} layout holds the scales of a matrix, not those of {held}",
            hint="exclude it, or choose a convention with scales in rows",
        )
    return spec.shape[0], spec.shape[1]


def first_row(piece: Piece, spec: Spec) -> int:
    """The row at which a piece of such a part starts."""
    return piece.offset * 8 // spec.row_bits if spec.row_bits else 0


def matrix(data: Array, spec: Spec) -> Array:
    """Whole rows of a part as ``[rows, columns]`` in its carrier dtype.

    Those of sub-byte dtypes as ``[rows, bytes]``, or ``[bytes]`` where rows do not fill whole ones.
    """
    carried = data.reshape(-1).view("u1").view(spec.dtype.carrier)
    bits = spec.row_bits
    if not bits:
        return carried.reshape(spec.rows, 0)
    return carried.reshape(-1, bits // carried.itemsize // 8) if bits % 8 == 0 else carried
