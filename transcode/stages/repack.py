"""Quantized tensors as they came in: with their parts, for another convention, without decoding them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np

from .. import catalog
from ..codecs import chain
from ..consumers.companions import Companions
from ..consumers.fit import misfit
from ..consumers.group import Reading
from ..consumers.orphans import refuse_orphans
from ..consumers.recognise import decipher, stored_quantized
from ..core.context import Context
from ..core.dtypes import DTYPES, FLOATS, DType
from ..core.event import Event
from ..core.expr import Expr, Piece
from ..core.planning import Planning
from ..core.scheme import Scheme
from ..core.spec import Spec
from ..core.tensor import LazyTensor
from ..core.value import interned
from ..errors import PlanError
from ..schemes import SCHEMES
from .cast import cast_values
from .dequantize import StoredPart, forget, leaving, stored_parts

__all__ = ["Grouping", "repack"]

_ANEW = "--dequantize bf16 --scheme {} decodes and encodes them anew instead"


def repack(tensors: Sequence[LazyTensor], target: catalog.Convention, planning: Planning) -> list[LazyTensor]:
    """Tensors that are stored quantized, as another convention stores the same codes and scales.

    What is stored as that convention stores it already goes along as it is.

    Args:
        tensors: what arrives at the sink.
        target: the convention that was asked for.

    Raises:
        PlanError: it is not certain how they are stored; or the convention does not take them so.
    """
    tensors = list(tensors)
    stored = stored_quantized(tensors)
    if not stored or not target.schemes:
        return tensors
    if stored.foreign and not target.schemes.keys() & SCHEMES.keys():
        return tensors  # nunchaku's, which nothing here decodes: split and joined as they are
    conventions, readings = decipher(tensors, planning)
    if any(one.name == target.name for one in conventions):
        return tensors
    refuse_orphans(tensors, stored, conventions, planning)
    table = {tensor.name: tensor for tensor in tensors}
    companions = Companions(
        table, conventions, {part for one in readings.values() for part in one.stored.values()}
    )
    kind = _dtype(tensors, stored.parts)
    source = conventions[0]
    made = {
        codes: _grouped(reading, companions.shape(reading), table, kind, source, target)
        for codes, reading in readings.items()
    }
    inputs = Event("drop", f"a scale of its inputs, as {source.name} has it")
    going = leaving(table, conventions, readings, companions, inputs, everywhere=True)
    _tell(readings, source, target, [name for name, why in going.items() if why == inputs], planning)
    planning.decoded |= {table[codes].source for codes in readings}
    forget(planning, [reading.name for reading in readings.values()])
    for name in table:
        if name in going:
            planning.drop(table[name], going[name])
    return [made.get(name, tensor) for name, tensor in table.items() if name not in going]


@dataclass(frozen=True, slots=True)
class Grouping(Expr):
    """The stored parts of a quantized tensor as its scheme makes them.

    Attributes:
        name: of the tensor, for errors.
        codes: whose rows are read.
        others: the small parts, which come with row 0; each with the dtype that its floats are widened to.
        powers: scales are stored as exponents (E8M0), the scheme's are float32.
    """

    name: str
    codes: StoredPart
    others: tuple[tuple[StoredPart, DType], ...]
    powers: bool

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        codes = np.ascontiguousarray(self.codes.rows(start, stop, context))
        yield Piece("codes", self.codes.part.spec.row_offset(start), codes)
        if start == 0:
            for stored, to in self.others:
                yield Piece(stored.part.role, 0, self._other(stored, to, context))

    def _other(self, stored: StoredPart, to: DType, context: Context) -> Any:
        whole = stored.whole(self.powers)
        kind = stored.part.spec.dtype
        if kind == to:
            return whole
        columns = stored.part.spec.columns
        return cast_values(whole.reshape(-1, columns), kind, to, context, self.name, 0)


def _grouped(
    reading: Reading,
    shape: tuple[int, ...],
    table: Mapping[str, LazyTensor],
    kind: DType,
    source: catalog.Convention,
    target: catalog.Convention,
) -> LazyTensor:
    name = reading.name
    scheme = _taken(reading.scheme, target)
    found = stored_parts(reading, table)
    spec = Spec(kind, reading.spec.shape)
    parts = tuple(map(interned, scheme.parts(spec)))
    refusal = _refusal(reading, parts, found, shape, source, target)
    codes = table[reading.codes]
    tensor = LazyTensor(name, spec, parts, codes.value, source=codes.source, fate=codes.fate, scheme=scheme)
    refusal = refusal or misfit(tensor, scheme, target, followed=True)
    if refusal is not None:
        raise PlanError(
            f"cannot be stored as {target.name} stores {scheme.name}: {refusal}",
            tensor=name,
            hint=_ANEW.format(scheme.name),
        )
    others = tuple((found[part.role], part.spec.dtype) for part in parts if part.role != "codes")
    return tensor.evolve(
        value=Grouping(name, found["codes"], others, reading.powers),
        grain=scheme.grain(spec) if found["codes"].apart else max(spec.rows, 1),
        unpadded=None if shape == spec.shape else shape,
        did=Event("repack", f"the codes and scales of {source.name}, as they are", scheme.name),
    )


def _taken(scheme: Scheme, target: catalog.Convention) -> Scheme:
    """The scheme; with scales as F32, which holds those of 16 bits as they are, where only those are read."""
    rule = target.schemes.get(scheme.name)
    kept = getattr(scheme, "scale_dtype", None)
    wanted = () if rule is None else rule.reads.get("scale_dtype", ())
    if kept in ("BF16", "F16") and kept not in wanted and "F32" in wanted and is_dataclass(scheme):
        return replace(scheme, scale_dtype="F32")
    return scheme


def _refusal(
    reading: Reading,
    parts: Sequence[Any],
    found: Mapping[str, Any],
    shape: tuple[int, ...],
    source: catalog.Convention,
    target: catalog.Convention,
) -> str | None:
    """Why the parts of a tensor are not those that the target has; None if they are."""
    rule = target.schemes.get(reading.scheme.name)
    if rule is None:
        return f"it takes {', '.join(target.schemes)}"
    if {part.role for part in parts} != found.keys():
        return f"parts {', '.join(found)} are not those of {', '.join(part.role for part in parts)}"
    if shape != reading.spec.shape and not target.pads:
        return f"it was padded from {list(shape)} to {list(reading.spec.shape)}"
    known = source.schemes.get(reading.scheme.name)
    joined = rule.shares_scales and "global_scale" in found
    if joined and not (known is not None and known.shares_scales):
        return f"it has one scale for all layers that are joined (q, k, v), {source.name} may have several"
    return None


def _dtype(tensors: Sequence[LazyTensor], coded: frozenset[str]) -> DType:
    """That of most plain float tensors: the model's."""
    kinds = Counter(
        tensor.spec.dtype.name
        for tensor in tensors
        if tensor.plain and tensor.name not in coded and tensor.spec.dtype.name in FLOATS
    )
    return DTYPES[kinds.most_common(1)[0][0] if kinds else "BF16"]


def _tell(
    readings: Mapping[str, Reading],
    source: catalog.Convention,
    target: catalog.Convention,
    inputs: Sequence[str],
    planning: Planning,
) -> None:
    schemes = sorted({reading.scheme.name for reading in readings.values()})
    planning.note(
        f"the source holds {' and '.join(schemes)} as {source.name} stores it; it is repacked for"
        f" {target.name}, not decoded"
    )
    inexact = sorted(
        {
            f"{role} of {reading.scheme.name}"
            for reading in readings.values()
            for role in {part.role for part in reading.scheme.parts(reading.spec)}
            if _inexact(reading.rules[role].codecs) or _inexact(target.part(role, reading.scheme.name).codecs)
        }
    )
    if inexact:
        planning.note(f"{', '.join(inexact)}: a reciprocal in one of the two, so rounded to F32 once more")
    if inputs:
        planning.warn(
            f"{len(inputs)} scales of inputs are left out, which {source.name} has beside the weights"
            f" ({inputs[0]} ...)"
        )


def _inexact(codecs: chain.Codecs) -> bool:
    return any(not codec.exact for codec in codecs)
