"""Quantized tensors as they came in: with their parts, for another convention, without decoding them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np

from .. import catalog
from ..codecs import chain
from ..consumers.companions import Companions
from ..consumers.fit import misfit
from ..consumers.group import Reading
from ..consumers.orphans import refuse_orphans
from ..consumers.recognise import decipher
from ..consumers.stored import Stored
from ..core.context import Context
from ..core.dtypes import DTYPES, FLOATS, DType
from ..core.event import Event
from ..core.expr import Expr, Piece
from ..core.extent import Extent
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.scheme import Scheme
from ..core.spec import Part, Spec
from ..core.tensor import LazyTensor
from ..core.value import interned
from ..errors import PlanError
from ..schemes import SCHEMES
from ..schemes.base import widened
from ..voice import called
from .cast import Casting, cast_values
from .dequantize import Decoding, forget, leaving
from .stored_parts import NO_ASIDES, TURNED, Asides, StoredPart, asides_of, stored_parts

__all__ = [
    "Grouping",
    "inexact",
    "model_dtype",
    "regrouped",
    "repack",
    "say_inexact",
    "say_inputs",
    "taken",
    "undecoded",
]

_ANEW = f"{called('anew', '{}')} decodes and encodes them anew instead"
_ANOTHER = (
    f"name one of them with {called('scheme')}, which decodes and encodes them anew, or another"
    f" {called('convention')}"
)


def repack(
    tensors: Sequence[LazyTensor], stored: Stored, target: catalog.Convention, planning: Planning
) -> list[LazyTensor]:
    """Tensors that are stored quantized, as another convention stores the same codes and scales.

    What is stored as that convention stores it already goes along as it is.

    Args:
        tensors: what arrives at the sink.
        stored: what of them is quantized.
        target: the convention that was asked for.

    Raises:
        PlanError: it is not certain how they are stored; or the convention does not take them so.
    """
    tensors = list(tensors)
    if not stored or not target.schemes:
        return tensors
    if stored.foreign and not target.schemes.keys() & SCHEMES.keys():
        return tensors  # nunchaku's, which nothing here decodes: split and joined as they are
    conventions, readings = decipher(tensors, planning, stored=stored)
    if any(one.name == target.name for one in conventions):
        return tensors
    refuse_orphans(tensors, stored, conventions, planning)
    table = {tensor.name: tensor for tensor in tensors}
    companions = Companions(
        table, conventions, {part for one in readings.values() for part in one.stored.values()}
    )
    kind = model_dtype(tensor for tensor in tensors if tensor.name not in stored.parts)
    source = conventions[0]
    made = {
        codes: _grouped(_held(reading, companions, table), kind, source, target)
        for codes, reading in readings.items()
    }
    inputs = Event("drop", f"a scale of its inputs, as {source.name} has it")
    going = leaving(table, conventions, readings, companions, inputs, everywhere=True)
    _tell(
        made.values(),
        readings,
        source,
        target,
        [name for name, why in going.items() if why == inputs],
        planning,
    )
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
        raw: roles of the parts that are yielded as they are stored.
        asides: what else was stored of it.
    """

    name: str
    codes: StoredPart
    others: tuple[tuple[StoredPart, DType], ...]
    raw: tuple[str, ...] = ()
    asides: Asides = NO_ASIDES

    def lying(self, codecs: Mapping[str, tuple[object, ...]]) -> tuple[Expr, frozenset[str]]:
        """See :meth:`.core.expr.Expr.lying`: what codecs would round, a reciprocal for one, where it is
        stored as it is asked for.
        """
        roles = frozenset(
            stored.part.role
            for stored, to in self.others
            if _inexact(stored.rule.codecs)
            and codecs[stored.part.role] == stored.rule.codecs
            and stored.tensor.spec.dtype == to
        )
        return (replace(self, raw=tuple(sorted(roles))) if roles else self), roles

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        rounded = (one.part.role for one, _ in self.others if _inexact(one.rule.codecs))
        role = next((role for role in rounded if role not in self.raw), None)
        return None if role is None else f"{role} is stored as a reciprocal, and rounded when that is undone"

    def extents(self) -> Mapping[str, tuple[Extent, ...]]:
        """The codes, where they are stored as the scheme makes them."""
        extents = self.codes.tensor.value.extents()
        alike = not chain.steps(self.codes.rule.codecs, self.codes.part.spec)
        return {"codes": extents["values"]} if alike and "values" in extents else {}

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        if "codes" not in context.moved:
            codes = np.ascontiguousarray(self.codes.rows(start, stop, context))
            yield Piece("codes", self.codes.part.spec.row_offset(start), codes)
        if start == 0:
            self.asides.check(self.name)
            for stored, to in self.others:
                yield Piece(stored.part.role, 0, self._other(stored, to, context))

    def _other(self, stored: StoredPart, to: DType, context: Context) -> Any:
        if stored.part.role in self.raw:
            return stored.tensor.numpy()
        whole = stored.whole()
        kind = stored.part.spec.dtype
        if kind == to:
            return whole
        if kind.name == "F8_E8M0":
            return widened(whole, kind)
        columns = stored.part.spec.columns
        return cast_values(whole.reshape(-1, columns), kind, to, context, self.name, 0)


def _held(reading: Reading, companions: Companions, table: Mapping[str, LazyTensor]) -> _Held:
    codes, parts = table[reading.codes], stored_parts(reading, table)
    shape, asides = companions.shape(reading), asides_of(reading, companions, table)
    return _Held(
        reading.name, parts, reading.scheme, reading.spec, shape, codes.source, codes.fate,
        asides,
    )  # fmt: skip


def regrouped(
    tensor: LazyTensor,
    conventions: Sequence[str],
    target: catalog.Convention | None,
    kind: DType,
    hint: str = _ANEW,
) -> LazyTensor:
    """A tensor that was opened and not changed, see :func:`undecoded`, with its codes and scales again.

    Args:
        conventions: names of those that read it, the best first.
        target: that it is written for; None where that is not known.
        kind: dtype that the model computes in.
        hint: what to do where it is refused; ``{}`` stands for the scheme.

    Raises:
        PlanError: the target does not take it so.
    """
    decoding = undecoded(tensor)
    assert decoding is not None
    parts = {one.part.role: one for one in (decoding.codes, *decoding.others)}
    fate = tuple(event for event in tensor.fate if event.kind not in ("dequantize", "cast"))
    held = _Held(
        tensor.name, parts, decoding.scheme, decoding.spec, decoding.out.shape,
        tensor.source, fate, decoding.asides,
    )  # fmt: skip
    known = [catalog.convention(name) for name in conventions]
    source = next((one for one in known if one == target), known[0])
    made = _grouped(held, kind, source, target, hint)
    if source != target or not isinstance(made.value, Grouping) or not _lies(held, source):
        return made
    did = Event("keep", f"its codes and scales lie as {source.name} stores them")
    return made.evolve(fate=made.fate[:-1], did=did)


def undecoded(tensor: LazyTensor) -> Decoding | None:
    """How a plain tensor is decoded, where its values are still those of its codes: cast at most."""
    value = tensor.value
    while isinstance(value, Casting):
        value = value.tensor.value
    return value if isinstance(value, Decoding) else None


@dataclass(frozen=True)
class _Held:
    """What is known of a quantized tensor that is to be stored again.

    Attributes:
        name: of the tensor.
        parts: role -> the part as it is stored.
        scheme, spec: see :class:`.dequantize.Decoding`.
        shape: its own, which is less where it was padded.
        source: name of its codes in the source.
        fate: what happened to it.
        asides: what else is stored of it.
    """

    name: str
    parts: Mapping[str, StoredPart]
    scheme: Scheme
    spec: Spec
    shape: tuple[int, ...]
    source: str
    fate: tuple[Event, ...]
    asides: Asides


def _grouped(
    held: _Held,
    kind: DType,
    source: catalog.Convention,
    target: catalog.Convention | None,
    hint: str = _ANEW,
) -> LazyTensor:
    name, found = held.name, held.parts
    if held.asides.order is not None:
        raise PlanError(
            "cannot be stored again without being decoded: its columns are in another order than their groups"
            f" ({held.asides.order.tensor.name!r})",
            tensor=name,
            hint=hint.format(held.scheme.name),
        )
    scheme = held.scheme if target is None else taken(held.scheme, target)
    spec = Spec(kind, held.spec.shape)
    parts = tuple(map(interned, scheme.parts(spec)))
    small = (part for part in parts if part.role in found and part.role != "codes")
    others = tuple((found[part.role], part.spec.dtype) for part in small)
    value = Grouping(name, found["codes"], others, asides=held.asides)
    tensor = LazyTensor(name, spec, parts, value, source=held.source, fate=held.fate, scheme=scheme)
    if target is not None:
        if hint == _ANEW and scheme.name not in target.schemes:
            hint = _ANOTHER
        refusal = _refusal(held, parts, source, target) or misfit(tensor, scheme, target, followed=True)
        if refusal is not None:
            raise PlanError(
                f"cannot be stored as {target.name} stores {scheme.name}: {refusal}",
                tensor=name,
                hint=hint.format(scheme.name),
            )
    return tensor.evolve(
        grain=scheme.grain(spec) if found["codes"].apart else max(spec.rows, 1),
        unpadded=None if held.shape == spec.shape else held.shape,
        did=Event("repack", f"the codes and scales of {source.name}, as they are", scheme.name),
    )


def _lies(held: _Held, convention: catalog.Convention) -> bool:
    """Whether all parts are stored as that convention writes them."""
    rule = convention.schemes.get(held.scheme.name)
    return rule is not None and all(
        role in rule.parts
        and _as(rule.parts[role], one.rule, held.name)
        and chain.stored(one.rule.codecs, one.part.spec) == one.tensor.spec
        for role, one in held.parts.items()
    )


def _as(one: catalog.PartRule, other: catalog.PartRule, name: str) -> bool:
    """Whether two rules store a part of a tensor alike: under one name, however they say it."""
    return one.codecs == other.codecs and one.name.unspell(other.name.spell(name)) == name


def taken(scheme: Scheme, target: catalog.Convention) -> Scheme:
    """The scheme; with scales as F32 where only those are read: it holds those of 16 and 8 bits exactly."""
    rule = target.schemes.get(scheme.name)
    kept = getattr(scheme, "scale_dtype", None)
    wanted = () if rule is None else rule.reads.get("scale_dtype", ())
    if kept in ("BF16", "F16", "F8_E8M0") and kept not in wanted and "F32" in wanted and is_dataclass(scheme):
        return replace(scheme, scale_dtype="F32")
    return scheme


def _refusal(
    held: _Held, parts: Sequence[Part], source: catalog.Convention, target: catalog.Convention
) -> str | None:
    """Why the parts of a tensor are not those that the target has; None if they are."""
    rule = target.schemes.get(held.scheme.name)
    if held.parts["codes"].rule.turned:
        return f"it is {TURNED}"
    if any(
        part.role in held.parts and held.parts[part.role].part.spec.numel != part.spec.numel for part in parts
    ):
        return "it is a stack with a scale to each matrix"
    if rule is None:
        return f"it takes {', '.join(target.schemes)}"
    if {part.role for part in parts} != held.parts.keys():
        return f"parts {', '.join(held.parts)} are not those of {', '.join(part.role for part in parts)}"
    if held.shape != held.spec.shape and not target.pads:
        return f"it was padded from {list(held.shape)} to {list(held.spec.shape)}"
    known = source.schemes.get(held.scheme.name)
    joined = rule.shares_scales and "global_scale" in held.parts
    if joined and not (known is not None and known.shares_scales):
        return f"it has one scale for all layers that are joined (q, k, v), {source.name} may have several"
    return None


def model_dtype(tensors: Iterable[LazyTensor]) -> DType:
    """That of most plain float tensors: the model's."""
    kinds = Counter(
        tensor.spec.dtype.name for tensor in tensors if tensor.plain and tensor.spec.dtype.name in FLOATS
    )
    return DTYPES[kinds.most_common(1)[0][0] if kinds else "BF16"]


def _tell(
    made: Iterable[LazyTensor],
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
    say_inexact({what for tensor in made for what in inexact(tensor, target)}, planning)
    say_inputs(inputs, source.name, planning)


def inexact(tensor: LazyTensor, target: catalog.Convention) -> set[str]:
    """The parts of a repacked tensor that change in the last bit: ``scale of nvfp4``."""
    if not isinstance(tensor.value, Grouping) or tensor.scheme is None:
        return set()
    scheme = tensor.scheme.name
    parts = (tensor.value.codes, *(one for one, _ in tensor.value.others))
    return {
        f"{one.part.role} of {scheme}"
        for one in parts
        if one.rule.codecs != (asked := target.part(one.part.role, scheme).codecs)
        and (_inexact(one.rule.codecs) or _inexact(asked))
    }


def say_inexact(parts: Collection[str], planning: Planning) -> None:
    """Say which parts are rounded, though nothing is decoded."""
    if parts:
        shown = ", ".join(sorted(parts))
        planning.note(f"{shown}: a reciprocal in one of the two, so rounded to F32 once more")


def say_inputs(names: Sequence[str], source: str, planning: Planning) -> None:
    """Warn of scales of inputs that are left out beside weights that stay quantized."""
    if names:
        planning.warn(
            f"{len(names)} scales of inputs are left out, which {source} has beside the weights"
            f" ({names[0]} ...)"
        )


def _inexact(codecs: chain.Codecs) -> bool:
    return any(not codec.exact for codec in codecs)
