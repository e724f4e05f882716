"""Codes of few bits, packed across a tensor: a number holds one code from each of several runs of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from ..core.codec import Constraint
from ..core.dtypes import DTYPES
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import PlanError
from .base import Base

__all__ = ["Strips", "joined", "shared", "spread"]

_THREE = 10
"""Codes of three bits in a word of 32."""

_SIZES = (128, 96, 64, 32)


@dataclass(frozen=True)
class Strips(Base):
    """A stream of codes, the lowest bits first, as a matrix of its groups ``[R, C]`` whose rows are cut into
    as many runs as a number holds codes: number ``[i, j]`` holds ``code[k * R / n + i, j]``, the first run in
    its highest bits (``pack_4bit_u8`` and others of ``hqq/core/bitpack.py``) or in its lowest
    (``pack_weights`` of ``tensor/packed.py`` in optimum-quanto).

    Codes of three bits are ten to an I32, with zeros for missing rows; others fill U8, with zeros where the
    first run is lowest.

    Args:
        bits: of a code; that of the scheme, where it is for one.
        group: values of a group; likewise. 0 where the columns of the tensor tell it, see :func:`shared`.
        axis: 1 where groups are rows ``[groups, group]``, 0 where they are columns ``[group, groups]``.
        first: bits of the first run: ``"high"`` or ``"low"``.
    """

    name: ClassVar[str] = "strips"
    summary: ClassVar[str] = "codes of few bits, one of each of several runs of groups in a number"
    takes: ClassVar[tuple[str, ...]] = ("U8",)
    options: ClassVar[Mapping[str, Constraint]] = {
        "bits": Constraint(
            "8, 4, 3, 2 or 1", (4, 3), lambda value: type(value) is int and value in (8, 4, 3, 2, 1)
        ),
        "group": Constraint("a number of values", (8,), lambda value: type(value) is int and value >= 0),
        "axis": Constraint.among(1, 0),
        "first": Constraint.among("high", "low"),
    }

    bits: int = 4
    group: int = 64
    axis: int = 1
    first: str = "high"

    def bound(self, scheme: Any) -> Strips:
        """With the widths and groups of a scheme."""
        group, axis = getattr(scheme, "group_size", 0), getattr(scheme, "axis", 1)
        return replace(self, bits=scheme.bits, group=group, axis=axis)

    def _shift(self, run: int, runs: int) -> int:
        """Bits below those of a run."""
        return self.bits * (run if self.first == "low" else runs - 1 - run)

    def rows(self, spec: Spec) -> int:
        """All."""
        return max(spec.rows, 1)

    def _matrix(self, spec: Spec) -> tuple[int, int, int]:
        """Rows and columns of the matrix of groups, and codes to a number."""
        count, per = spec.numel * 8 // self.bits, _THREE if self.bits == 3 else 8 // self.bits
        group = self.group or shared(spec.columns * 8 // self.bits) if count else 0
        if not group or spec.numel * 8 % self.bits or count % 8 or count % group:
            raise PlanError(f"{spec} does not hold whole groups of {group} codes of {self.bits} bits")
        rows = count // group if self.axis else group
        if self.bits != 3 and self.first == "high" and rows % per:
            raise PlanError(f"{rows} rows of groups cannot be cut into {per} runs")
        return rows, count // rows, per

    def spec(self, spec: Spec) -> Spec:
        """``[ceil(R / n), C]``. Raises PlanError where groups or runs are not whole."""
        rows, columns, per = self._matrix(super().spec(spec))
        return Spec(DTYPES["I32" if self.bits == 3 else "U8"], (-(-rows // per), columns))

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        rows, columns, per = self._matrix(spec)
        stored = self.spec(spec)
        codes = np.zeros((stored.shape[0] * per, columns), np.uint8)
        codes[:rows] = spread(piece.data, self.bits).reshape(rows, columns)
        runs = codes.reshape(per, *stored.shape)
        out = np.zeros(stored.shape, np.uint32)
        for place in range(per):
            out |= runs[place].astype(np.uint32) << np.uint32(self._shift(place, per))
        return Piece(
            piece.role, 0, out.astype(np.uint32 if self.bits == 3 else np.uint8).view(stored.dtype.carrier)
        )

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        rows, columns, per = self._matrix(spec)
        numbers = stored.reshape(-1, columns)
        numbers = numbers.view(np.uint32) if self.bits == 3 else numbers
        codes = np.empty((per, *numbers.shape), np.uint8)
        for place in range(per):
            shift = numbers.dtype.type(self._shift(place, per))
            codes[place] = numbers >> shift & numbers.dtype.type(2**self.bits - 1)
        return joined(codes.reshape(-1, columns)[:rows], self.bits).reshape(spec.shape)

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """None: groups do not tell the rows of the tensor."""
        return None


def shared(columns: int) -> int:
    """How many of so many columns share a scale where nothing else says it: the largest of 128, 96, 64 and 32
    that divides them; all, where they are no more than 128 or none does (``QModuleMixin`` of
    ``nn/qmodule.py`` in optimum-quanto).
    """
    if columns <= _SIZES[0]:
        return columns
    return next((size for size in _SIZES if columns % size == 0), columns)


def spread(stream: Array, bits: int) -> Array:
    """Codes of a stream of bits, the lowest first, one to a byte: eight of them are ``bits`` bytes."""
    import numpy as np

    stored = np.ascontiguousarray(stream).view(np.uint8).reshape(-1, bits)
    words = np.zeros(len(stored), np.uint64)
    for place in range(bits):
        words |= stored[:, place].astype(np.uint64) << np.uint64(8 * place)
    codes = np.empty((len(stored), 8), np.uint8)
    for place in range(8):
        codes[:, place] = words >> np.uint64(bits * place) & np.uint64(2**bits - 1)
    return codes.reshape(-1)


def joined(codes: Array, bits: int) -> Array:
    """The inverse of :func:`spread`."""
    import numpy as np

    eights = np.ascontiguousarray(codes).reshape(-1, 8)
    words = np.zeros(len(eights), np.uint64)
    for place in range(8):
        words |= eights[:, place].astype(np.uint64) << np.uint64(bits * place)
    stored = np.empty((len(eights), bits), np.uint8)
    for place in range(bits):
        stored[:, place] = words >> np.uint64(8 * place) & np.uint64(255)
    return stored.reshape(-1)
