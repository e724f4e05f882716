"""What a quantized format has to tell the rest of the house."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .dtypes import DType
from .scratch import Scratch
from .spec import Part, Spec
from .types import Array

if TYPE_CHECKING:
    from .expr import Piece

__all__ = ["Encoding", "Scheme", "Stats"]

Stats = float
"""What an observation pass hands to encode: the largest magnitude of the tensor, in float32."""


class Encoding(Protocol):
    """How codes and their companions stand for a tensor, as far as a sink must know.

    Some formats are more than a :class:`Scheme`: they come from a calibration and cannot be made of the rows.
    """

    @property
    def name(self) -> str:
        """Name in conventions and recipes, e.g. ``"int8"``."""

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, if it is not compiled yet; may take seconds."""


@runtime_checkable
class Scheme(Encoding, Protocol):
    """Numerics of one quantized format: knows arrays, not names.

    Schemes are frozen dataclasses whose fields are the options a recipe can set.
    """

    def config(self) -> dict[str, object]:
        """Options that differ from their defaults: JSON, and the constructor's keywords."""

    @property
    def multiple(self) -> tuple[int, int]:
        """Rows and columns of a matrix must be multiples of these, or the scheme refuses it."""

    def refuses(self, spec: Spec) -> str | None:
        """Why a tensor of these facts cannot be encoded, or None."""

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """What is stored of a tensor of these facts; codes first."""

    def grain(self, spec: Spec) -> int:
        """Rows are encoded in multiples of this."""

    @property
    def observes(self) -> bool:
        """Whether encode needs statistics of the whole tensor first."""

    def observe(self, rows: Array, dtype: DType) -> Stats:
        """Statistics of some rows; merged by ``max``. Raises ``NonFinite``."""

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: Stats | None, scratch: Scratch
    ) -> Iterator[Piece]:
        """Encode rows ``[r, K]`` (carrier dtype of ``spec``) that start at row ``start`` of the tensor.

        Yields one piece for each part that these rows touch; a part that belongs to the whole tensor comes
        with row 0. Raises ``NonFinite``.
        """

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """Decode rows ``start`` to ``stop`` into ``out`` (float32 ``[stop - start, K]``).

        ``parts`` holds, by role, the codes of just those rows (carrier dtype) and the *whole* of every other
        part, shaped as its spec says.
        """
