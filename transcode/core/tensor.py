"""Tensors that are read when asked, a few rows at a time, by any thread, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .observe import Observation
from .quality import Quality
from .scratch import Scratch
from .spec import Part, Spec

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from .scheme import Encoding

    Array = NDArray[Any]

__all__ = ["LazyTensor", "Piece", "Reader", "flat", "plain"]


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


Reader = Callable[[int, int, Scratch], Iterator[Piece]]
"""``read(start, stop, scratch)``: the pieces of rows ``start`` to ``stop``, one for each part.

``start`` is a multiple of the tensor's grain; ``stop`` too, or the number of rows. Thread-safe, repeatable.
One that yields bytes of a file without looking at them has an attribute ``untouched`` that is true. One that
needs no row as a whole has an attribute ``flat``, which makes a tensor of one dimension of the same elements
in the same order; see :func:`flat`.
"""

_ELEMENTS = 4096
"""Elements that are read together where rows are cut: some pages of a file."""

_WHOLE = 4 << 20
"""Bytes read at a time where a tensor is wanted as a whole."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that knows its facts and can produce its bytes.

    Attributes:
        name: the logical name; a convention derives the names of the parts from it.
        spec: logical dtype and shape: those before quantization, whatever the parts are.
        parts: what is stored.
        read: produces pieces, see :data:`Reader`.
        grain: rows are read in multiples of this.
        source: name in the source; stays when the tensor is renamed.
        scheme: how ``codes`` and their companions stand for the tensor; None for plain values.
        needs: observations that must be complete before the first row is read.
        fate: what was done to it and why, in order.
        shares: key of the stored bytes when several tensors may alias them (tied weights), else None.
        quality: what encoding loses of it, where that is measured; complete when all rows were read.
        cost: its tiles are smaller by this, because their rows take more memory on their way than others'.
        unpadded: its shape before zeros were added so that a scheme takes it; None where none were.
    """

    name: str
    spec: Spec
    parts: tuple[Part, ...]
    read: Reader = field(repr=False, compare=False)
    grain: int = 1
    source: str = ""
    scheme: Encoding | None = None
    needs: tuple[Observation[Any], ...] = field(default=(), repr=False, compare=False)
    fate: tuple[str, ...] = ()
    shares: str | None = None
    quality: Quality | None = field(default=None, repr=False, compare=False)
    cost: int = 1
    unpadded: tuple[int, ...] | None = None

    @property
    def plain(self) -> bool:
        """Whether it is stored as it is: one part, the values."""
        return self.scheme is None

    @property
    def untouched(self) -> bool:
        """Whether its reader yields bytes of a file as they lie, without looking at them."""
        return getattr(self.read, "untouched", False)

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

    def evolve(self, *, did: str | None = None, **changes: Any) -> LazyTensor:
        """A copy with some attributes changed, and ``did`` added to its fate."""
        if did is not None:
            changes["fate"] = (*self.fate, did)
        return replace(self, **changes)

    def matrix(self, start: int, stop: int, scratch: Scratch) -> Array:
        """Rows of a plain tensor as a 2-D array ``[stop - start, columns]`` in the carrier dtype.

        It may be a read-only view of the file. Not for packed sub-byte dtypes.
        """
        (piece,) = self.read(start, stop, scratch)
        return piece.data.reshape(stop - start, self.spec.columns)

    def cut(self, nbytes: int) -> LazyTensor:
        """What is to be read in tiles of about ``nbytes``: itself, or, where its rows need more and nothing
        computes on them as a whole, a tensor of one dimension with the same bytes in the same order.
        """
        make = self.flat
        least = max(nbytes // self.cost, _ELEMENTS * self.spec.dtype.bits // 8)
        if make is None or self.least <= least:
            return self
        return make()

    @property
    def flat(self) -> Callable[[], LazyTensor] | None:
        """What makes a tensor of its elements, see :func:`flat`; None where a row is the least there is."""
        return getattr(self.read, "flat", None)

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
        scratch = Scratch()
        tensor = self.cut(_WHOLE)
        for start, stop in tensor.tiles(_WHOLE):
            scratch.reset()
            for piece in tensor.read(start, stop, scratch):
                if piece.role == part.role:
                    raw = piece.data.reshape(-1).view(np.uint8)
                    buffer[piece.offset : piece.offset + raw.nbytes] = raw
        if part.spec.dtype.packed:
            return buffer
        return buffer.view(part.spec.dtype.numpy()).reshape(part.spec.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
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


def plain(name: str, spec: Spec, read: Reader, **rest: Any) -> LazyTensor:
    """A tensor of plain values."""
    return LazyTensor(name, spec, (Part("values", spec),), read, spec.grain, rest.pop("source", name), **rest)


def flat(name: str, spec: Spec, read: Reader, **rest: Any) -> LazyTensor:
    """The elements of a plain tensor, one after the other, some thousand at a time: where rows are too wide.

    Args:
        spec: of the tensor.
        read: takes elements for rows.
    """
    line = Spec(spec.dtype, (spec.numel,))
    return plain(name, line, read, **rest).evolve(grain=_ELEMENTS)
