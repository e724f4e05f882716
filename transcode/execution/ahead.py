"""What a plan will read of files that lie elsewhere, told before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from ..containers.stored import Stored, Strided, extent
from ..core.expr import Expr
from ..core.rows import Rows
from ..core.tensor import LazyTensor
from ..core.value import contents
from ..io.remote.ahead import Expected, Range
from ..io.remote.bytes import RemoteBytes
from ..plan.plan import Plan
from . import journal

__all__ = ["expecting", "transfer"]


def transfer(plan: Plan) -> int:
    """Bytes that a run of a plan fetches from elsewhere, headers not counted."""
    return sum(one.end - one.begin for one in _ranges(plan, journal.Ledger()))


def expecting(plan: Plan, ledger: journal.Ledger) -> Expected:
    """What a run will fetch, in the order in which it reads; nothing where all files are local.

    Args:
        ledger: what is done already.
    """
    return Expected(_ranges(plan, ledger))


def _ranges(plan: Plan, ledger: journal.Ledger) -> Iterator[Range]:
    if all(one.path is not None for one in plan.inputs):
        return
    looked: set[object] = set()
    read: set[Range] = set()
    for number, tensor in enumerate(plan.tensors):
        if tensor.spec.nbytes and not ledger.missing(journal.values(number), 0, tensor.spec.nbytes):
            continue
        for statistic in tensor.needs:
            if statistic not in looked:
                looked.add(statistic)
                # A look at a tensor and its encoding fetch it once each: it is not kept between.
                yield from dict.fromkeys(_leaves(statistic))
        for one in _leaves(tensor.value):
            # What several tensors are made of is small, and kept, or of each of them they take some rows.
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
