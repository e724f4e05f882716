"""Spell all tensors as another program does: their names, and which rows lie together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from .. import catalog
from ..catalog.components import component_table
from ..catalog.rule import MEMBER
from ..catalog.spelling import Direction
from ..consumers.companions import Companions
from ..consumers.evidence import LAYERS
from ..consumers.orphans import refuse_orphans
from ..consumers.recognise import decipher
from ..consumers.stored import stored_quantized
from ..core import small_json
from ..core.event import Event
from ..core.flow import Transform
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.tensor import LazyTensor
from ..errors import PlanError
from ..voice import called
from .each_component import each_component
from .facts import check_model, facts_of
from .llama_header import GGUF, for_llama
from .lora.written import STYLES
from .mixed import logical, refuse_mixed
from .options import ConvertOptions
from .stored_rows import Item
from .structure import Structure
from .t5_header import SPIECE

__all__ = ["Convert"]

_WEIGHT = ".weight"
_AS_IT_IS = (
    "it gives language models the names of llama.cpp, which runs no other; a GGUF file with the names as they"
    " are is written without it, to an output that ends in .gguf"
)
_LORAS_ALONE = ("kohya", "peft")
"""Spellings that LoRAs alone have; of the others of :data:`.lora.written.STYLES` models have some."""


@dataclass(frozen=True)
class Convert(ConvertOptions, Transform):
    """Spell a model as another program does, e.g. LightX2V's Wan as Diffusers'.

    The rules come from the family, and are proven to be a bijection on its names: converting there and back
    gives every name again.
    """

    respells: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to in STYLES and self.to != "diffusers":
            return  # of models few families have it: asked when it is known which one it is
        if self.model is not None:
            catalog.family(self.model).spelled(self.to)
        catalog.check_spelling(self.to)

    @property
    def consumer(self) -> str:
        """Whose spelling it is."""
        return "plain" if self.to in _LORAS_ALONE else self.to

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Rename, and put rows together where the other spelling has them so.

        A name that no rule knows is an error, or goes on unchanged if unmatched is allowed. Of quantized
        tensors that are joined, scales that are one for a whole tensor are read while planning.

        Raises:
            PlanError: see :meth:`.structure.Structure.of`.
        """
        tensors = list(tensors)
        if self.to in STYLES:
            from .lora.respell import is_lora, respell  # most runs convert models

            if is_lora(tensors):
                yield from respell(tensors, self.to, self.model, planning)
                return
            if self.to in _LORAS_ALONE:
                raise PlanError(
                    f"convert to {self.to}: that is a spelling of LoRAs, and this is none",
                    hint="see the spellings of models: transcode families",
                )
        held = component_table().held(tensor.name for tensor in tensors)
        if held.several and self.model is None and self.source is None:
            yield from each_component(tensors, held, self.to, planning, _converted)
            return
        family = self._family(logical(tensors))
        if family.spelling == self.to:
            refuse_mixed(tensors, family, planning)
            planning.warn(f"convert: the names are spelled as {self.to} already, none changes")
            yield from tensors
            return
        converted = _converted(tensors, family, self.to, planning)
        if self.to == GGUF:
            spiece = next((one for one in tensors if one.name == family.prefix + SPIECE), None)
            converted = for_llama(converted, planning, spiece)
        yield from converted

    @property
    def moves_parts(self) -> bool:
        """Whether rules may speak of stored parts of quantized tensors, see :meth:`parts_moved`."""
        return self.to == GGUF

    def parts_moved(self, tensors: list[LazyTensor], planning: Planning) -> frozenset[str]:
        """Names of codes and scales that have rules of their own, as those of gpt-oss' experts, which are not
        transposed as their values are elsewhere. They are moved as they are stored.
        """
        stored = stored_quantized(tensors)
        if not stored.tensors:
            return frozenset()
        try:
            family = self._family(logical(tensors))
        except PlanError:
            return frozenset()  # said where they are converted
        direction, size = family.direction(self.to, facts_of(planning)), len(family.prefix)
        hits = (direction.find(name[size:]) for name in stored.tensors.values())
        tensors_have = {id(hit.rule) for hit in hits if hit is not None}
        return frozenset(
            part
            for part in stored.parts
            if (hit := direction.find(part[size:])) is not None and id(hit.rule) not in tensors_have
        )

    def _family(self, names: list[str]) -> catalog.Family:
        if self.model is not None:
            family = catalog.family(self.model)
            found = family.fit(names)
        else:
            found = catalog.detect(names)
            if found is None:
                raise PlanError(
                    f"convert to {self.to}: these tensors belong to no known family",
                    hint=_AS_IT_IS
                    if self.to == GGUF
                    else f"name it with {called('model')}; `transcode families` lists them",
                )
            family = found = self._general(found, names)
        if self.source is not None and (found is None or found.spelling != self.source):
            family = family.spelled(self.source)
        elif found is None:
            raise PlanError(
                f"convert to {self.to}: the tensors do not look like any spelling of {family.name}",
                hint="say which one it is",
            )
        else:
            family = found
        family.spelled(self.to)
        return family

    def _general(self, found: catalog.Family, names: list[str]) -> catalog.Family:
        """A special case of another family, or that one where only it knows the other spelling.

        Names that it knows in that spelling already do not make a special case spelled so: that is refused.
        """
        if self.to in found.spellings:
            return found
        others = (catalog.family(name).fit(names) for name in found.refines)
        known = (one for one in others if one is not None and self.to in one.spellings)
        return next((one for one in known if one.spelling != self.to), found)


def _converted(
    tensors: list[LazyTensor], family: catalog.Family, to: str, planning: Planning, *, within: bool = False
) -> Iterator[LazyTensor]:
    """The tensors of one model in another spelling.

    Args:
        within: it is one of several in a file: names keep its prefix, and what the other spelling has not
            stays as it is, so that the file comes back whole.
    """
    dropped = "" if within or not family.prefix else f", without the prefix {family.prefix!r}"
    planning.note(f"convert {family.name}: {family.spelling} -> {to}{dropped}")
    facts = facts_of(planning)
    direction = family.direction(to, facts)
    if not direction.conversion.holds_for(facts):
        check_model(_models(family.directions(to)), facts, f"convert {family.name} to {to}")
    below = family.prefix if within else ""
    items, absorbed = _items(tensors, family, direction, planning)
    structure = Structure(direction, {item.name: item for item in items.values()}, facts)
    unknown, left = [], []
    names: dict[str, Sequence[str]] = {}
    for tensor in tensors:
        item = items.get(tensor.name)
        hit = None if item is None else direction.find(item.name)
        if tensor.name in absorbed:
            continue
        lacks = item is not None and direction.lacks(item.name)
        if item is None or hit is None or lacks or not structure.whole(hit):
            if within and item is not None and direction.one_sided(item.name):
                yield tensor
                continue
            bare = tensor.name if item is None else item.name
            if hit is None and "." not in bare and bare in _file_markers():
                yield _named(tensor, f"{below}{bare}")
                continue
            if lacks:
                left.append(tensor.name)
                planning.drop(tensor, Event("drop", f"{to} has no such tensor"))
                continue
            lacking = hit is not None and item is not None
            why = structure.lacking(hit) if lacking and hit is not None else None
            unknown.append(f"{tensor.name} (without {why})" if why else tensor.name)
            yield tensor.evolve(did=Event("convert", "no rule knows this name"))
        elif hit.rule.renames:
            names[tensor.name] = [f"{below}{other}" for other in hit.others]
            yield _named(tensor, names[tensor.name][0])
        else:
            names[tensor.name] = [f"{below}{other}" for other in hit.others]
            _open(item, planning)
            for made in structure.of(item, hit, planning):
                yield made.evolve(name=f"{below}{made.name}") if below else made
    _rename_layers(names, planning)
    planning.respelled.append(_modules(names))
    if left:
        planning.warn(f"convert: {to} has no {', '.join(left)}: left out, and no conversion brings them back")
    if unknown:
        told = f"convert: no rule of {family.name} knows {', '.join(unknown[:5])}"
        told += f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        if not planning.allow_unmatched:
            raise PlanError(told, hint=f"drop or rename them first, or pass {called('allow_unmatched')}")
        planning.warn(told)


def _file_markers() -> frozenset[str]:
    """Names of what a file says of itself as a tensor, such as ``scaled_fp8``: no model's, in no spelling."""
    return frozenset(name for one in catalog.every_convention() for name in one.file_markers)


def _models(tables: Sequence[Direction]) -> dict[str, list[object]]:
    """For which models any of some tables holds."""
    found: dict[str, list[object]] = {}
    for one in tables:
        for key, values in one.conversion.holds.items():
            found.setdefault(key, []).extend(values)
    return found


def _named(tensor: LazyTensor, name: str) -> LazyTensor:
    if name == tensor.name:
        return tensor
    return tensor.evolve(name=name, did=Event("rename", f"{tensor.name} -> {name}"))


def _items(
    tensors: Sequence[LazyTensor], family: catalog.Family, direction: Direction, planning: Planning
) -> tuple[dict[str, Item], set[str]]:
    """The tensors that have the family's prefix, by name, and the parts of quantized ones that go with them.

    How tensors are quantized is asked only where rows of such have to move.
    """
    size = len(family.prefix)
    within = {tensor.name[size:]: tensor for tensor in tensors if tensor.name.startswith(family.prefix)}
    items = {tensor.name: Item(name, tensor, tensor.spec.shape) for name, tensor in within.items()}
    moving = {name for name in within if (hit := direction.find(name)) and not hit.rule.renames}
    stored = stored_quantized(tensors)
    codes = {*stored.tensors, *stored.foreign}
    rows = (direction.find(name[size:]) for name in stored.tensors.values())
    meant = any(hit is not None and not hit.rule.renames for hit in rows)
    if planning.opened is not None or not (meant or codes & {family.prefix + name for name in moving}):
        return items, set()
    table = {tensor.name: tensor for tensor in tensors}
    conventions, readings = decipher(tensors, planning)
    refuse_orphans(tensors, stored, conventions, planning)
    quantized = {part for one in readings.values() for part in one.stored.values()}
    companions = Companions(table, conventions, quantized)
    absorbed: set[str] = set()
    for name, reading in readings.items():
        if _own_rule(direction, name[size:], reading.name[size:]):
            continue  # its parts have, too, and each goes as a plain tensor
        hit = direction.find(reading.name[size:])
        if hit is None or hit.rule.renames or not reading.name.startswith(family.prefix):
            continue
        beside = [table[one] for ones in companions.of(reading) for one in ones]
        items[name] = Item.stored(
            reading.name[size:], reading, companions.shape(reading), tuple(beside), table, conventions[0].name
        )
        absorbed |= {*reading.stored.values(), *(one.name for one in beside)} - {name}
    return items, absorbed


def _own_rule(direction: Direction, codes: str, name: str) -> bool:
    """Whether a rule speaks of stored codes, and not of the tensor whose name they have with another ending.

    A rule of modules fits ``q_proj.qweight`` too, whose rows are none of the matrix's.
    """
    own, hit = direction.find(codes), direction.find(name)
    return own is not None and (hit is None or own.rule is not hit.rule)


def _open(item: Item, planning: Planning) -> None:
    """Give up the codes of a tensor that a later stage would store again, as its rows move."""
    opened = None if planning.opened is None else planning.opened.still(item.tensor)
    if opened is not None:
        opened.anew = True
        planning.note(
            "convert: quantized tensors whose rows are put together anew are decoded on the way, but where"
            " the rows of their codes and scales can become those of the scheme that is asked for"
        )


def _modules(names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Modules, and those that have their tensors now; but for what is listed or stacked, which is a parameter
    of no module of its own.
    """
    found: dict[str, dict[str, None]] = {}
    for name, others in names.items():
        module = name.rpartition(".")[0]
        if module and not any(MEMBER in other.split(".") for other in others):
            found.setdefault(module, {}).update((other.rpartition(".")[0], None) for other in others)
    return {module: list(others) for module, others in found.items()}


def _rename_layers(names: Mapping[str, Sequence[str]], planning: Planning) -> None:
    """Let metadata that speaks of layers speak of their new names."""
    text = planning.replaced.get(LAYERS, planning.metadata.get(LAYERS))
    if text is None:
        return
    stated = small_json.parse_object(text, what=f"its metadata {LAYERS}")
    layers = stated.get("layers")
    if not isinstance(layers, dict):
        return
    renamed: dict[str, object] = {}
    for module, said in layers.items():
        others = names.get(f"{module}{_WEIGHT}")
        renamed |= dict.fromkeys((one.removesuffix(_WEIGHT) for one in others) if others else (module,), said)
    planning.replaced[LAYERS] = small_json.spell({**stated, "layers": renamed})
