"""Quantized tensors whose elements a conversion moves, as their convention stores what becomes of them.

What joins, stacks, lists or permutes does it to values as they are decoded; :mod:`.rows_of_codes` then finds
the rows of codes and scales that stand for the result, so nothing is decoded and all parts stay views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .. import catalog
from ..catalog import PartRule
from ..codecs import chain
from ..consumers.group import one_to_each
from ..core.event import Event
from ..core.permuted import reshaped
from ..core.rows import Run, rows_of
from ..core.scheme import parts_of
from ..core.spec import Spec
from ..core.tensor import LazyTensor, plain
from ..errors import PlanError
from .dequantize import Decoding
from .rows_of_codes import coded_rows
from .stored_parts import transposed
from .stored_rows import OTHERWISE, WEIGHT, Item, alike

__all__ = ["put_values", "values_of"]


def values_of(item: Item) -> LazyTensor:
    """A tensor as it would be decoded; one that is not quantized as it is."""
    reading = item.reading
    if reading is None or item.parts is None:
        return item.tensor
    parts = {role: one for role, one in item.parts.items() if role not in reading.implied}
    codes = parts.pop("codes")
    spec = reading.spec
    value = Decoding(item.tensor.name, codes, tuple(parts.values()), reading.scheme, spec, spec, False)
    made = plain(item.tensor.name, spec, value, source=item.tensor.source, fate=item.tensor.fate)
    made = made.evolve(grain=reading.scheme.grain(spec) if codes.apart else spec.rows)
    return transposed(made) if reading.turned else made


def put_values(name: str, made: LazyTensor, items: Sequence[Item], did: Event) -> Iterator[LazyTensor]:
    """The parts of a tensor whose values were put together of quantized ones', and what stands beside it.

    Args:
        name: of the tensor.
        made: its values.
        items: all that it is put together of.
        did: what was done, for the plan.

    Raises:
        PlanError: parts of rows cannot be taken apart, or the convention has no place for such a tensor.
    """
    first = items[0]
    assert first.reading is not None
    if any(one.shape != first.shape or one.reading is None or one.reading.implied for one in items):
        raise PlanError(
            "is put together of tensors that are stored in several ways", tensor=name, hint=OTHERWISE
        )
    rules = _rules(name, made, first)
    turned = rules["codes"].turned
    decoding = coded_rows(transposed(made) if turned else made)
    if decoding is None:
        raise PlanError(
            f"cannot be put together of {first.reading.scheme.name} as it is stored: more than whole rows"
            " move, blocks do not end where it is, or scales of whole tensors differ that become one",
            tensor=name,
            hint=OTHERWISE,
        )
    specs = {part.role: part.spec for part in parts_of(decoding.scheme, decoding.spec)}
    for one in (decoding.codes, *decoding.others):
        rule, spec = rules[one.part.role].bound(decoding.scheme), specs[one.part.role]
        if rule.moves != one.rule.moves:
            raise PlanError(f"has its {one.part.role} stored in another way", tensor=name, hint=OTHERWISE)
        if one.part.spec.numel > 1 and one_to_each(one.part.role, decoding.scheme, decoding.spec):
            spec = Spec(spec.dtype, one.part.spec.shape)  # of a stack
        part = reshaped(one.tensor, chain.stored(rule.codecs, spec).shape)
        yield (transposed(part) if rule.turned else part).evolve(name=rule.name.spell(name), did=did)
    yield from _beside(name, items, made.spec.shape, did)


def _rules(name: str, made: LazyTensor, item: Item) -> Mapping[str, PartRule]:
    """How parts of such a tensor are stored: as the source's, or as stacks of that convention are, or not."""
    reading = item.reading
    assert reading is not None
    stack = len(made.spec.shape) > 2
    rules = reading.rules
    if item.stored_as is not None:
        convention = catalog.convention(item.stored_as)
        known = convention.schemes[reading.scheme.name]
        if stack and known.stacks is not None and not name.endswith(WEIGHT):
            rules = known.stacks
        elif reading.turned:
            rules = known.parts
        if convention.dims and len(made.spec.shape) not in convention.dims and not rules["codes"].turned:
            raise PlanError(
                f"{convention.name} has no quantized tensors of {len(made.spec.shape)} dimensions",
                tensor=name,
                hint=OTHERWISE,
            )
    if not name.endswith(WEIGHT) and any(rules[role].name.placeholder == "stem" for role in item.parts or ()):
        raise PlanError(
            "has no names for its parts, as they are those of a .weight", tensor=name, hint=OTHERWISE
        )
    return rules


def _beside(name: str, items: Sequence[Item], shape: Sequence[int], did: Event) -> Iterator[LazyTensor]:
    """Scales of inputs: one for all, or one to each of a stack."""
    by_rest: dict[str, list[tuple[Item, LazyTensor]]] = {}
    for item in items:
        assert item.reading is not None
        stem = item.reading.name.removesuffix(WEIGHT)
        for tensor in item.beside:
            by_rest.setdefault(tensor.name.removeprefix(stem)[1:], []).append((item, tensor))
    for rest, found in by_rest.items():
        label = f"{name.removesuffix(WEIGHT)}{'.' if name.endswith(WEIGHT) else '_'}{rest}"
        tensors = [tensor for _, tensor in found]
        if len(tensors) != len(items) or any(one.spec.numel != 1 for one in tensors):
            raise PlanError(
                f"only some of what it is put together of have {rest!r}", tensor=name, hint=OTHERWISE
            )
        count = shape[0] if len(shape) > 2 else 1
        each = len(items) // count
        for at in range(0, len(items), each):
            alike(tensors[at : at + each], label)
        if count == 1 or len({one.numpy().tobytes() for one in tensors}) == 1:
            yield tensors[0].evolve(name=label, did=did)
            continue
        runs = [Run(reshaped(one, (1,)), 0, 1) for one in tensors[::each]]
        yield rows_of(label, (count,), runs, did=did)
