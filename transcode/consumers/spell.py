"""Give the parts of a tensor the names, dtypes and layouts of a convention, and take them off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

from numpy.typing import NDArray

from ..catalog import SHAPE, Convention, PartRule, experts_of, holds
from ..codecs import Powers, chain
from ..core.context import Context
from ..core.expr import Expr, Piece
from ..core.extent import Extent
from ..core.planning import Planning
from ..core.scratch import Scratch
from ..core.spec import Part
from ..core.tensor import LazyTensor
from ..core.value import interned
from ..errors import DataError, PlanError, RecipeError
from ..voice import called
from .implied import Implied, implied

__all__ = ["Spelling", "canonical", "spell", "stored_part"]

Array = NDArray[Any]


def spell(
    tensor: LazyTensor, convention: Convention, planning: Planning
) -> tuple[LazyTensor, dict[str, str]]:
    """The tensor with its parts as the convention stores them, and the stored name of each part by role.

    Raises:
        RecipeError: the convention has no place for such a tensor, or is only read.
        PlanError: the consumer does not read such a tensor, or the layout cannot hold its shape.
    """
    if tensor.scheme is None:
        return tensor, {part.role: tensor.name for part in tensor.parts}
    if convention.unwritten is not None:
        raise RecipeError(
            f"convention {convention.name} is only read: {convention.unwritten}",
            hint=f"choose another with {called('convention')}",
        )
    scheme = tensor.scheme.name
    _read_by(tensor, convention, planning)
    rules = {part.role: convention.part(part.role, scheme) for part in tensor.parts}
    more = _implied(tensor, convention)
    rules |= {one.part.role: convention.part(one.part.role, scheme) for one in more}
    kept = (*tensor.parts, *(one.part for one in more))
    names = {role: rule.name.spell(tensor.name) for role, rule in rules.items()}
    parts = tuple(interned(stored_part(part, rules[part.role], tensor.name)) for part in kept)
    codecs = {part.role: rules[part.role].codecs for part in tensor.parts}
    of, lying = tensor.value.lying(codecs)
    changes = tuple(
        (part.role, steps)
        for part in kept
        if part.role not in lying and (steps := chain.steps(rules[part.role].codecs, part.spec))
    )
    if parts == tensor.parts and not changes and not lying:
        return tensor, names
    units = (
        chain.together(rules[part.role].codecs, part.spec, tensor.spec.rows, tensor.grain)
        for part in tensor.parts
    )
    grain = lcm(tensor.grain, *units)
    value = Spelling(of, changes, more, tensor.name, _share(tensor, changes))
    return tensor.evolve(parts=parts, value=value, grain=grain), names


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


def canonical(stored: Array, role: str, rule: PartRule, part: Part, *, powers: bool = False) -> Array:
    """A stored part as the scheme itself would have it: the inverse of what :func:`spell` does to bytes.

    Args:
        stored: the whole part; or any whole rows of the codes, where their codecs store each by itself.
        rule: how it is stored.
        part: the part as the scheme makes it.
        powers: it is stored as exponents (E8M0), the scheme's are float32.
    """
    codecs = (Powers(),) if powers and role == "scale" else rule.codecs
    return chain.decode(stored, codecs, part.spec)
