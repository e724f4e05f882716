"""Values whose rows were put together of decoded tensors, as one quantized tensor of the rows of their codes.

What joins, stacks, cuts or permutes whole rows does the same to codes and to scales that stand for rows. So a
stack of experts, or a matrix whose heads were reordered, can be recoded by its codes as any other tensor. The
scale of a whole tensor becomes one to each matrix of a stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from ..codecs import chain
from ..consumers.group import one_to_each
from ..core.event import Event
from ..core.permuted import Permuted, Reshaped, permuted, reshaped
from ..core.records import dataclass
from ..core.rows import Rows, Run, rows_of
from ..core.scheme import Scheme, parts_of
from ..core.spec import Part, Spec
from ..core.tensor import LazyTensor
from ..errors import PlanError
from .cast import Casting
from .dequantize import Decoding
from .stored_parts import NO_ASIDES, StoredPart
from .stored_rows import StoredRows, part_of_rows, rows_to_one

__all__ = ["coded_rows"]

_DID = Event("convert", "rows of its codes")


class _Apart(Exception):
    """What was put together is no quantized tensor."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """A part that is one for some rows.

    Attributes:
        rows: how many, from where those of the one before end.
        stored: the part as it is stored.
        number: which element of it.
    """

    rows: int
    stored: StoredPart
    number: int


@dataclass(frozen=True, slots=True)
class _Held:
    """A quantized tensor seen as a matrix.

    Attributes:
        like: a tensor of that scheme: how it is decoded.
        rows, columns: of the matrix.
        matrix: no block of rows reaches over a multiple of so many.
        parts: those with rows of their own, by role, as they are stored for a matrix.
        scales: those that are one for many rows, by role.
    """

    like: Decoding
    rows: int
    columns: int
    matrix: int
    parts: dict[str, StoredPart]
    scales: dict[str, tuple[_Scale, ...]]


def coded_rows(tensor: LazyTensor) -> Decoding | None:
    """How a plain tensor would be decoded if its rows had been put together while they were quantized.

    Args:
        tensor: whose values may be those of quantized tensors, cast at most, in rows of any order.

    Returns:
        The tensor itself as it is decoded, where no rows were moved; None where values were changed, rows
        are quantized in several ways, or parts of rows cannot be taken apart.

    Raises:
        DataError: a scale of a whole tensor, which is compared with others, cannot be read.
    """
    value = _uncast(tensor)
    if isinstance(value, Decoding):
        return value
    if not isinstance(value, Reshaped | Rows | Permuted):
        return None
    try:
        held = _matrix(tensor)
        return _decoding(tensor, held)
    except (_Apart, PlanError):  # a codec has no such rows
        return None


def _uncast(tensor: LazyTensor) -> object:
    value: object = tensor.value
    while isinstance(value, Casting):
        value = value.tensor.value
    return value


def _matrix(tensor: LazyTensor) -> _Held:
    value = _uncast(tensor)
    if isinstance(value, Decoding):
        return _opened(value)
    if isinstance(value, Reshaped) and value.spec.columns == value.tensor.spec.columns:
        return _matrix(value.tensor)
    if isinstance(value, Rows):
        runs = [(_matrix(run.tensor), run.begin, run.rows) for run in value.runs]
        return _joined(tensor.name, runs)
    if isinstance(value, Permuted):
        return _permuted(value)
    raise _Apart


def _opened(decoding: Decoding) -> _Held:
    spec = decoding.spec
    if decoding.asides != NO_ASIDES or decoding.keep or decoding.out.shape != spec.shape:
        raise _Apart
    flat = Spec(spec.dtype, (spec.rows, spec.columns))
    matrix = spec.shape[-2] if len(spec.shape) > 2 else 1
    parts: dict[str, StoredPart] = {}
    scales: dict[str, tuple[_Scale, ...]] = {}
    made = {part.role: part for part in parts_of(decoding.scheme, flat)}
    for one in (decoding.codes, *decoding.others):
        role = one.part.role
        unit = rows_to_one(decoding, role)
        if unit is None:
            count = one.part.spec.numel
            scales[role] = tuple(_Scale(spec.rows // count, one, number) for number in range(count))
            continue
        if matrix % unit and matrix > 1:
            raise _Apart  # blocks end with each matrix
        stored = chain.stored(one.rule.codecs, made[role].spec)
        if stored.numel != one.tensor.spec.numel:
            raise _Apart  # each matrix was padded
        parts[role] = StoredPart(reshaped(one.tensor, stored.shape), one.rule, made[role])
    return _Held(decoding, spec.rows, spec.columns, matrix, parts, scales)


def _joined(name: str, runs: Sequence[tuple[_Held, int, int]]) -> _Held:
    first = runs[0][0]
    if any(not _alike(first, one) for one, _, _ in runs[1:]):
        raise _Apart
    total = sum(count for _, _, count in runs)
    made = {
        part.role: part
        for part in parts_of(first.like.scheme, Spec(first.like.spec.dtype, (total, first.columns)))
    }
    parts = {}
    for role, stored in first.parts.items():
        of = [StoredRows(one.parts[role], begin, count, one.rows) for one, begin, count in runs]
        tensor = part_of_rows(f"{name} {role}", name, made[role], of, first.like, _DID)
        parts[role] = StoredPart(tensor, stored.rule, made[role])
    scales = {
        role: tuple(scale for one, begin, count in runs for scale in _between(one.scales[role], begin, count))
        for role in first.scales
    }
    return _Held(first.like, total, first.columns, 1, parts, scales)


def _alike(one: _Held, other: _Held) -> bool:
    """Whether rows of two tensors are stored in the same way."""
    rules = [{role: part.rule.codecs for role, part in held.parts.items()} for held in (one, other)]
    whole = [
        {role: some[0].stored.rule.codecs for role, some in held.scales.items()} for held in (one, other)
    ]
    ways = [(held.like.scheme, held.columns) for held in (one, other)]
    return rules[0] == rules[1] and whole[0] == whole[1] and ways[0] == ways[1]


def _permuted(value: Permuted) -> _Held:
    """Rows in another order, where each row of each part is stored by itself."""
    held = _matrix(value.tensor)
    first, last = _moving(value.order)
    inner = prod(value.lengths[last:])
    if value.spec.columns != held.columns or inner % held.columns:
        raise _Apart
    lengths = (*value.lengths[:last], inner // held.columns)
    order = (*value.order[:last], last)
    parts = {}
    for role, stored in held.parts.items():
        spec = stored.tensor.spec
        if rows_to_one(held.like, role) != 1 or spec.shape[0] != held.rows:
            raise _Apart
        if not chain.apart(stored.rule.codecs, stored.part.spec):
            raise _Apart
        each = (*lengths, spec.numel // held.rows)
        moved = permuted(stored.tensor, each, (*order, len(order)), spec.shape, did=_DID)
        parts[role] = stored._replace(tensor=moved)
    block = prod(lengths[first:])
    scales = {role: tuple(_each(some, block)) for role, some in held.scales.items()}
    return replace(held, matrix=1, parts=parts, scales=scales)


def _moving(order: Sequence[int]) -> tuple[int, int]:
    """From where to where axes change places."""
    places = [place for place, axis in enumerate(order) if place != axis]
    return places[0], places[-1] + 1


def _between(scales: Sequence[_Scale], begin: int, count: int) -> Iterator[_Scale]:
    """Those of some rows."""
    at = 0
    for one in scales:
        first, last = max(begin, at), min(begin + count, at + one.rows)
        if first < last:
            yield replace(one, rows=last - first)
        at += one.rows


def _each(scales: Sequence[_Scale], rows: int) -> Iterator[_Scale]:
    """One to each so many rows."""
    total = sum(one.rows for one in scales)
    if total % rows:
        raise _Apart
    if len(scales) == 1:  # whatever the rows are
        yield from scales
        return
    for begin in range(0, total, rows):
        some = list(_between(scales, begin, rows))
        if any(_number(one) != _number(some[0]) for one in some[1:]):
            raise _Apart
        yield replace(some[0], rows=rows)


def _number(scale: _Scale) -> bytes:
    """Its bytes, which are read."""
    raw = scale.stored.tensor.numpy().reshape(-1)
    return raw[scale.number : scale.number + 1].tobytes()


def _decoding(tensor: LazyTensor, held: _Held) -> Decoding:
    spec = Spec(held.like.spec.dtype, tensor.spec.shape)
    matrix = spec.shape[-2] if len(spec.shape) > 2 else held.rows
    scheme: Scheme = held.like.scheme
    if len(spec.shape) < 2 or scheme.refuses(Spec(tensor.spec.dtype, spec.shape)) is not None:
        raise _Apart
    if len(spec.shape) > 2 and any(matrix % (rows_to_one(held.like, role) or 1) for role in held.parts):
        raise _Apart
    parts = dict(held.parts)
    for role, scales in held.scales.items():
        parts[role] = _whole(tensor.name, role, held, list(_each(scales, matrix)))
    roles = [part.role for part in parts_of(scheme, spec)]
    others = tuple(parts[role] for role in roles if role != "codes")
    return Decoding(
        tensor.name, parts["codes"], others, scheme, spec, Spec(tensor.spec.dtype, spec.shape), False
    )


def _whole(name: str, role: str, held: _Held, scales: Sequence[_Scale]) -> StoredPart:
    """A part that is one for each matrix; as it was stored, where there is but one."""
    first = scales[0].stored
    if all(one.stored is first for one in scales) and len(scales) == first.part.spec.numel:
        return first
    if not one_to_each(role, held.like.scheme, held.like.spec) and len(scales) > 1:
        if first.part.spec.numel > 1 or any(_number(one) != _number(scales[0]) for one in scales[1:]):
            raise _Apart
        return first
    runs = [
        Run(reshaped(one.stored.tensor, (one.stored.tensor.spec.numel,)), one.number, 1) for one in scales
    ]
    # Of codecs that only say how a single number is shaped, none is left.
    codecs = tuple(codec for codec in first.rule.codecs if codec.moves or not codec.exact)
    spec = Spec(first.part.spec.dtype, (len(scales),))
    tensor = rows_of(f"{name} {role}", spec.shape, runs, did=_DID)
    return StoredPart(tensor, replace(first.rule, codecs=codecs), Part(role, spec))
