"""What a plan reads of files that lie elsewhere: how much, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from typing import Any

from ..containers.stored import Stored, Strided, extent
from ..core.expr import Expr
from ..core.rows import Rows
from ..core.tensor import LazyTensor
from ..core.value import contents
from ..io.remote.ahead import Range
from ..io.remote.bytes import RemoteBytes

__all__ = ["ranges", "transfer"]


def transfer(tensors: Iterable[LazyTensor]) -> int:
    """Bytes that are fetched from elsewhere for some tensors; headers are not counted."""
    return sum(one.end - one.begin for one in ranges(tensors))


def ranges(tensors: Iterable[LazyTensor]) -> Iterator[Range]:
    """The bytes that are fetched for some tensors, in the order in which tensors are read.

    What is looked at as a whole before it is encoded is fetched twice, as it is not kept between.
    """
    looked: set[object] = set()
    read: set[Range] = set()
    for tensor in tensors:
        for statistic in tensor.needs:
            if statistic not in looked:
                looked.add(statistic)
                yield from dict.fromkeys(_leaves(statistic))
        for one in _leaves(tensor.value):
            # Where several tensors are made of one, that is small and kept, or each has some rows of it.
            if one not in read:
                read.add(one)
                yield one


def _leaves(value: Any) -> Iterator[Range]:
    """The bytes that an expression, or what holds some, is made of, where they are not local."""
    if isinstance(value, Stored):
        if isinstance(value.file, RemoteBytes):
            yield value.file.range(value.offset, value.offset + value.spec.nbytes)
    elif isinstance(value, Strided):
        if isinstance(value.file, RemoteBytes):
            nbytes = extent(value.shape, value.strides) * value.spec.nbytes // max(value.spec.numel, 1)
            yield value.file.range(value.offset, value.offset + nbytes)
    elif isinstance(value, Rows):
        for tensor, begin, count in value.runs:
            yield from _some_rows(tensor, begin, begin + count)
    elif isinstance(value, LazyTensor):
        yield from _leaves(value.value)
    elif isinstance(value, tuple):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, Expr):
        yield from _leaves(value.inputs())
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _leaves(contents(value))


def _some_rows(tensor: LazyTensor, begin: int, end: int) -> Iterator[Range]:
    value = tensor.value
    if isinstance(value, Stored) and isinstance(value.file, RemoteBytes):
        first = value.offset + value.spec.row_offset(begin)
        yield value.file.range(first, value.offset + value.spec.row_offset(end))
    else:
        yield from _leaves(value)
