"""Shapes and lengths that do not tell what they hold: something beside the part does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..core.codec import Constraint
from ..core.records import dataclass
from ..core.spec import Spec
from ..core.types import Array
from ..errors import PlanError
from .base import Base, matrix

__all__ = ["Flat", "Text"]


@dataclass(frozen=True)
class Flat(Base):
    """All elements of a part in a line, ``[n]``, or in a column, ``[n, 1]``: its shape stands elsewhere.

    Args:
        axes: 1 or 2.
    """

    name: ClassVar[str] = "flat"
    summary: ClassVar[str] = "all elements as [n] or [n, 1]; the shape of the tensor stands elsewhere"
    moves: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {"axes": Constraint.among(1, 2)}

    axes: int

    def spec(self, spec: Spec) -> Spec:
        """A line or a column. Raises PlanError for elements that do not fill bytes."""
        if spec.dtype.bits % 8:
            raise PlanError(f"elements of {spec} do not fill bytes, so they are no line")
        return Spec(spec.dtype, (spec.numel,) if self.axes == 1 else (spec.numel, 1))

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        return matrix(stored, spec)

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """None: a line does not tell its rows."""
        return None


@dataclass(frozen=True)
class Text(Base):
    """Bytes of a text, with blanks behind it so that all are of one length; others may have fewer."""

    name: ClassVar[str] = "text"
    summary: ClassVar[str] = "bytes of a text with blanks behind it, of which others may have fewer"
    takes: ClassVar[tuple[str, ...]] = ("U8",)
    loose: ClassVar[bool] = True

    def rows(self, spec: Spec) -> int:
        """All."""
        return max(spec.rows, 1)

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        out = np.full(spec.numel, ord(" "), np.uint8)
        out[: stored.size] = stored.reshape(-1)
        return out
