"""Stored names, dtypes and shapes taken back to the tensors and schemes that they stand for."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import field
from functools import cached_property, lru_cache
from math import prod

from ..catalog import GROUP_INDEX, MODEL, SHAPE, ZERO_POINT, Convention, PartRule, SchemeRule
from ..catalog.template import StoredNames, Template
from ..codecs import chain
from ..core.dtypes import CODED, DTYPES, DType
from ..core.records import dataclass
from ..core.scheme import ROTATIONS, Hints, Scheme, parts_of
from ..core.small_json import object_or_none
from ..core.spec import Part, Spec
from ..errors import PlanError
from .declared import Declared
from .spell import stored_part

__all__ = ["BIAS", "Coded", "Names", "Reading", "coded", "one_to_each", "readings", "turned_back"]

_MOST = 1 << 16
"""Bytes of what states a shape, at most."""

_INTEGERS = {"I32": "i", "I64": "q"}

BIAS = "bias"
"""Role of the bias of a layer, where that lies in an order of the convention's, too."""

_BESIDES = {"input_global_scale", "input_scale", "alpha", SHAPE, BIAS}
"""Parts that are not the scheme's: those that concern the inputs of a layer, the shape, and the bias."""


@dataclass(frozen=True)
class Reading:
    """How the stored parts of one tensor are read.

    Attributes:
        name: of the tensor.
        stored: role -> stored name.
        rules: role -> how it is stored.
        scheme: how it is decoded.
        spec: facts of the tensor as float32, in which it is decoded.
        implied: roles of stored parts that no scheme makes, see :mod:`.implied`.
    """

    name: str
    stored: Mapping[str, str]
    rules: Mapping[str, PartRule]
    scheme: Scheme
    spec: Spec
    implied: tuple[str, ...] = ()

    @property
    def codes(self) -> str:
        """Stored name of the codes."""
        return self.stored["codes"]

    @property
    def turned(self) -> bool:
        """Whether it is a stack of matrices that are stored transposed; its values are, too."""
        return self.rules["codes"].turned

    @cached_property
    def meaning(self) -> Hashable:
        """Equal for two readings that decode to the same values."""
        roles = {part.role for part in parts_of(self.scheme, self.spec)}
        return (
            self.codes,
            self.scheme.meaning(self.spec),
            frozenset((self.stored[role], self.rules[role].moves) for role in roles),
        )


class Names(StoredNames):
    """The stored names of a file with the facts of its tensors.

    Args:
        specs: facts of what is stored, by name.
        read: bytes of a tensor, for the few that state the shape of another.
    """

    def __init__(self, specs: Mapping[str, Spec], read: Callable[[str], bytes] | None = None) -> None:
        super().__init__(specs)
        self.specs = specs
        self._read = read

    def stated_shape(self, stored: str) -> tuple[int, ...] | None:
        """The shape that a tensor states: by the ``shape`` of a JSON object, or by its integers."""
        spec = self.specs[stored]
        if self._read is None or spec.nbytes > _MOST:
            return None
        raw = self._read(stored)
        if spec.dtype.name == "U8":
            shape = (object_or_none(raw.rstrip(b"\0 ")) or {}).get("shape")
            shape = shape if isinstance(shape, list) else []
        elif spec.dtype.name in _INTEGERS:
            shape = list(struct.unpack(f"<{spec.numel}{_INTEGERS[spec.dtype.name]}", raw))
        else:
            shape = []
        lengths = [n for n in shape if isinstance(n, int) and not isinstance(n, bool) and n > 0]
        return tuple(lengths) if len(lengths) == len(shape) > 1 else None

    @cached_property
    def any_codes(self) -> bool:
        """Whether there is any tensor that could be codes."""
        return any(spec.dtype.name in CODED for spec in self.specs.values())

    @cached_property
    def blocks(self) -> Mapping[DType, list[str]]:
        """Names of the tensors that are stored in blocks, by their dtypes."""
        stored: dict[DType, list[str]] = {}
        for name, spec in self.specs.items():
            if spec.dtype.elements > 1:
                stored.setdefault(spec.dtype, []).append(name)
        return stored


def _candidates(
    names: Names, convention: Convention
) -> Iterator[tuple[str, SchemeRule, Mapping[str, PartRule]]]:
    """Tensors that have codes and a scale of a convention's spelling, or blocks that hold both: name, scheme,
    how parts are stored.
    """
    from ..schemes import block, decoder

    for rule in convention.schemes.values():
        if (kind := block(rule.scheme)) is not None:
            for parts in rule.readings:
                for stored in names.blocks.get(kind, ()):
                    if (own := parts["codes"].name.unspell(stored)) is not None:
                        yield own, rule, parts
            continue
        if decoder(rule.scheme) is None:
            continue
        for parts in rule.readings:
            codes, scale = parts["codes"].name, parts["scale"].name
            for name in names.unspell(scale):
                if codes.placeholder == "stem" and not name.endswith(".weight"):
                    continue
                spec = names.specs.get(codes.spell(name))
                least = 1 if rule.rows_of else 2
                if spec is not None and spec.dtype.name in CODED and len(spec.shape) >= least:
                    yield name, rule, parts


@dataclass
class Coded:
    """A tensor that some conventions would take for quantized.

    Attributes:
        name: of the tensor.
        parts: stored names of all its parts.
        conventions: names of those.
    """

    name: str
    parts: set[str] = field(default_factory=set)
    conventions: set[str] = field(default_factory=set)


def coded(names: Names, conventions: Collection[Convention]) -> dict[str, Coded]:
    """The tensors that any convention would take for quantized, by the stored name of their codes."""
    by_codes: dict[str, Coded] = {}
    if not names.any_codes:
        return by_codes
    for convention in conventions:
        for name, _, rules in _candidates(names, convention):
            spelled = {rule.name.spell(name) for rule in rules.values() if _takes(rule.name, name)}
            one = by_codes.setdefault(rules["codes"].name.spell(name), Coded(name))
            one.parts |= spelled & names.specs.keys()
            one.conventions.add(convention.name)
    return by_codes


def readings(names: Names, convention: Convention, declared: Declared) -> dict[str, list[Reading]]:
    """How a convention reads what a file holds.

    Returns:
        Stored name of the codes -> its readings, one for each scheme that fits; mostly one. Small tensors can
        fit several, as padding makes their scales alike.
    """
    by_codes: dict[str, list[Reading]] = {}
    if not names.any_codes or (convention.told_by and not declared.bits):
        return by_codes
    inputs = convention.inputs
    spelled: dict[str, set[str]] = {}
    fitting: list[Reading] = []
    known_fits: dict[Hashable, list[tuple[Scheme, Spec]]] = {}  # layers are alike
    for name, rule, parts in _candidates(names, convention):
        stored = {
            role: text
            for role, part in parts.items()
            if _takes(part.name, name) and (text := part.name.spell(name)) in names.specs
        }
        # A bias may as well be plain.
        spelled.setdefault(name, set()).update(text for role, text in stored.items() if role != BIAS)
        specs = {role: names.specs[text] for role, text in stored.items()}
        if turned := [role for role in specs if parts[role].turned]:
            if any(len(specs[role].shape) != 3 for role in turned):
                continue
            specs |= {role: turned_back(specs[role]) for role in turned}
        shape: tuple[int, ...] | None = None
        if rule.shaped == MODEL and len(specs["codes"].shape) == 2:  # rows are groups
            count = specs["scale"].numel * specs["codes"].columns
            shape = declared.lengths.of(name, names.specs, count)
        elif rule.shaped in stored:
            shape = names.stated_shape(stored[rule.shaped])
        key = rule.scheme, id(parts), tuple(specs.items()), shape
        if key not in known_fits:
            known_fits[key] = _fits(specs, name, rule, parts, declared, shape)
        for scheme, spec in known_fits[key]:
            if convention.dims and len(spec.shape) not in convention.dims and not turned:
                continue
            made = {part.role for part in parts_of(scheme, spec)}
            implied = tuple(role for role in rule.implies if role in stored and role not in made)
            bound = {role: part.bound(scheme) for role, part in parts.items()}
            fitting.append(Reading(name, stored, bound, scheme, spec, implied))
    for reading in sorted(
        fitting, key=_in_powers
    ):  # by a scheme whose scales are always so, where there is one
        beside = {template.spell(reading.name) for template in inputs if _takes(template, reading.name)}
        if spelled[reading.name] - beside <= set(reading.stored.values()):
            known = by_codes.setdefault(reading.codes, [])
            if reading.meaning not in [other.meaning for other in known]:
                known.append(reading)
    return by_codes


def _in_powers(reading: Reading) -> bool:
    """Whether it is by option alone that its scales are powers of two."""
    return getattr(reading.scheme, "scale_dtype", "") == "F8_E8M0"


def _takes(template: Template, name: str) -> bool:
    return template.placeholder != "stem" or name.endswith(".weight")


def _fits(
    specs: Mapping[str, Spec],
    name: str,
    rule: SchemeRule,
    rules: Mapping[str, PartRule],
    declared: Declared,
    shape: tuple[int, ...] | None,
) -> list[tuple[Scheme, Spec]]:
    """Schemes whose parts the convention would store with these facts; those with just these shapes first."""
    from ..schemes import decoder

    scale = specs.get("scale")
    formats = None
    if declared.ordered and GROUP_INDEX in rule.implies and GROUP_INDEX not in specs:
        return []  # columns are in another order, and nothing tells which
    if rules["codes"].dtype is not None:  # stored under a dtype that does not tell the format
        formats = declared.formats.get(rule.scheme) or rule.reads.get("format")
    close = []
    made_by = decoder(rule.scheme)
    assert made_by is not None
    stored_as = "" if scale is None else scale.dtype.name
    turned = ROTATIONS if "rotate" in rule.tells else (1,)
    sizes = _sizes(specs, rule, rules)
    groups, blocks = (declared.groups, declared.blocks) if sizes is None else (sizes, {(1, n) for n in sizes})
    rank, branch = _branch(specs)
    for scheme in made_by.variants(rule.options, Hints(stored_as, groups, blocks, turned, rank, branch)):
        if formats and getattr(scheme, "format", None) not in (None, *formats):
            continue
        if declared.symmetric == {False} and getattr(scheme, "symmetric", False):
            continue  # its zero points are not there
        # Zero points of codes that have none are believed to be 0 where that is stated, and looked at later.
        zeros = ZERO_POINT in rule.implies and ZERO_POINT in specs
        if zeros and getattr(scheme, "symmetric", False) != (declared.symmetric == {True}):
            continue
        if declared.bits and _bits(scheme) < specs["codes"].dtype.bits and _bits(scheme) not in declared.bits:
            continue  # several codes are in one number, by a width that is another
        if not _stated(scheme, specs["codes"], declared):
            continue
        if rule.shaped:
            spec = None if shape is None else Spec(DTYPES["F32"], shape)
        elif rule.rows_of and len(specs["codes"].shape) == 1:
            stated = _bits(scheme) in declared.bits or rule.scheme in declared.schemes
            spec = _lined(specs["codes"], specs[rule.rows_of], _bits(scheme)) if stated else None
        else:
            spec = _logical(specs["codes"], rules["codes"].bound(scheme), scheme)
        if spec is None or scheme.undecodable(spec) is not None:
            continue
        wanted = {one.role: one for one in scheme.parts(spec)}
        own = {role: one.bound(scheme) for role, one in rules.items()}
        if not wanted.keys() <= specs.keys() <= wanted.keys() | _BESIDES | set(rule.implies):
            continue
        try:
            stored = {role: stored_part(one, own[role], name).spec for role, one in wanted.items()}
        except PlanError:  # no layout for stacks
            continue
        fit = min(
            1
            if specs[role].shape == spec.shape[:-2] != () and one_to_each(role, scheme, spec)
            else _likeness(stored[role], specs[role], own[role], wanted[role], _bytes_of(wanted[role]))
            for role in wanted
        )
        if fit:
            close.append((fit, (scheme, spec)))
    best = max((fit for fit, _ in close), default=0)
    return [one for fit, one in close if fit == best]


def _branch(specs: Mapping[str, Spec]) -> tuple[int, str]:
    """Rank and dtype of a branch of low rank, whose two parts have nothing but the rank for their shorter
    side; 0 and nothing where there is none.
    """
    both = [specs[role] for role in ("lora_down", "lora_up") if role in specs]
    if len(both) < 2 or any(len(one.shape) != 2 for one in both):
        return 0, ""
    return min(length for one in both for length in one.shape), both[0].dtype.name


def turned_back(spec: Spec) -> Spec:
    """Facts of a stack whose matrices are transposed."""
    return Spec(spec.dtype, (spec.shape[0], spec.shape[2], spec.shape[1]))


def one_to_each(role: str, scheme: Scheme, spec: Spec) -> bool:
    """Whether of a part that is one number for a tensor there may be one to each matrix of a stack."""
    part = next((one for one in parts_of(scheme, spec) if one.role == role), None)
    return part is not None and part.spec.numel == 1 and part.spec.dtype.name == "F32" and role != "codes"


def _sizes(
    specs: Mapping[str, Spec], rule: SchemeRule, rules: Mapping[str, PartRule]
) -> Collection[int] | None:
    """How many columns a group may have: as codes in three axes tell, or a line of them with as many scales,
    whatever the width of a code. None where nothing tells.
    """
    codes, scales = specs["codes"], specs.get("scale")
    if any(codec.folds for codec in rules["codes"].codecs):
        return {codes.shape[-1]}
    if not rule.rows_of or len(codes.shape) != 1 or scales is None or not scales.numel:
        return None
    each, rest = divmod(codes.numel * codes.dtype.bits, scales.numel)
    return {each // width for width in range(1, 9) if not each % width} if not rest else ()


def _lined(codes: Spec, rows_of: Spec, bits: int) -> Spec | None:
    """Facts of the tensor whose codes are a line, several of them in each number, if they have that width."""
    rows = rows_of.shape[0] if len(rows_of.shape) > 1 else 0  # one of each row, and of each group
    if bits >= codes.dtype.bits or not rows or codes.numel * codes.dtype.bits % (rows * bits):
        return None
    return Spec(DTYPES["F32"], (rows, codes.numel * codes.dtype.bits // rows // bits))


def _stated(scheme: Scheme, codes: Spec, declared: Declared) -> bool:
    """Whether codes of that width have groups of that size, where several codes are in one number."""
    size, bits = getattr(scheme, "group_size", None), _bits(scheme)
    return size is None or bits >= codes.dtype.bits or not declared.kinds or (bits, size) in declared.kinds


def _bytes_of(part: Part) -> tuple[str, ...]:
    """Further dtypes that the bytes of a part may be stored under: scales of 8 bits."""
    if part.role != "scale":
        return ()
    return (part.spec.dtype.name, "U8") if part.spec.dtype.bits == 8 else ()


def _likeness(expected: Spec, stored: Spec, rule: PartRule, part: Part, also: tuple[str, ...]) -> int:
    """2 where the facts are the same, 1 where only axes of one element differ, 0 where they do not fit."""
    if expected.dtype != stored.dtype and stored.dtype.name not in also:
        return 0
    if expected.shape == stored.shape:
        return 2
    if any(codec.loose for codec in rule.codecs) and len(stored.shape) == len(expected.shape) == 1:
        return 2 if stored.numel <= expected.numel else 0
    if any(codec.folds for codec in rule.codecs) and stored.shape[:-2] == expected.shape[:-1]:
        return 2 if stored.numel == expected.numel else 0
    if not chain.apart(rule.codecs, part.spec) or prod(expected.shape) != prod(stored.shape):
        return 0
    return int(_bare(expected.shape) == _bare(stored.shape))


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes that say nothing: of one element at its end, and between ModelOpt's blocks."""
    if len(shape) == 4 and shape[1] == shape[3] == 1:
        shape = shape[::2]
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape if prod(shape) != 1 else ()


def _logical(codes: Spec, rule: PartRule, scheme: Scheme) -> Spec | None:
    """Facts of the tensor that stored codes stand for, if the scheme made them."""
    if codes.dtype.elements > 1:
        return Spec(DTYPES["F32"], codes.shape)
    bits = _bits(scheme)
    canonical = chain.logical(rule.codecs, codes, _smallest_codes(scheme).dtype)
    if canonical is None or len(canonical.shape) < 2:
        return None
    *outer, last = canonical.shape
    if last * canonical.dtype.bits % bits:
        return None
    return Spec(DTYPES["F32"], (*outer, last * canonical.dtype.bits // bits))


def _bits(scheme: Scheme) -> int:
    """Width of a code. Not that of the dtype: a byte of int4's holds two codes."""
    least = Spec(DTYPES["F32"], scheme.multiple)
    return _smallest_codes(scheme).nbytes * 8 // least.numel


@lru_cache(maxsize=1024)
def _smallest_codes(scheme: Scheme) -> Spec:
    return scheme.parts(Spec(DTYPES["F32"], scheme.multiple))[0].spec
