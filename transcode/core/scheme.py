"""What a quantized format has to tell the rest of the house."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from .constraint import Constraint
from .dtypes import DType
from .records import dataclass
from .scratch import Scratch
from .spec import Part, Spec
from .types import Array

if TYPE_CHECKING:
    from .expr import Piece

__all__ = ["ROTATIONS", "Encoding", "Hints", "Scheme", "Stats", "parts_of"]

ROTATIONS = tuple(4**power for power in range(9))
"""Columns that may be turned together; 1 for columns that are not turned."""

Stats = Any
"""What an observation pass hands to encode: mostly the largest magnitude of the tensor, in float32."""


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known of quantized tensors beside the shapes of their parts."""

    scale: str = ""
    """Dtype of the stored scale; empty where none is stored."""
    groups: Collection[int] = ()
    """Columns that share a scale, where that is known; else those in use."""
    blocks: Collection[tuple[int, int]] = ()
    """Rows and columns that share a scale, where that is known; else those in use."""
    rotations: Collection[int] = (1,)
    """How many columns may have been turned together."""
    rank: int = 0
    """Of the branch of low rank that is stored beside codes; 0 where none is."""
    branch: str = ""
    """Dtype of that branch."""


class Encoding(Protocol):
    """How codes and their companions stand for a tensor.

    Some are no :class:`Scheme`: they come from a calibration and cannot be made of the rows. Encodings are
    frozen dataclasses; what cannot be told from the facts of a tensor are their fields.
    """

    name: ClassVar[str]
    """Name in conventions and recipes, e.g. ``"int8"``."""
    summary: ClassVar[str]
    """What it is, for people, in one line."""

    def __hash__(self) -> int:
        """Of its fields: what follows from it and a tensor's facts is found once for many alike."""

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """What is stored of a tensor of these facts; codes first."""

    @property
    def search_seconds(self) -> float:
        """Seconds that one processor takes to search scales for the values of one GB, where that is so long
        that a GPU may pay; 0 where encoding is about as fast as files are read and written.
        """

    @property
    def light(self) -> bool:
        """Whether one processor encodes about as fast as a file is written, so that many only wait."""

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, if it is not compiled yet; may take seconds."""


@lru_cache(maxsize=1 << 12)
def parts_of(encoding: Encoding, spec: Spec) -> tuple[Part, ...]:
    """``encoding.parts(spec)``, found once for all tensors that are alike."""
    return encoding.parts(spec)


@runtime_checkable
class Scheme(Encoding, Protocol):
    """Numerics of one quantized format: knows arrays, not names. Its fields are the options of a recipe."""

    options: ClassVar[Mapping[str, Constraint]]
    """Its options, which are its fields, with their legal values."""

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Self]:
        """Those that differ in dtypes or shapes of their parts, or in what bytes of codes mean: among them is
        the one that made a file. Where several fit, the first does.

        Args:
            options: what a convention asks of the scheme.
            hints: what is known of the file beside the shapes of its parts.
        """

    def meaning(self, spec: Spec) -> Hashable:
        """Equal for two schemes, of any names, that decode the same parts of such a tensor to the same
        values.
        """

    def idle(self, given: Collection[str]) -> Iterator[tuple[str, str, Any]]:
        """Options among the given ones that do nothing: each with the option, and its value, that would give
        it a meaning.
        """

    @property
    def weighs(self) -> bool:
        """Whether :meth:`encode` takes weights of columns: where it keeps what loses least."""

    @property
    def needs_weights(self) -> bool:
        """Whether it is of no use without weights of columns."""

    @property
    def without_search(self) -> Self | None:
        """The same with the plain scale of each block; None where nothing is searched."""

    def config(self) -> dict[str, object]:
        """Options that differ from their defaults: JSON, and the constructor's keywords."""

    @property
    def multiple(self) -> tuple[int, int]:
        """Rows and columns of a matrix must be multiples of these, or the scheme refuses it."""

    @property
    def unseen(self) -> Mapping[str, Any]:
        """Options of which dtypes and shapes of parts tell nothing, with the values that nobody need be told:
        a convention has others only where its markers say them.
        """

    def refuses(self, spec: Spec) -> str | None:
        """Why a tensor of these facts cannot be encoded, or None."""

    def instead(self, spec: Spec) -> tuple[Self, str] | None:
        """What stands in for it where the shape of a tensor does not allow all that it does, and what that is
        not; None where there is no need, or nothing.
        """

    def undecodable(self, spec: Spec) -> str | None:
        """Why no file holds a tensor of these facts so, or None."""

    def grain(self, spec: Spec) -> int:
        """Rows are encoded in multiples of this."""

    @property
    def observes(self) -> bool:
        """Whether encode needs statistics of the whole tensor first."""

    def observe(self, rows: Array, dtype: DType) -> Stats:
        """Statistics of some rows. Raises ``NonFinite``."""

    def merge(self, one: Stats, other: Stats) -> Stats:
        """Statistics of two sets of rows as those of both: exact, in any order."""

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: Stats | None, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """Encode rows ``[r, K]`` (carrier dtype of ``spec``) that start at row ``start`` of the tensor.

        ``weights`` are what the squared error of each column counts, float32 ``[K]``, finite and not
        negative, where the scheme :attr:`weighs`; all alike without. Only their ratios matter.

        Yields one piece for each part that these rows touch; a part that belongs to the whole tensor comes
        with row 0. Raises ``NonFinite``.
        """

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """Decode rows ``start`` to ``stop`` into ``out`` (float32 ``[stop - start, K]``).

        ``parts`` holds, by role, the codes of just those rows (carrier dtype) and the *whole* of every other
        part, shaped as its spec says.
        """
