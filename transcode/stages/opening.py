"""Quantized tensors between stages: opened as plain values, settled behind the last stage that encodes.

A stage that quantizes gets them as if ``dequantize`` stood before it, so that a LoRA, a cast and the choice
of tensors meet values. What is encoded in another scheme is decoded as it is read. What is not comes out
again as it came in, with its codes and scales: nothing of it is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, cast

from .. import catalog
from ..consumers.config.stated import CONFIG, read_json
from ..consumers.stored import stored_quantized
from ..core.event import Event
from ..core.flow import Transform
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.scheme import parts_of
from ..core.tensor import LazyTensor
from ..voice import called
from .options import DequantizeOptions

if TYPE_CHECKING:
    from .convert import Convert

__all__ = ["Opening", "Settling", "arranged", "computed"]


def arranged(steps: tuple[Transform, ...], on_nonfinite: str, to: str | None = None) -> tuple[Transform, ...]:
    """Stages, with quantized tensors opened before the first that may look at values, and settled behind the
    last that encodes.

    What is dropped first need not be understood, and what is to be decoded is decoded.

    Args:
        on_nonfinite, to: see :class:`Opening`.
    """
    if any(isinstance(step, Opening) for step in steps):
        return steps
    encoding = [number for number, step in enumerate(steps) if step.encodes]
    start, stop = _start(steps[: encoding[0]]), encoding[-1] + 1
    between: list[Transform] = []
    for step in steps[start:stop]:
        if getattr(step, "moves_parts", False):
            between += [Opening(on_nonfinite, cast("Convert", step), to), step, Opening(on_nonfinite, to=to)]
        else:
            between.append(step)
    first = () if isinstance(between[0], Opening) else (Opening(on_nonfinite, to=to),)
    return (*steps[:start], *first, *between, Settling(), *steps[stop:])


def _start(before: tuple[Transform, ...]) -> int:
    """How many of the stages before the first that encodes come before the opening."""
    if not before:
        return 0
    from .component import Component
    from .dequantize import Dequantize
    from .select import Drop, Keep

    decoding = [number + 1 for number, step in enumerate(before) if isinstance(step, Dequantize)]
    selects = (number for number, step in enumerate(before) if not isinstance(step, Component | Keep | Drop))
    return max(next(selects, len(before)), *decoding, 0)


@dataclass(frozen=True)
class Opening(Transform):
    """Quantized tensors as plain values, in the dtype that the model computes in.

    That is what config.json says (``dtype``, ``torch_dtype``), else BF16.

    Args:
        on_nonfinite: see :class:`.dequantize.Dequantize`.
        before: the conversion that comes next: what it moves by its stored parts waits for the opening
            behind it.
        to: another dtype instead.
    """

    kind: ClassVar[str] = "open"

    on_nonfinite: str = "error"
    before: Convert | None = None
    to: str | None = None

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Join the stored parts of each tensor; what stands beside them waits for what becomes of it.

        Raises:
            PlanError: it is not certain how they are stored.
        """
        tensors = list(tensors)
        if self.before is not None:
            waiting_parts = self.before.parts_moved(tensors, planning)
            yield from (tensor for tensor in tensors if tensor.name in waiting_parts)
            tensors = [tensor for tensor in tensors if tensor.name not in waiting_parts]
        stored = stored_quantized(tensors)
        if not stored.tensors or stored.foreign:
            yield from tensors  # the stage that quantizes refuses those by name
            return
        # Most sources hold nothing quantized, and load nothing of what reads it.
        from ..consumers.companions import Companions
        from ..consumers.group import BIAS
        from ..consumers.orphans import refuse_orphans
        from ..consumers.recognise import decipher
        from ..core.quantized_source import Quantized, QuantizedSource
        from .dequantize import decoded, forget, leaving, say_stored, turns

        table = {tensor.name: tensor for tensor in tensors}
        conventions, readings = decipher(tensors, planning, stored=stored)
        refuse_orphans(tensors, stored, conventions, planning)
        quantized = {part for one in readings.values() for part in one.stored.values()}
        companions = Companions(table, conventions, quantized)
        waiting = Event("drop")
        going = leaving(table, conventions, readings, companions, waiting, everywhere=True)
        keep = self.on_nonfinite == "keep"
        to = self.to or computed(planning)
        made = decoded(readings, companions, table, to, keep, conventions[0].name)
        say_stored(conventions, readings, planning)
        if any(turns(one, conventions) for one in made.values()):
            planning.warn(
                "experts are encoded as they are stored, [experts, out, in]; decoded they are [experts, in,"
                " out], as transformers has them"
            )
        known: dict[str, Quantized] = {}
        held: set[str] = set()
        # Whose bias is put in order cannot become codes again: it is decoded, whatever comes.
        settled = [codes for codes, reading in readings.items() if BIAS in reading.stored]
        planning.decoded |= {table[codes].source for codes in settled}
        if settled:
            forget(
                planning, [readings[codes].name for codes in settled], some_left=len(settled) < len(readings)
            )
        for codes, reading in readings.items():
            if codes in settled:
                continue
            inputs, marks = companions.of(reading)
            own = {part.role for part in parts_of(reading.scheme, reading.spec)} | {
                catalog.SHAPE,
                *reading.implied,
            }
            more = (name for role, name in reading.stored.items() if role not in own)
            inputs += [name for name in more if name not in inputs]
            scales, own_marks = (tuple(map(table.__getitem__, one)) for one in (inputs, marks))
            known[table[codes].source] = Quantized(
                reading.name, reading.scheme, scales, own_marks, turned=reading.turned
            )
            held |= {*inputs, *marks}
        cache = frozenset(table[name].source for name in companions.cache())
        if (earlier := planning.opened) is not None:
            known, cache = {**earlier.tensors, **known}, earlier.cache | cache
            conventions = [*map(catalog.convention, earlier.conventions), *conventions]
        names = tuple(dict.fromkeys(one.name for one in conventions))
        planning.opened = QuantizedSource(names, known, cache)
        for name, tensor in table.items():
            if name in made:
                yield made[name]
            elif name not in going:
                yield tensor
            elif name not in held:
                planning.drop(tensor, going[name])


@dataclass(frozen=True)
class Settling(Transform):
    """What was opened and is not encoded comes out as it came in, for the convention that is written."""

    kind: ClassVar[str] = "settle"

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Codes and scales instead of values, where nobody has changed these.

        Raises:
            PlanError: the convention does not take them so.
        """
        tensors = list(tensors)
        opened, planning.opened = planning.opened, None
        if opened is None:
            yield from tensors
            return
        from ..consumers.config.table import keeps_cache
        from ..errors import PlanError
        from .dequantize import forget
        from .repack import inexact, model_dtype, regrouped, say_inexact, say_inputs, undecoded
        from .stored_parts import TURNED

        source = opened.conventions[0]
        target = None if planning.convention is None else catalog.convention(planning.convention)
        # Where config.json is written anew, it says nothing of scales of inputs.
        stay = target is not None and target.name in opened.conventions and target.config is None
        kind = model_dtype(tensor for tensor in tensors if tensor.source not in opened.tensors)
        planning.decoded |= opened.tensors.keys()
        planning.coded -= opened.tensors.keys()
        forget(planning, [one.name for one in opened.tensors.values()])
        counts: Counter[str] = Counter()
        waiting = dict(opened.tensors)
        all_anew = all(quantized.anew for quantized in opened.tensors.values())
        cached = all_anew and keeps_cache(None if target is None else target.config, planning)
        left: list[str] = []
        rounded: set[str] = set()
        for tensor in tensors:
            quantized = waiting.pop(tensor.source, None)
            if quantized is None:
                if cached or not (tensor.source in opened.cache and all_anew):
                    yield tensor
                else:
                    planning.drop(tensor, Event("drop", "a scale of the cache of keys and values"))
                continue
            _drop(quantized.marks, f"a marker of {source}", planning)
            if quantized.turned and not quantized.anew:
                raise PlanError(
                    f"cannot stay as it is beside what is encoded, as it is {TURNED}",
                    tensor=tensor.name,
                    hint=f"do that first, or decode it ({called('decode_some')})",
                )
            if quantized.anew or undecoded(tensor) is None:
                _drop(quantized.inputs, "a scale of its inputs, which are quantized no longer", planning)
                yield tensor
                anew = "recoded" if tensor.recoded is not None else "decoded and encoded anew"
                counts[anew if tensor.scheme is not None else "decoded"] += 1
                if not quantized.anew:
                    planning.warn(
                        f"{tensor.name}: is not quantized again, and was decoded as its values are changed",
                        tensor=tensor.name,
                        kind="decoded",
                    )
                continue
            made = regrouped(tensor, opened.conventions, target, kind, _otherwise(tensor))
            yield made
            how = "kept as stored" if target is None else f"repacked for {target.name}"
            kept = made.fate[-1].kind == "keep"
            counts["kept as stored" if kept else how] += 1
            if target is not None and not kept:
                rounded |= inexact(made, target)
            if stay:
                yield from (_beside(one, quantized.name, tensor.name) for one in quantized.inputs)
            else:
                _drop(quantized.inputs, f"a scale of its inputs, as {source} has it", planning)
                left += [one.name for one in quantized.inputs]
        for quantized in waiting.values():
            beside = (*quantized.inputs, *quantized.marks)
            _drop(beside, f"stood beside {quantized.name}, which is left out", planning)
        if counts:
            said = ", ".join(f"{count} {what}" for what, count in counts.items())
            planning.note(f"of the tensors that came quantized: {said}")
        say_inexact(rounded, planning)
        say_inputs(left, source, planning)


def _otherwise(tensor: LazyTensor) -> str:
    """What to do where a tensor that is not encoded cannot stay as it is."""
    why = next((event.text for event in reversed(tensor.fate) if event.kind == "keep"), None)
    because = "" if why is None else f" ({why})"
    return (
        f"it is not among those that are encoded{because}: take it in ({called('include')}) where it can be,"
        f" or decode it ({called('decode_some')})"
    )


def _drop(tensors: Iterable[LazyTensor], why: str, planning: Planning) -> None:
    for tensor in tensors:
        planning.drop(tensor, Event("drop", why))


def _beside(tensor: LazyTensor, before: str, name: str) -> LazyTensor:
    """A scale of inputs, under the name that the tensor has now."""
    was, now = before.removesuffix(".weight"), name.removesuffix(".weight")
    return tensor if was == now else tensor.evolve(name=now + tensor.name.removeprefix(was))


_TORCH = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def computed(planning: Planning) -> str:
    """The dtype that config.json says a model is loaded in; BF16 where it says none."""
    for path in planning.side_files:
        if path.name != CONFIG:
            continue
        config = read_json(path) or {}
        parts = [part for key, part in config.items() if key.endswith("_config") and isinstance(part, dict)]
        for holder in (config, *parts):
            for key in ("dtype", "torch_dtype"):
                said = holder.get(key)
                found = _TORCH.get(said.removeprefix("torch.")) if isinstance(said, str) else None
                if found is not None:
                    return found
    return DequantizeOptions.to
