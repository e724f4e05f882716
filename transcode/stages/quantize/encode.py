"""Wrap a tensor in a scheme: its rows are encoded as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from math import lcm
from typing import TYPE_CHECKING

import numpy as np

from ...core.context import Context, Statistic
from ...core.dtypes import DTYPES
from ...core.event import Event
from ...core.expr import Expr, Piece
from ...core.quality import Loss
from ...core.records import dataclass
from ...core.scheme import Scheme, Stats
from ...core.spec import Part, Spec
from ...core.tensor import LazyTensor
from ...core.types import Array
from ...core.value import Known, interned, plentiful
from ...errors import DataError
from ...numerics import NonFinite, Overflow
from ...voice import called
from ..cast import cast_values
from .measure import measure

if TYPE_CHECKING:
    from .importance.columns import Columns

__all__ = ["Encoding", "Peak", "encode_tensor", "first_nonfinite"]

_SCAN_TILE = 8 << 20
_FIRST = 1 << 22
"""Values that are looked at while planning, at most."""


@dataclass(frozen=True, slots=True)
class Peak(Statistic[Stats]):
    """What a scheme must know of all rows of a tensor before it can encode the first."""

    tensor: LazyTensor
    scheme: Scheme

    @property
    def spec(self) -> Spec:
        """Of the tensor."""
        return self.tensor.spec

    def tiles(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """As they are encoded."""
        return self.tensor.evolve(grain=_grain(self.tensor, self.scheme)).tiles(nbytes)

    def look(self, start: int, stop: int, context: Context) -> Stats:
        """Raises DataError where a value is not finite."""
        try:
            return self.scheme.observe(self.tensor.matrix(start, stop, context), self.tensor.spec.dtype)
        except NonFinite as error:
            raise _blame(self.tensor, error, start) from None

    def merge(self, one: Stats, other: Stats) -> Stats:
        """That of both."""
        return self.scheme.merge(one, other)


@plentiful
@dataclass(frozen=True, slots=True)
class Encoding(Expr):
    """A plain tensor as the parts of a scheme.

    Attributes:
        tensor: plain floats.
        scheme: what encodes them.
        peaks: of the tensor, or of all that share a scale with it, which are merged.
        measured: the number under which losses are noted, or None.
        key: of the random numbers by which codes are rounded; None for the nearest.
        columns: what each column weighs, or None.
        strict: what was encoded is decoded again, and a value that changed is an error.
    """

    tensor: LazyTensor
    scheme: Scheme
    peaks: tuple[Peak, ...]
    measured: int | None
    key: int | None = None
    columns: Columns | None = None
    strict: bool = False

    def room(self) -> float:
        """That of the values, and their parts, which no scheme makes larger than bfloat16 is; where more is
        computed than codes, float32 besides.
        """
        if self.measured is not None or self.strict:
            return 4
        parts = _parts(self.scheme, self.tensor.spec) if self.key is None else _MORE
        return self.tensor.value.room() + parts

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`: of what is looked at again as it is encoded, whether the first
        rows lose. One peak of all values is not known then, so under such the run tells.
        """
        said = f"it is encoded as {self.scheme.name}"
        if not self.strict or self.key is not None:
            return said
        stop = min(_grain(self.tensor, self.scheme), self.tensor.spec.rows)
        if self.peaks or self.columns is not None or stop * self.tensor.spec.columns > _FIRST:
            return None
        try:
            for _ in self.read(0, stop, Context()):
                pass
        except DataError:
            return said
        return None

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        if context.run.rehearses and (simple := self._simple()) != self:
            yield from simple.read(start, stop, context)
            return
        tensor, scheme, spec = self.tensor, self.scheme, self.tensor.spec
        stats = reduce(scheme.merge, map(context.value, self.peaks)) if self.peaks else None
        rows = tensor.matrix(start, stop, context)
        try:
            pieces = self._pieces(rows, start, stats, context)
            if self.key is not None:
                from ...schemes.dither import dithered  # of which most runs have no need

                nearest = list(pieces)
                values = cast_values(rows, spec.dtype, DTYPES["F32"], context, tensor.name, start)
                pieces = iter(dithered(scheme, spec, rows, values, start, stats, nearest, self.key, context))
            if self.measured is not None:
                pieces = iter(made := list(pieces))
                loss = measure(scheme, rows, spec, start, stats, made)
                context.run.loss(self.measured).add(start, loss)
            if self.strict:
                pieces = iter(made := list(pieces))
                self._unchanged(measure(scheme, rows, spec, start, stats, made), start, stop)
            yield from pieces
        except NonFinite as error:
            raise _blame(tensor, error, start) from None
        except Overflow as error:
            raise DataError(
                f"{error.value!r} at row {start + error.row}, column {error.column} needs a scale that"
                f" {'F16' if 'scale_dtype' in scheme.options else scheme.name} cannot hold",
                tensor=tensor.source or tensor.name,
                hint=f"store scales as F32 or BF16 ({called('scale_dtype')})"
                if "scale_dtype" in scheme.options
                else "exclude the tensor, or choose a scheme whose scales are wider",
            ) from None

    def _simple(self) -> Encoding:
        """What refuses the same values, and takes less time."""
        if self.strict:
            return self
        if (scheme := self.scheme.without_search) is None:
            return Encoding(self.tensor, self.scheme, self.peaks, None, None, self.columns)
        return Encoding(self.tensor, scheme, self.peaks, None)

    def _unchanged(self, loss: Loss, start: int, stop: int) -> None:
        """Raise DataError where a value is not what it was."""
        if loss.noise:
            raise DataError(
                f"would lose: rows {start} to {stop - 1} are none of {self.scheme.name}"
                f" ({loss.decibels or 0:.1f} dB)",
                tensor=self.tensor.name,
                hint=f"leave {called('lossless')} out, exclude the tensor, or choose a wider scheme",
            )

    def _pieces(self, rows: Array, start: int, stats: Stats | None, context: Context) -> Iterator[Piece]:
        """Of some rows; those of one matrix at a time where each matrix of a stack has weights of its own."""
        scheme, spec = self.scheme, self.tensor.spec
        if self.columns is None:
            yield from scheme.encode(rows, spec, start, stats, context)
            return
        weights = self.columns.weights(context)
        if (padding := spec.columns - weights.shape[1]) > 0:
            weights = np.pad(weights, ((0, 0), (0, padding)))
        each = spec.rows // len(weights)
        stop = start + len(rows)
        for matrix in range(start // each, -(-stop // each)):
            first, last = max(matrix * each, start), min((matrix + 1) * each, stop)
            part = rows[first - start : last - start]
            yield from scheme.encode(part, spec, first, stats, context, weights[matrix])


@Known
@lru_cache(maxsize=1 << 12)
def _parts(scheme: Scheme, spec: Spec) -> float:
    """The memory that the parts take over that of the values: scales as float32 too, on their way to what is
    stored, codes of less than a byte as one each, and values that are rounded to float32 first. Where more is
    computed than codes, all of them and float32 besides.
    """
    if not scheme.light:
        return _MORE
    if not spec.nbytes:
        return 1
    codes, *others = (part.spec.nbytes for part in scheme.parts(spec))
    apart = spec.numel if codes < spec.numel else 0
    rounded = spec.nbytes // 2 if spec.dtype.name == "F64" else 0
    return min(1, (codes + apart + _SCALES * sum(others) + rounded) / spec.nbytes)


_MORE = 3
_SCALES = 5
"""Of one byte, and of the four that it is computed in."""


def encode_tensor(
    tensor: LazyTensor,
    scheme: Scheme,
    why: str,
    needs: Sequence[Peak],
    *,
    measured: int | None = None,
    key: int | None = None,
    columns: Columns | None = None,
    strict: bool = False,
) -> LazyTensor:
    """The tensor as the scheme's parts.

    Args:
        tensor: plain floats of facts that the scheme takes.
        why: the reason, for the plan.
        needs: of which the largest is given to the scheme; its own, or those of a whole group.
        measured: decode what was encoded, and note what is lost under this number.
        key: round at random by it, see :mod:`.schemes.dither`; to the nearest without it.
        columns: what the squared error of each column counts.
        strict: a value that changes is an error.
    """
    did, parts, grain = _facts(scheme, tensor.spec, why)
    return tensor.evolve(
        fate=(*tensor.fate, did),
        parts=parts,
        value=Encoding(tensor, scheme, tuple(needs), measured, key, columns, strict),
        grain=lcm(tensor.grain, grain),
        scheme=scheme,
        needs=(*tensor.needs, *needs, *(() if columns is None else columns.needs)),
        measured=measured,
    )


@Known
@lru_cache(maxsize=1 << 12)
def _facts(scheme: Scheme, spec: Spec, why: str) -> tuple[Event, tuple[Part, ...], int]:
    """What is said of tensors that are encoded alike, their parts, and the rows that are encoded together."""
    parts = tuple(map(interned, scheme.parts(spec)))
    said = why
    if len(spec.shape) > 2:
        shared = any(not part.spec.shape for part in parts)
        said += f"; {len(spec.shape)}-D: a stack of {spec.rows // spec.shape[-2]} matrices, "
        said += "all with one scale of the tensor" if shared else "each for itself"
    return interned(Event("quantize", said, scheme.name)), parts, scheme.grain(spec)


def first_nonfinite(tensor: LazyTensor, scheme: Scheme) -> str | None:
    """Where a tensor first holds NaN or Inf, in words, or None. Reads all of it."""
    context = Context()
    for start, stop in tensor.tiles(_SCAN_TILE):
        context.reset()
        try:
            scheme.observe(tensor.matrix(start, stop, context), tensor.spec.dtype)
        except NonFinite as error:
            return f"holds {error.value!r} at row {start + error.row}, column {error.column}"
    return None


def _grain(tensor: LazyTensor, scheme: Scheme) -> int:
    # What comes before may be read in grains of its own, a dequantized tensor for one.
    return lcm(tensor.grain, scheme.grain(tensor.spec))


def _blame(tensor: LazyTensor, error: NonFinite, start: int) -> DataError:
    return DataError(
        f"{error.value!r} at row {start + error.row}, column {error.column}",
        tensor=tensor.source or tensor.name,
        hint="repair the source, exclude the tensor, or keep such tensors with"
        f" {called('on_nonfinite', 'keep')}",
    )
