"""Rows of tensors put together under a new name, all their parts with them where they are quantized.

Rows of quantized tensors are moved as they are stored, where rows of each of their parts can be; only small
parts that are stored in blocks of rows are taken out of their layout and put into it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import lcm
from typing import NamedTuple

import numpy as np

from ..catalog import SHAPE, ZERO_POINT
from ..codecs import chain
from ..consumers.group import Reading, turned_back
from ..consumers.implied import implied
from ..core.context import Context
from ..core.dtypes import DTYPES
from ..core.event import Event
from ..core.expr import Constant, Expr, Piece
from ..core.records import dataclass
from ..core.rows import Run, rows_of
from ..core.scheme import Scheme, parts_of
from ..core.spec import Part, Spec
from ..core.tensor import LazyTensor, plain
from ..errors import PlanError
from ..voice import called
from .dequantize import Decoding
from .stored_parts import StoredPart, stored_parts

__all__ = [
    "OTHERWISE",
    "WEIGHT",
    "Item",
    "Recoded",
    "StoredRows",
    "Taken",
    "alike",
    "part_of_rows",
    "put",
    "rows_to_one",
]

WEIGHT = ".weight"
OTHERWISE = f"decode it first ({called('dequantize')}), or have it encoded anew: name the scheme"


@dataclass(frozen=True)
class Item:
    """A tensor of the source that has a name in both spellings.

    Attributes:
        name: of the tensor, without the prefix.
        tensor: it; its codes where it is quantized and is moved as it is stored.
        shape: its own.
        reading: how its parts are read, where it is quantized and is moved as it is stored.
        parts: those, by role; zero points of codes that have none, too, which are as many as the scales.
        beside: what stands beside it and concerns all of it: scales of inputs, markers.
        stored_as: name of the convention that reads it.
    """

    name: str
    tensor: LazyTensor
    shape: tuple[int, ...]
    reading: Reading | None = None
    parts: Mapping[str, StoredPart] | None = None
    beside: tuple[LazyTensor, ...] = ()
    stored_as: str | None = None

    @classmethod
    def stored(
        cls,
        name: str,
        reading: Reading,
        shape: tuple[int, ...],
        beside: tuple[LazyTensor, ...],
        table: Mapping[str, LazyTensor],
        stored_as: str,
    ) -> Item:
        """A tensor as it is stored quantized."""
        parts = stored_parts(reading, table)
        if ZERO_POINT in reading.implied:
            part = implied(ZERO_POINT, reading.scheme, reading.spec, reading.spec.shape).part
            zeros = table[reading.stored[ZERO_POINT]]
            parts[ZERO_POINT] = StoredPart(zeros, reading.rules[ZERO_POINT], part)
        known = {one.tensor.name for one in parts.values()}
        more = (one for role, one in reading.stored.items() if role != SHAPE and one not in known)
        others = {one.name: one for one in (*map(table.__getitem__, more), *beside)}
        if reading.turned:
            shape = turned_back(Spec(reading.spec.dtype, shape)).shape  # as its values lie
        return cls(name, table[reading.codes], shape, reading, parts, tuple(others.values()), stored_as)

    @property
    def whole(self) -> bool:
        """Whether it is one value, which concerns all rows of what it stands beside."""
        return self.shape == ()


class Taken(NamedTuple):
    """Rows ``begin`` to ``begin + rows`` along the first dimension of an item."""

    item: Item
    begin: int
    rows: int


def put(name: str, taken: Sequence[Taken], did: Event) -> Iterator[LazyTensor]:
    """Rows of tensors as one, with all its parts where they are quantized."""
    first = taken[0].item
    shape = (sum(one.rows for one in taken), *first.shape[1:])
    if first.reading is None:
        yield _rows(name, shape, [(one.item.tensor, one.begin, one.rows) for one in taken], did)
        return
    yield from _put_stored(name, shape, taken, did)


def _rows(
    name: str, shape: tuple[int, ...], some: Sequence[tuple[LazyTensor, int, int]], did: Event
) -> LazyTensor:
    """Rows along the first dimension of plain tensors."""
    runs = []
    for tensor, begin, count in some:
        each = tensor.spec.rows // tensor.spec.shape[0]
        runs.append(Run(tensor, begin * each, count * each))
    return rows_of(name, shape, runs, did=did)


def _put_stored(
    name: str, shape: tuple[int, ...], taken: Sequence[Taken], did: Event
) -> Iterator[LazyTensor]:
    """The parts of a quantized tensor, as they are stored."""
    first = taken[0].item
    reading, parts = first.reading, first.parts
    assert reading is not None
    assert parts is not None
    for one in taken:
        _agree(name, first, one.item)
    _movable(reading)
    spec = replace(reading.spec, shape=shape)
    for role in parts:
        part = _part(reading.scheme, role, spec)
        rule = reading.rules[part.role]
        runs = []
        for one in taken:
            assert one.item.parts is not None
            runs.append(StoredRows(one.item.parts[part.role], one.begin, one.rows, one.item.shape[0]))
        yield part_of_rows(rule.name.spell(name), name, part, runs, reading, did)
    if SHAPE in reading.stored:
        said = Spec(DTYPES["I64"], (len(shape),))
        value = Constant(said, np.array(shape, "<i8").tobytes())
        label = reading.rules[SHAPE].name.spell(name)
        yield plain(label, said, value, source=reading.stored[SHAPE], fate=(did,))
    yield from _beside(name, taken)


class StoredRows(NamedTuple):
    """Rows ``begin`` to ``begin + rows`` of one part of a quantized tensor that has ``total`` of them."""

    stored: StoredPart
    begin: int
    rows: int
    total: int


def part_of_rows(
    label: str, name: str, part: Part, runs: Sequence[StoredRows], reading: Reading | Decoding, did: Event
) -> LazyTensor:
    """One part of rows of quantized tensors, as it is stored."""
    first = runs[0].stored
    total = sum(run.rows for run in runs)
    unit = _unit(first.part, runs[0].total, reading)
    if unit is None:
        alike([run.stored.tensor for run in runs], name)
        return first.tensor.evolve(name=label, did=did)
    whole = [(first.rule.codecs, one.stored.part.spec, one.total) for one in runs]
    whole.append((first.rule.codecs, part.spec, total))
    step = lcm(*(chain.together(codecs, spec, rows, unit) for codecs, spec, rows in whole))
    if all(edge % step == 0 for edge in _edges(runs)):
        some = []
        for stored, begin, rows, of in runs:
            each, left = divmod(stored.tensor.spec.shape[0], -(-of // step))
            assert not left, (label, stored.tensor.spec, step, of)
            some.append((stored.tensor, begin // step * each, -(-rows // step) * each))
        return _rows(label, (sum(one[2] for one in some), *first.tensor.spec.shape[1:]), some, did)
    if part.role == "codes" or any(edge % unit for edge in _edges(runs)):
        raise PlanError(
            f"its {part.role} as {reading.scheme.name} are stored in blocks of {step} rows, which do not end"
            f" where it is put together: at {', '.join(str(run.rows) for run in runs)} rows",
            tensor=name,
            hint=OTHERWISE,
        )
    pieces = tuple((run.stored, run.begin // unit, -(-run.rows // unit)) for run in runs)
    spec = chain.stored(first.rule.codecs, part.spec)
    value = Recoded(spec, part, pieces, chain.steps(first.rule.codecs, part.spec))
    made = plain(label, spec, value, source=first.tensor.source, fate=first.tensor.fate)
    return made.evolve(grain=max(spec.rows, 1), did=did)


def _edges(runs: Sequence[StoredRows]) -> list[int]:
    """Where runs begin and end, in their tensors and in the result; but for the ends of tensors.

    There a block may have fewer rows. It has not where another run follows, as that begins at a whole one.
    """
    edges, at = [], 0
    for _, begin, count, rows in runs:
        edges += [begin, at]
        at += count
        edges.append(begin + count if begin + count < rows else 0)
    return edges


@dataclass(frozen=True, slots=True)
class Recoded(Expr):
    """A small part of rows of several tensors, taken out of its layout and put into it again.

    Attributes:
        spec: as it is stored.
        part: as the scheme makes it.
        pieces: parts of tensors as they are stored; of each, rows of the part from where on and how many.
        steps: the codecs that it is stored by.
    """

    spec: Spec
    part: Part
    pieces: tuple[tuple[StoredPart, int, int], ...]
    steps: tuple[chain.Step, ...]

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`; rows are read all together."""
        each = [stored.whole()[begin : begin + count] for stored, begin, count in self.pieces]
        piece = Piece("values", 0, np.ascontiguousarray(np.concatenate(each)))
        yield chain.encode(piece, self.steps, context)


_TALL = 1 << 20
"""Rows of a tensor of which all parts but those for whole tensors have several."""


def _movable(reading: Reading) -> None:
    """Refuse tensors of which a part tells something of all rows, such as their number."""
    dtype, columns = reading.spec.dtype, reading.spec.shape[-1]
    tall, taller = (reading.scheme.parts(Spec(dtype, (rows, columns))) for rows in (_TALL, 2 * _TALL))
    same = [one.role for one, other in zip(tall, taller, strict=True) if one == other and one.spec.numel > 1]
    if same:
        raise PlanError(
            f"its {' and '.join(same)} as {reading.scheme.name} are those of all its rows, so none of these"
            " are moved",
            tensor=reading.name,
            hint=OTHERWISE,
        )


def _part(scheme: Scheme, role: str, spec: Spec) -> Part:
    """One of the parts of a tensor of that scheme, be it one that only its consumer asks for."""
    made = next((one for one in parts_of(scheme, spec) if one.role == role), None)
    return implied(role, scheme, spec, spec.shape).part if made is None else made


def rows_to_one(reading: Reading | Decoding, role: str) -> int | None:
    """How many rows of a tensor a row of a part is of; None for a part that is one for all of them.

    Not by its own shape: that of a tensor of one block is one row too.
    """
    tall = Spec(reading.spec.dtype, (_TALL, reading.spec.shape[-1]))
    spec = _part(reading.scheme, role, tall).spec
    return None if spec.numel == 1 else -(-_TALL // spec.shape[0])


def _unit(part: Part, rows: int, reading: Reading | Decoding) -> int | None:
    """As :func:`rows_to_one`. Raises PlanError where the part is none of so many rows."""
    unit = rows_to_one(reading, part.role)
    if unit is None or (part.spec.shape and -(-rows // unit) == part.spec.shape[0]):
        return unit
    raise PlanError(
        f"its {part.role} {part.spec} are none of {rows} rows, so they cannot be moved with them",
        tensor=reading.name,
        hint=OTHERWISE,
    )


def _agree(name: str, first: Item, item: Item) -> None:
    """Refuse to join tensors that are quantized in different ways."""
    one, other = first.reading, item.reading
    assert one is not None
    assert other is not None
    ways = [(each.scheme, each.rules, sorted(each.stored)) for each in (one, other)]
    padded = [each.reading.spec.shape != each.shape for each in (first, item) if each.reading is not None]
    if ways[0] != ways[1] or any(padded) or len(other.spec.shape) != 2:
        why = "was padded" if any(padded) else "is a stack" if len(other.spec.shape) != 2 else None
        raise PlanError(
            f"is quantized as {other.scheme.name}" + (f" and {why}" if why else f", {one.name} otherwise"),
            tensor=other.name,
            hint=OTHERWISE,
        )


def _beside(name: str, taken: Sequence[Taken]) -> Iterator[LazyTensor]:
    """What stands beside quantized tensors and is one for all their rows."""
    by_rest: dict[str, list[LazyTensor]] = {}
    for item in dict.fromkeys(one.item.name for one in taken):
        of = next(one.item for one in taken if one.item.name == item)
        assert of.reading is not None
        stem = of.reading.name.removesuffix(WEIGHT)
        for tensor in of.beside:
            by_rest.setdefault(tensor.name.removeprefix(stem), []).append(tensor)
    count = len({one.item.name for one in taken})
    for rest, tensors in by_rest.items():
        label = name.removesuffix(WEIGHT) + rest
        if len(tensors) != count:
            raise PlanError(f"only some of what it is joined of have {rest!r}", tensor=name, hint=OTHERWISE)
        alike(tensors, label)
        yield tensors[0].evolve(name=label, did=Event("rename", f"{tensors[0].name} -> {label}"))


def alike(tensors: Sequence[LazyTensor], name: str) -> None:
    """Refuse values that are one for all rows where those that are joined have different ones."""
    first = tensors[0]
    for tensor in tensors[1:]:
        if tensor.spec != first.spec or tensor.numpy().tobytes() != first.numpy().tobytes():
            raise PlanError(
                f"would be one for all rows, but {first.name!r} and {tensor.name!r} differ",
                tensor=name,
                hint=OTHERWISE,
            )
