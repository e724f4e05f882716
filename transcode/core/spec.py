"""Facts about tensors: what is known of one before any of its bytes is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from math import gcd, lcm, prod

from .dtypes import DType
from .records import dataclass
from .value import Value

__all__ = ["Part", "Spec", "tallied"]


@dataclass(frozen=True)  # without slots: what is asked of it for each of many tensors is found once
class Spec(Value):
    """The dtype and shape of an array; everything about its size follows.

    Tensors are read by *rows*: a tensor of shape ``[..., K]`` has ``prod(...)`` rows of ``K`` columns,
    a 1-D tensor has as many rows as elements (one column each) and a scalar one row.
    """

    dtype: DType
    shape: tuple[int, ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.dtype, self.shape))

    @cached_property
    def numel(self) -> int:
        """How many elements."""
        return prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Stored bytes; exact for sub-byte dtypes whose total is whole bytes, and for whole blocks."""
        return self.numel * self.dtype.bits // (8 * self.dtype.elements)

    @cached_property
    def columns(self) -> int:
        """Elements in one row."""
        return self.shape[-1] if len(self.shape) >= 2 else 1

    @cached_property
    def rows(self) -> int:
        """How many rows."""
        return prod(self.shape[:-1]) if len(self.shape) >= 2 else prod(self.shape)

    @cached_property
    def row_bits(self) -> int:
        """Bits of one row; of a row that is no whole number of blocks about so many."""
        return self.columns * self.dtype.bits // self.dtype.elements

    @cached_property
    def grain(self) -> int:
        """Least number of rows that fill whole bytes and blocks: 1 but for narrow rows of such dtypes."""
        columns, bits, elements = self.columns, self.dtype.bits, self.dtype.elements
        if elements > 1:  # whose blocks are whole bytes
            return lcm(columns, elements) // columns if columns else 1
        return 8 // gcd(8, columns * bits) if columns * bits else 1

    def row_offset(self, row: int) -> int:
        """Byte at which a row starts; the row must be a multiple of the grain, or the end."""
        return row * self.columns * self.dtype.bits // (8 * self.dtype.elements)

    def row_of(self, byte: int) -> int:
        """The row in which a byte lies, of a tensor that has any; of bytes that two rows share the first."""
        return byte * 8 * self.dtype.elements // (self.columns * self.dtype.bits)

    def __str__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Part(Value):
    """One stored component of a tensor. It has a role; a convention gives it a name later.

    Roles in use: ``values`` (a plain tensor), ``codes``, ``scale``, ``zero_point``, ``global_scale`` (what
    values are divided by) or ``tensor_scale`` (what they are multiplied by), and for calibrated formats
    ``input_global_scale``, ``input_scale`` (what inputs are divided by) and ``alpha``.
    """

    role: str
    spec: Spec


def tallied(specs: Iterable[Spec]) -> list[tuple[Spec, int]]:
    """Facts with how many tensors have them, in the order of the first: of many tensors most have the same.

    Told apart as objects, which is fast: equal facts may stand in it several times.
    """
    held = list(specs)
    times = Counter(map(id, held))
    return [(spec, times[key]) for key, spec in dict(zip(map(id, held), held, strict=True)).items()]
