"""Give the parts of a tensor the names, dtypes and layouts of a convention, and take them off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import lcm
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..catalog import SHAPE, Convention, PartRule, experts_of, holds
from ..catalog.template import Template
from ..codecs import chain
from ..core.codec import Codec
from ..core.context import Context
from ..core.expr import Expr, Piece
from ..core.extent import Extent
from ..core.output import Stored
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Part
from ..core.tensor import LazyTensor
from ..core.value import interned, plentiful
from ..errors import DataError, PlanError, RecipeError
from ..voice import called
from .implied import Implied, implied

__all__ = ["Speller", "Spelling", "canonical", "stored_part"]

Array = NDArray[Any]


_MOST_SAME = 1 << 12


@dataclass(slots=True)
class _Rules:
    """How parts of tensors that are alike are stored: roles with templates of names, and codecs."""

    names: tuple[tuple[str, Template], ...]
    kept: tuple[Part, ...]
    more: tuple[Implied, ...]
    rules: Mapping[str, PartRule]
    codecs: Mapping[str, tuple[Codec, ...]]
    facts: dict[frozenset[str], _Facts]


class _Facts(NamedTuple):
    """What is stored of them, where some parts lie in a file as they are to be stored."""

    parts: tuple[Part, ...]
    changes: tuple[tuple[str, tuple[chain.Step, ...]], ...]
    grain: int
    share: float


class Speller:
    """Gives tensors parts as a convention stores them. What follows from facts that many tensors have alike
    is found once for all of them.

    Args:
        convention: whose names and layouts they are.
        planning: hears of what only some loaders read.
    """

    def __init__(self, convention: Convention, planning: Planning) -> None:
        self._convention = convention
        self._planning = planning
        self._known: dict[object, _Rules] = {}
        self._same: dict[object, tuple[LazyTensor, _Rules]] = {}

    def __call__(self, tensor: LazyTensor) -> tuple[LazyTensor, tuple[Stored, ...]]:
        """The tensor with its parts as they are stored, and these under their names.

        Raises:
            RecipeError: the convention has no place for such a tensor, or is only read.
            PlanError: the consumer does not read such a tensor, or the layout cannot hold its shape.
        """
        name = tensor.name
        if tensor.scheme is None:
            return tensor, tuple([Stored(name, part.role, part.spec) for part in tensor.parts])
        rules = self._rules_for(tensor)
        of, lying = tensor.value.lying(rules.codecs)
        facts = rules.facts.get(lying)
        if facts is None:
            facts = rules.facts[lying] = _facts(tensor, rules, lying)
        parts = facts.parts
        stored = tuple(
            [
                Stored(template.spell(name), role, part.spec)
                for (role, template), part in zip(rules.names, parts, strict=True)
            ]
        )
        if not facts.changes and not lying and parts == tensor.parts:
            return tensor, stored
        value = Spelling(of, facts.changes, rules.more, name, facts.share)
        return tensor.evolve(parts=parts, value=value, grain=facts.grain), stored

    def _rules_for(self, tensor: LazyTensor) -> _Rules:
        """Found once for all that have the same objects for facts, and else compared."""
        is_expert = experts_of(tensor.name) is not None
        rest = tensor.grain, tensor.unpadded, is_expert
        same = id(tensor.scheme), id(tensor.spec), id(tensor.parts), rest
        if (held := self._same.get(same)) is not None:
            return held[1]
        alike = tensor.scheme, tensor.spec, tensor.parts, rest
        if (rules := self._known.get(alike)) is None:
            rules = self._known[alike] = self._rules(tensor)
        if len(self._same) >= _MOST_SAME:
            self._same.clear()
        # With the tensor: no other object is called as its own are.
        self._same[same] = tensor, rules
        return rules

    def _rules(self, tensor: LazyTensor) -> _Rules:
        convention = self._convention
        if convention.unwritten is not None:
            raise RecipeError(
                f"convention {convention.name} is only read: {convention.unwritten}",
                hint=f"choose another with {called('convention')}",
            )
        assert tensor.scheme is not None
        scheme = tensor.scheme.name
        _read_by(tensor, convention, self._planning)
        rules = {part.role: convention.part(part.role, scheme).bound(tensor.scheme) for part in tensor.parts}
        more = _implied(tensor, convention)
        rules |= {one.part.role: convention.part(one.part.role, scheme) for one in more}
        kept = (*tensor.parts, *(one.part for one in more))
        names = tuple((part.role, rules[part.role].name) for part in kept)
        codecs = {part.role: rules[part.role].codecs for part in tensor.parts}
        return _Rules(names, kept, more, rules, codecs, {})


def _facts(tensor: LazyTensor, rules: _Rules, lying: frozenset[str]) -> _Facts:
    of = rules.rules
    parts = tuple(interned(stored_part(part, of[part.role], tensor.name)) for part in rules.kept)
    changes = tuple(
        (part.role, steps)
        for part in rules.kept
        if part.role not in lying and (steps := chain.steps(of[part.role].codecs, part.spec))
    )
    units = (
        chain.together(of[part.role].codecs, part.spec, tensor.spec.rows, tensor.grain)
        for part in tensor.parts
    )
    return _Facts(parts, changes, lcm(tensor.grain, *units), _share(tensor, changes))


def _share(tensor: LazyTensor, changes: Sequence[tuple[str, tuple[chain.Step, ...]]]) -> float:
    """The memory that steps of codecs take over that of the values: what each gets, and some padding."""
    taken = sum(2 * step.spec.nbytes for _, steps in changes for step in steps)
    return min(1.0, taken / (tensor.spec.nbytes or 1))


def _implied(tensor: LazyTensor, convention: Convention) -> tuple[Implied, ...]:
    """The parts that the consumer asks for beyond those of the scheme."""
    assert tensor.scheme is not None
    rule = convention.scheme(tensor.scheme.name)
    made = {part.role for part in tensor.parts}
    roles = [role for role in rule.implies if role not in made]
    # Where padded tensors are taken, only their shapes are not those of the codes.
    if SHAPE in rule.parts and (tensor.unpadded or not convention.pads):
        roles.append(SHAPE)
    shape = tensor.unpadded or tensor.spec.shape
    return tuple(implied(role, tensor.scheme, tensor.spec, shape) for role in roles)


@plentiful
@dataclass(frozen=True, slots=True)
class Spelling(Expr):
    """The parts of a tensor as a convention stores them.

    Attributes:
        of: what yields the parts as the scheme makes them.
        changes: role -> the codecs that its bytes go through, of the parts that are stored otherwise.
        more: parts that the scheme does not make.
        name: of the tensor, for errors.
        share: bytes of the parts that are stored otherwise, over those of the values.
    """

    of: Expr
    changes: tuple[tuple[str, tuple[chain.Step, ...]], ...]
    more: tuple[Implied, ...]
    name: str
    share: float = 1.0

    def extents(self) -> Mapping[str, tuple[Extent, ...]]:
        """What no codec changes."""
        changed = {role for role, _ in self.changes}
        return {role: one for role, one in self.of.extents().items() if role not in changed}

    def room(self) -> float:
        """That of the parts, and once more for those that are stored otherwise."""
        return self.of.room() + (self.share if self.changes else 0)

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        exact = self.of.in_powers()
        rounded = [
            role
            for role, steps in self.changes
            if role not in exact and any(not step.codec.exact for step in steps)
        ]
        return f"{rounded[0]} is stored rounded once more, as a reciprocal" if rounded else None

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        changes = dict(self.changes)
        for piece in self.of.read(start, stop, context):
            yield _encoded(piece, changes.get(piece.role, ()), context, self.name)
        for one in self.more if start == 0 else ():
            role = one.part.role
            yield _encoded(Piece(role, 0, one.array()), changes.get(role, ()), context, self.name)


def _read_by(tensor: LazyTensor, convention: Convention, planning: Planning) -> None:
    """Refuse options of a scheme that the consumer does not read; warn where only some loaders do."""
    scheme: Any = tensor.scheme
    rule = convention.scheme(scheme.name)
    for option, value in rule.unread(scheme).items():
        options = f"{scheme.name} with {option}={_shown(value)}"
        known = (one for one in rule.partly if not one.experts and option in one.when)
        by = next((one.by for one in known if holds(one.when, scheme)), None)
        if by is None:
            raise PlanError(
                f"{convention.name} does not read {options}",
                tensor=tensor.name,
                hint=f"use {' or '.join(map(_shown, rule.legal(scheme, option)))}, or"
                f" {called('convention', 'neutral')}, which transcode alone reads",
            )
        planning.warn(f"{convention.name}: {options} is read by {by}")
    made = {part.role for part in tensor.parts}
    for role in rule.needs:
        if role not in made:
            raise PlanError(
                f"{convention.name} does not read {scheme.name} without its {role}",
                tensor=tensor.name,
                hint=f"give {called('calibrate', 'calib.pt')}, or choose another scheme or convention",
            )
    if experts_of(tensor.name) is not None:
        for one in rule.partly:
            if one.experts and holds(one.when, scheme):
                planning.warn(f"{convention.name}: experts as {scheme.name} are read by {one.by}")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def stored_part(part: Part, rule: PartRule, name: str) -> Part:
    """Facts of a part as it is stored. Raises PlanError for what the convention's codecs cannot hold."""
    try:
        return replace(part, spec=chain.stored(rule.codecs, part.spec))
    except PlanError as error:
        raise PlanError(error.what, tensor=name, hint=error.hint or _ANOTHER) from None


_ANOTHER = "choose another convention, or other options of the scheme"


def _encoded(piece: Piece, steps: Sequence[chain.Step], scratch: Scratch, name: str) -> Piece:
    """A piece as it is stored, and where. Raises DataError for values that cannot be stored so."""
    try:
        return chain.encode(piece, steps, scratch)
    except DataError as error:
        raise DataError(error.what, tensor=name, hint=error.hint or _ANOTHER) from None


def canonical(stored: Array, role: str, rule: PartRule, part: Part) -> Array:
    """A stored part as the scheme itself would have it: the inverse of what :class:`Speller` does to bytes.

    Args:
        stored: the whole part; or any whole rows of the codes, where their codecs store each by itself.
        rule: how it is stored.
        part: the part as the scheme makes it.
    """
    return chain.decode(stored, rule.codecs, part.spec)
