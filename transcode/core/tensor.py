"""Tensors that are read when asked, a few rows at a time, by any thread, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .context import Context, Statistic
from .event import Event
from .expr import Expr, Piece
from .spec import Part, Spec
from .types import Array
from .value import Value, changed, interned

_ELEMENTS = 4096
"""Elements that are read together where rows are cut: some pages of a file."""

_WHOLE = 4 << 20
"""Bytes read at a time where a tensor is wanted as a whole."""

if TYPE_CHECKING:
    import torch
    from numpy.typing import DTypeLike

    from .scheme import Encoding

__all__ = ["LazyTensor", "plain"]


@dataclass(frozen=True, slots=True)
class LazyTensor(Value):
    """A tensor that knows its facts and can produce its bytes.

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
    cost: int = 1
    unpadded: tuple[int, ...] | None = None

    @property
    def plain(self) -> bool:
        """Whether it is stored as it is: one part, the values."""
        return self.scheme is None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.spec.nbytes for part in self.parts)

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

    def tiles(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """Cut the rows into runs of about ``nbytes`` of logical values over the cost, in whole grains."""
        rows = self.spec.rows
        if rows == 0 or self.spec.nbytes == 0:
            return
        grains = max(nbytes * 8 // max(self.spec.row_bits * self.grain * self.cost, 1), 1)
        step = grains * self.grain
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def numpy(self, role: str | None = None) -> Array:
        """The whole of one part (the first unless said), in memory of its own.

        Dtypes that numpy lacks come as ``ml_dtypes`` types; packed sub-byte dtypes as their bytes, 1-D.
        """
        import numpy as np  # commands that look at facts alone do without

        part = self.parts[0] if role is None else self.part(role)
        buffer = np.empty(part.spec.nbytes, np.uint8)
        context = Context()
        tensor = self.cut(_WHOLE)
        for start, stop in tensor.tiles(_WHOLE):
            context.reset()
            for piece in tensor.read(start, stop, context):
                if piece.role == part.role:
                    raw = piece.data.reshape(-1).view(np.uint8)
                    buffer[piece.offset : piece.offset + raw.nbytes] = raw
        if part.spec.dtype.packed:
            return buffer
        return buffer.view(part.spec.dtype.numpy()).reshape(part.spec.shape)

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


def plain(name: str, spec: Spec, value: Expr, **rest: Any) -> LazyTensor:
    """A tensor of plain values."""
    return LazyTensor(
        name, spec, (interned(Part("values", spec)),), value, spec.grain, rest.pop("source", name), **rest
    )
