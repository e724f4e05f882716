"""Tensors that are read when asked, a few rows at a time, by any thread, in any order."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from .context import Context, Statistic
from .dtypes import DType
from .event import Event
from .expr import Expr, Piece
from .records import dataclass
from .shown import Overview, Shown, Table
from .spec import Part, Spec
from .text import printable, size
from .types import Array
from .value import Value, changed, interned, plentiful

_ELEMENTS = 4096
"""Elements that are read together where rows are cut: some pages of a file."""

_WHOLE = 4 << 20
"""Bytes read at a time where a tensor is wanted as a whole."""

if TYPE_CHECKING:
    import torch
    from numpy.typing import DTypeLike

    from .scheme import Encoding

__all__ = ["LazyTensor", "plain"]


@plentiful
@dataclass(frozen=True, slots=True, repr=False)
class LazyTensor(Shown, Value):
    """A tensor that knows its facts and can produce its bytes.

    ``tensor[10:20]`` reads those rows alone and is ``tensor.numpy()[10:20]``: of a quantized tensor rows of
    its codes (of the first part), as they are stored.

    Attributes:
        name: the logical name; a convention derives the names of the parts from it.
        spec: logical dtype and shape: those before quantization, whatever the parts are.
        parts: what is stored.
        value: what yields their bytes.
        grain: rows are read in multiples of this.
        source: name in the source; stays when the tensor is renamed.
        scheme: how ``codes`` and their companions stand for the tensor; None for plain values.
        needs: what must be known of whole tensors before the first row is read.
        fate: what was done to it and why, in order.
        shares: key of the stored bytes when several tensors may alias them (tied weights), else None.
        measured: the number under which a run gathers what encoding loses of it; None for none.
        recoded: the number under which a run counts its blocks that keep every value; None for none.
        cost: its tiles are smaller by this, because their rows take more memory on their way than others'.
        unpadded: its shape before zeros were added so that a scheme takes it; None where none were.
    """

    name: str
    spec: Spec
    parts: tuple[Part, ...]
    value: Expr
    grain: int = 1
    source: str = ""
    scheme: Encoding | None = None
    needs: tuple[Statistic[Any], ...] = ()
    fate: tuple[Event, ...] = ()
    shares: str | None = None
    measured: int | None = None
    recoded: int | None = None
    cost: int = 1
    unpadded: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape: before quantization, whatever the parts are."""
        return self.spec.shape

    @property
    def dtype(self) -> DType:
        """The logical dtype: its ``name`` is ``"BF16"``, its ``numpy()`` the dtype of arrays of it."""
        return self.spec.dtype

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        return len(self.spec.shape)

    @property
    def plain(self) -> bool:
        """Whether it is stored as it is: one part, the values."""
        return self.scheme is None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        if len(self.parts) == 1:  # nearly all of those that are read
            return self.parts[0].spec.nbytes
        return sum([part.spec.nbytes for part in self.parts])

    def part(self, role: str) -> Part:
        """The part of that role. Raises KeyError."""
        for part in self.parts:
            if part.role == role:
                return part
        raise KeyError(role)

    def evolve(self, *, did: Event | None = None, **changes: Any) -> LazyTensor:
        """A copy with some attributes changed, and ``did`` added to its fate."""
        if did is not None:
            changes["fate"] = (*changes.get("fate", self.fate), interned(did))
        return changed(self, changes)

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """The pieces of some rows, see :meth:`.expr.Expr.read`."""
        return self.value.read(start, stop, context)

    def matrix(self, start: int, stop: int, context: Context) -> Array:
        """Rows of a plain tensor as a 2-D array ``[stop - start, columns]`` in the carrier dtype.

        It may be a read-only view of the file. Not for packed sub-byte dtypes.
        """
        (piece,) = self.value.read(start, stop, context)
        return piece.data.reshape(stop - start, self.spec.columns)

    def cut(self, nbytes: int) -> LazyTensor:
        """What is to be read in tiles of about ``nbytes``: itself, or, where its rows need more and nothing
        computes on them as a whole, a tensor of one dimension with the same bytes in the same order.
        """
        least = max(nbytes // self.cost, _ELEMENTS * self.spec.dtype.bits // 8)
        if self.least <= least or len(self.spec.shape) < 2 or (value := self.value.flat()) is None:
            return self
        line = Spec(self.spec.dtype, (self.spec.numel,))
        return self.evolve(spec=line, parts=(Part("values", line),), value=value, grain=_ELEMENTS)

    @property
    def least(self) -> int:
        """The fewest bytes of logical values that are read together."""
        return self.spec.row_bits * min(self.grain, max(self.spec.rows, 1)) // 8

    def tiles(self, nbytes: int, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
        """Cut the rows into runs of about ``nbytes`` of logical values over the cost, in whole grains.

        Args:
            nbytes: bytes of a run.
            begin: the first row; the first run begins with its grain.
            end: behind the last row; all without it. The last run ends with its grain.
        """
        rows = self.spec.rows
        if rows == 0 or self.spec.nbytes == 0:
            return
        end = rows if end is None else min(-(-end // self.grain) * self.grain, rows)
        grains = max(nbytes * 8 // max(self.spec.row_bits * self.grain * self.cost, 1), 1)
        step = grains * self.grain
        for start in range(begin // self.grain * self.grain, end, step):
            yield start, min(start + step, end)

    def numpy(self, role: str | None = None) -> Array:
        """The whole of one part (the first unless said), in memory of its own.

        Dtypes that numpy lacks come as ``ml_dtypes`` types; packed sub-byte dtypes as their bytes, 1-D.
        """
        import numpy as np  # commands that look at facts alone do without

        part = self.parts[0] if role is None else self.part(role)
        buffer = np.empty(part.spec.nbytes, np.uint8)
        self._fill(buffer, part, 0, 0, self.spec.rows)
        if part.spec.dtype.packed:
            return buffer
        return buffer.view(part.spec.dtype.numpy()).reshape(part.spec.shape)

    def _fill(self, buffer: Array, part: Part, begin: int, start: int, stop: int) -> int:
        """Read rows ``start`` to ``stop``, and put what they hold of a part's bytes from ``begin`` on into a
        buffer. Returns how many bytes that were.
        """
        import numpy as np

        line = self.cut(_WHOLE)
        each = 1 if line is self else self.spec.columns
        context, filled = Context(), 0
        for first, last in line.tiles(_WHOLE, start * each, stop * each):
            context.reset()
            for piece in line.read(first, last, context):
                if piece.role == part.role:
                    raw = piece.data.reshape(-1).view(np.uint8)
                    low, high = (
                        max(piece.offset, begin),
                        min(piece.offset + raw.nbytes, begin + buffer.nbytes),
                    )
                    if low < high:
                        buffer[low - begin : high - begin] = raw[low - piece.offset : high - piece.offset]
                        filled += high - low
        return filled

    def __getitem__(self, index: object) -> Array:
        """Some rows along the first dimension, in memory of their own: no others are read.

        Args:
            index: a number, a slice, or a tuple that begins with one; the rest of it is numpy's.

        Returns:
            What :meth:`numpy` gives of these rows. Of a quantized tensor, rows of its codes. Dtypes with less
            than eight bits come as the bytes of each row, ``[rows, bytes]``.

        Raises:
            IndexError: there is no such row.
            TypeError: another kind of index.
            ValueError: rows of a dtype with less than eight bits that do not begin at whole bytes.
        """

        part = self.parts[0]
        shape = part.spec.shape
        first, *rest = index if isinstance(index, tuple) and index else (index,)
        if not shape or first is Ellipsis or (isinstance(first, tuple) and not first):
            return self._whole(index)
        if isinstance(first, slice):
            chosen = range(*first.indices(shape[0]))
        else:
            try:
                number = operator.index(first)
            except TypeError:
                raise TypeError(
                    f"rows are chosen by a number or a slice, not by {type(first).__name__}; numpy()[...]"
                    " takes any index"
                ) from None
            if isinstance(first, bool) or not -shape[0] <= number < shape[0]:
                raise IndexError(f"no row {first} among {shape[0]}")
            chosen = range(number % shape[0], number % shape[0] + 1)
        rows = self._rows(part, min(chosen, default=0), max(chosen, default=-1) + 1)
        if not isinstance(first, slice):
            rows = rows[0]
        elif chosen.step != 1:
            rows = rows[:: chosen.step]
            rows = rows.copy()
        return rows[(slice(None), *rest)] if isinstance(first, slice) and rest else rows[tuple(rest)]

    def _whole(self, index: Any) -> Array:
        import numpy as np

        return np.asarray(self.numpy()[index])

    def _rows(self, part: Part, start: int, stop: int) -> Array:
        """Rows of a part along its first dimension."""
        import numpy as np

        shape, kind = part.spec.shape, part.spec.dtype
        if (bits := prod(shape[1:]) * kind.bits) % (8 * kind.elements):
            bits //= kind.elements
            raise ValueError(f"a row has {bits} bits, so that rows do not begin at whole bytes; read numpy()")
        each = Spec(kind, shape[1:]).nbytes
        buffer = np.empty((stop - start) * each, np.uint8)
        if buffer.size:
            # Where rows of the part are not rows of the tensor, its rows do not fill the buffer.
            per = self.spec.rows // shape[0]
            inside = self.spec.rows == per * shape[0]
            if not (
                inside and self._fill(buffer, part, start * each, start * per, stop * per) == buffer.nbytes
            ):
                whole = np.empty(part.spec.nbytes, np.uint8)
                self._fill(whole, part, 0, 0, self.spec.rows)
                buffer[:] = whole[start * each : stop * each]
        if kind.packed:
            return buffer.reshape(stop - start, each)
        return buffer.view(kind.numpy()).reshape(stop - start, *shape[1:])

    def overview(self) -> Overview:
        """Its name, dtype, shape and size; its parts where it is quantized, and what was done to it."""
        name = printable(self.name, 100)
        head = f"LazyTensor {name!r} {self.spec}, {size(self.nbytes)}"
        lines = []
        if self.scheme is not None:
            lines.append(f"{self.scheme.name}: {' + '.join(f'{one.role} {one.spec}' for one in self.parts)}")
        if self.fate:
            lines.append("; ".join(map(str, self.fate)))
        rows = [(one.role, one.spec.dtype, list(one.spec.shape), size(one.spec.nbytes)) for one in self.parts]
        return Overview(head, lines, (Table(("part", "dtype", "shape", "size"), rows, len(rows), (3,)),))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def torch(self, role: str | None = None) -> torch.Tensor:
        """As :meth:`numpy`, as a torch tensor of the same dtype; needs torch."""
        import torch

        part = self.parts[0] if role is None else self.part(role)
        array = self.numpy(role)
        if part.spec.dtype.ml_dtype is None or part.spec.dtype.packed:
            return torch.from_numpy(array)
        kind = getattr(torch, part.spec.dtype.ml_dtype)
        return torch.from_numpy(array.view(part.spec.dtype.carrier)).view(kind)


def plain(name: str, spec: Spec, value: Expr, *, source: str | None = None, **rest: Any) -> LazyTensor:
    """A tensor of plain values; it has the same name in the source unless another is given."""
    spec, parts, grain = _plain_facts(spec)
    return LazyTensor(name, spec, parts, value, grain, name if source is None else source, **rest)


@lru_cache(maxsize=1 << 14)
def _plain_facts(spec: Spec) -> tuple[Spec, tuple[Part, ...], int]:
    """What all plain tensors of one shape have alike, as one object."""
    return spec, (interned(Part("values", spec)),), spec.grain
