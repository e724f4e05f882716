"""What a checkpoint is, from headers and what lies beside it: no value is read, and numpy is not loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .. import catalog
from ..catalog.components import component_table
from ..catalog.contents import contents
from ..catalog.foreign import foreign
from ..catalog.lora import LoraNames, lora_names
from ..catalog.template import StoredNames
from ..containers.checkpoint import Source
from ..containers.stored import Stored
from ..core import small_json
from ..core.dtypes import FLOATS
from ..core.records import dataclass
from ..core.spec import tallied
from ..core.tensor import LazyTensor
from ..core.text import count
from ..core.value import plentiful
from ..errors import RecipeError
from . import record
from .evidence import Claim, claims, layers

__all__ = [
    "ADAPTER",
    "Inspected",
    "Logical",
    "Quantized",
    "adapters",
    "detected",
    "inside",
    "inspect",
    "lost_scales",
    "missing_scales",
]

ADAPTER = "adapter_config.json"
"""What peft writes beside an adapter."""

_MARKER = ".comfy_quant"
_LONGEST_MARKER = 4096
_NAMED = 3
_INSIDE = " inside"
_WEIGHTS = (".weight", ".weight_packed")
_FP8 = ("F8_E4M3", "F8_E5M2")
_INTEGERS = ("int", "uint")


@plentiful
@dataclass(frozen=True, slots=True)
class Logical:
    """One tensor, whatever is stored of it.

    Attributes:
        name: of the tensor.
        parts: role -> what is stored. ``values`` of a plain tensor, else ``codes`` first.
    """

    name: str
    parts: Mapping[str, LazyTensor]

    @property
    def nbytes(self) -> int:
        """Of all parts."""
        return sum(part.spec.nbytes for part in self.parts.values())


@dataclass(frozen=True)
class Quantized:
    """How some tensors are quantized.

    Attributes:
        tensors: how many.
        ways: formats or schemes that the checkpoint names itself, or what its parts are called.
        conventions: those whose names the parts have.
        by: what says so, in words: a record, config.json, markers.
    """

    tensors: int
    ways: tuple[str, ...]
    conventions: tuple[str, ...]
    by: tuple[str, ...]

    def __str__(self) -> str:
        ways = f" as {', '.join(self.ways)}" if self.ways else ""
        whose = f", for {' or '.join(self.conventions)}" if self.conventions else ""
        return f"{count(self.tensors, 'tensor')}{ways}{whose}"

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "tensors": self.tensors,
            "as": list(self.ways),
            "conventions": list(self.conventions),
            "said_by": list(self.by),
        }


@dataclass(frozen=True)
class Inspected:
    """What is known of a checkpoint.

    Attributes:
        source: its facts.
        family: the model that it is of; None where none is known.
        kinds: what it is or holds beside, in words: ``LoRA``, ``text encoder``, ``VAE inside``.
        quantized: how; None where nothing is.
        made: the record of how it was made: ``version``, ``steps`` (kinds, with the scheme), ``digest``.
        tensors: weights with their scales.
        lost: stored names of codes whose scales are missing.
        components: the models of an all-in-one file, by their folders in Diffusers' layout, each with how
            many tensors it has; empty for one model.
    """

    source: Source
    family: catalog.Family | None
    kinds: tuple[str, ...]
    quantized: Quantized | None
    made: Mapping[str, Any] | None
    tensors: tuple[Logical, ...]
    lost: tuple[str, ...] = ()
    components: tuple[tuple[str, int], ...] = ()


def inspect(source: Source) -> Inspected:
    """What a checkpoint is.

    Raises:
        TranscodeError: a table of ``formats/`` is wrong.
    """
    tensors, quantized = _quantized(source)
    names = [one.name for one in tensors]  # the model's own: codes may be stored under others
    family = detected(names)
    calibration = ["calibration"] if _is_calibration(source) else []
    kinds = [
        *adapters(source)[0],
        *calibration,
        *contents().held(names, None if family is None else family.name),
    ]
    parts = {part.name for one in tensors if "codes" in one.parts for part in one.parts.values()}
    lost, _ = lost_scales(source.tensors, parts, claims(source.metadata, source.side_files, names))
    made = _made(source.metadata)
    kinds_once, held = tuple(dict.fromkeys(kinds)), component_table().held(names)
    parts_of = tuple((one.folder, one.tensors) for one in held.all) if held.several else ()
    return Inspected(source, family, kinds_once, quantized, made, tensors, tuple(lost), parts_of)


def _is_calibration(source: Source) -> bool:
    """Whether it has one number for each weight: what is known of the inputs of its layer."""
    return bool(source.tensors) and all(
        tensor.spec.numel == 1 and tensor.name.endswith(".weight") for tensor in source.tensors
    )


def detected(names: Iterable[str]) -> catalog.Family | None:
    """The family that names are of; None where they are of none, or of two at once: then they do not tell."""
    try:
        return catalog.detect(list(names))
    except RecipeError:
        return None


def inside(names: Iterable[str], family: catalog.Family | None) -> list[str]:
    """What other models there are beside the one that it is."""
    held = contents().held(list(names), None if family is None else family.name)
    return [what.removesuffix(_INSIDE) for what in held if what.endswith(_INSIDE)]


def lost_scales(
    tensors: Iterable[LazyTensor], parts: Collection[str], said: Iterable[Claim]
) -> tuple[list[str], list[str]]:
    """Names of codes whose scales are missing, and of what is perhaps such codes.

    Matrices of integers that are named like weights are codes where anything else is quantized, or said to
    be; FP8, which can be values by itself, where a config.json says so.

    Args:
        parts: stored names of codes that have their scales, and of these.
        said: all that the source says of how it is quantized.
    """
    said = list(said)
    configured = any(
        not one.conventions or any(catalog.convention(name).config for name in one.conventions)
        for one in said
    )
    idle = [
        tensor
        for tensor in tensors
        if (tensor.spec.dtype.kind in _INTEGERS or tensor.spec.dtype.name in _FP8)
        and len(tensor.spec.shape) > 1
        and tensor.name.endswith(_WEIGHTS)
        and tensor.name not in parts
    ]
    whole = [tensor.name for tensor in idle if tensor.spec.dtype.kind in _INTEGERS]
    halves = [tensor.name for tensor in idle if configured and tensor.spec.dtype.name in _FP8]
    return (whole + halves, []) if said or parts else (halves, whole)


def missing_scales(names: Sequence[str]) -> str:
    """In words, for codes of these names."""
    if len(names) == 1:
        return f"the scale of {names[0]} is missing"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"the scales of {', '.join(names[:_NAMED])}{more} are missing"


def adapters(source: Source) -> tuple[list[str], bool]:
    """What kind of adapter it is, with its rank where it has one; and whether most tensors are of it."""
    names = lora_names()
    held = [tensor for tensor in source.tensors if names.holds(tensor.name)]
    if held and 2 * len(held) > len(source.tensors):
        kinds: Counter[str] = Counter()
        ranks: Counter[int] = Counter()
        for tensor in held:
            role = _role(tensor.name, names)
            kinds[role[0]] += role[0] != ""
            if role == ("LoRA", "down") and tensor.spec.shape:
                ranks[tensor.spec.shape[0]] += 1
        named = [kind for kind, times in kinds.most_common() if times]
        said = [kind if kind == "LoRA" else f"{kind} adapter" for kind in named] or ["adapter"]
        if ranks:
            sizes = sorted(ranks)
            shown = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
            said = [
                f"LoRA of rank {shown} for {ranks.total()} modules" if kind == "LoRA" else kind
                for kind in said
            ]
        return said, True
    if any(path.name == ADAPTER for path in source.side_files):
        return ["adapter"], False
    return (["LoRA inside"] if held else []), False


def _role(name: str, names: LoraNames) -> tuple[str, str]:
    """Kind of the adapter that a key is of, and its role there."""
    for style in names.styles:
        for role, regex in style.roles.items():
            if regex.fullmatch(name):
                return "LoRA", role
    for kind, roles in names.kinds.items():
        if any(regex.fullmatch(name) for role, ends in roles.items() if role != "values" for regex in ends):
            return kind, ""
    return "", ""


def _quantized(source: Source) -> tuple[tuple[Logical, ...], Quantized | None]:
    """The tensors with their scales, and how they are quantized."""
    table = {tensor.name: tensor for tensor in source.tensors}
    said = claims(source.metadata, source.side_files, table)
    held = tallied(tensor.spec for tensor in source.tensors)
    if all(spec.dtype.name in FLOATS for spec, _ in held):  # none can be codes: most models
        plain = tuple([Logical(name, {"values": tensor}) for name, tensor in table.items()])
        return plain, _stated(0, said, [], source, table) if said else None
    dtypes = {name: tensor.spec.dtype.name for name, tensor in table.items()}
    alien = foreign().recognise(dtypes)
    if alien:
        groups = _alien(dtypes, alien)
        titles = tuple(dict.fromkeys(title for title, _ in alien.values()))
        by = dict.fromkeys(claim.said for claim in said)
        return _logical(groups, table), Quantized(len(alien), titles, (), tuple(by))
    conventions = list(catalog.every_convention())
    claimed = {name for claim in said for name in claim.conventions}
    best: dict[str, dict[str, str]] = {name: {"values": name} for name in table}
    fitting: list[str] = []
    most = (0, 0, 0)
    names = StoredNames(table)
    for one in conventions:
        groups = one.group(names, dtypes)
        coded = sum("codes" in parts for parts in groups.values())
        score = (coded, one.name in claimed, sum(map(len, groups.values())))
        if coded and score[0] == most[0]:
            fitting.append(one.name)
        if coded and score > most:
            fitting = [one.name] if score[0] > most[0] else fitting
            best, most = groups, score
    best = _with_companions(best, table, conventions)
    number = sum("codes" in parts for parts in best.values())
    return _logical(best, table), _stated(number, said, fitting, source, table) if number or said else None


def _stated(
    number: int,
    said: Sequence[Claim],
    fitting: Sequence[str],
    source: Source,
    table: Mapping[str, LazyTensor],
) -> Quantized:
    """How so many tensors are quantized, by what is said and the conventions whose names parts have."""
    claimed = {name for claim in said for name in claim.conventions}
    named = sorted(claimed & set(fitting)) or sorted(claimed) or fitting
    ways = _ways(source, table) or tuple(dict.fromkeys(claim.title for claim in said if claim.title))
    by = tuple(dict.fromkeys(claim.said for claim in said))
    return Quantized(number, ways, tuple(named), by)


def _logical(groups: Mapping[str, Mapping[str, str]], table: Mapping[str, LazyTensor]) -> tuple[Logical, ...]:
    def order(role: str) -> int:
        return {"values": 0, "codes": 1, "scale": 2, "marker": 9}.get(role, 3)

    return tuple(
        Logical(
            name,
            {role: table[parts[role]] for role in (sorted(parts, key=order) if len(parts) > 1 else parts)},
        )
        for name, parts in groups.items()
    )


def _with_companions(
    groups: Mapping[str, Mapping[str, str]],
    table: Mapping[str, LazyTensor],
    conventions: Iterable[catalog.Convention],
) -> dict[str, dict[str, str]]:
    """Markers and scales of inputs put beside the quantized tensor that they belong to; others stay alone."""
    complete = {name: dict(parts) for name, parts in groups.items()}
    if not any("codes" in parts for parts in complete.values()):
        conventions = ()  # nothing is there that a marker or a scale could belong to
    templates = {}
    for one in conventions:
        for rule in one.schemes.values():
            templates.update({marker.name: "marker" for marker in rule.markers if marker.everywhere})
        templates.update(dict.fromkeys(one.inputs, "input scale"))
    placed = {stored for parts in complete.values() for role, stored in parts.items() if role != "values"}
    for stored in table:
        if stored in placed:
            continue
        for template, role in templates.items():
            name = template.unspell(stored) if stored.endswith(template.after) else None
            if name is not None and name != stored and "codes" in complete.get(name, {}):
                complete[name].setdefault(role if role not in complete[name] else template.text, stored)
                complete.pop(stored, None)
                placed.add(stored)
                break
    for stored in table:
        if stored not in placed and stored not in complete:
            complete[stored] = {"values": stored}
    return complete


def _alien(
    dtypes: Mapping[str, str], modules: Mapping[str, tuple[str, tuple[str, ...]]]
) -> dict[str, dict[str, str]]:
    """The weights of modules of foreign formats with all of their parts; the others as they are."""
    groups: dict[str, dict[str, str]] = {}
    for stored in dtypes:
        parent, _, leaf = stored.rpartition(".")
        above, _, middle = parent.rpartition(".")
        module = parent if parent in modules else above if above in modules else None
        if module is None:
            groups[stored] = {"values": stored}
            continue
        ending = f".{leaf}" if module == parent else f".{middle}.{leaf}"
        endings = modules[module][1]
        if ending == ".bias" and ending not in endings:
            groups[stored] = {"values": stored}
            continue
        role = "codes" if ending == endings[0] else ending[1:]
        groups.setdefault(f"{module}.weight", {})[role] = stored
    return groups


def _ways(source: Source, table: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    """Schemes of the record, else formats of markers, each with how many tensors have it."""
    if names := record.schemes(source.metadata):
        return tuple(names)
    formats = Counter(_format(marker) for marker in layers(source.metadata).values())
    if not formats:
        formats = Counter(
            _format(_content(tensor)) for name, tensor in table.items() if name.endswith(_MARKER)
        )
    if not formats:
        formats = Counter(one.spec.dtype.name for one in table.values() if one.spec.dtype.elements > 1)
    return tuple(f"{name} ({times})" for name, times in formats.most_common())


def _format(marker: Mapping[str, Any]) -> str:
    form = marker.get("format")
    return form if isinstance(form, str) else "a marker without a format"


def _content(tensor: LazyTensor) -> dict[str, Any]:
    """The JSON of a marker, which is a tensor of some bytes."""
    value = tensor.value
    if not isinstance(value, Stored) or tensor.spec.nbytes > _LONGEST_MARKER:
        return {}
    try:
        with value.file.open() as reader:
            reader.seek(value.offset)
            text = reader.read(tensor.spec.nbytes).decode()
    except (OSError, UnicodeDecodeError):
        return {}
    return small_json.object_or_none(text) or {}


def _made(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The record of how it was made, in short."""
    told = small_json.object_or_none(metadata.get(record.KEY))
    if told is None:
        return None
    recipe = record.recipe(told)
    steps = []
    for step in recipe["steps"] if recipe is not None else ():
        for kind, options in step.items() if isinstance(step, dict) else ():
            scheme = options.get("scheme") if isinstance(options, dict) else None
            steps.append(f"{kind} {scheme}" if isinstance(scheme, str) else str(kind))
    return {
        **{key: told[key] for key in ("version", "convention", "digest") if isinstance(told.get(key), str)},
        "steps": steps,
    }
