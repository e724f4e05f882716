"""Give the parts of a tensor the names, dtypes and layouts of a convention, and take them off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..catalog import SHAPE, Convention, PartRule, experts_of, holds
from ..core.context import Context
from ..core.dtypes import DTYPES
from ..core.expr import Expr, Piece
from ..core.planning import Planning
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from ..core.tensor import LazyTensor
from ..core.value import interned
from ..errors import PlanError, RecipeError
from ..numerics import packing, swizzle

__all__ = ["Spelling", "canonical", "spell", "stored_part"]

Array = NDArray[Any]

_TOGETHER = {"rows": 1, "swizzled": swizzle.TILE_ROWS, "packed_rows": 8}
"""Rows that each layout stores together."""

_TOP_BIT = {8: np.uint8(0x88), 128: np.uint8(0x80)}
"""To add half the range to a code in two's complement is to flip its top bit; bytes hold two 4-bit codes."""


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
            hint="choose another with --convention",
        )
    scheme = tensor.scheme.name
    _read_by(tensor, convention, planning)
    rules = {part.role: convention.part(part.role, scheme) for part in tensor.parts}
    made = tensor.parts
    # Where padded tensors are taken, only their shapes are not those of the codes.
    if SHAPE in convention.scheme(scheme).parts and (tensor.unpadded or not convention.pads):
        rules[SHAPE] = convention.part(SHAPE, scheme)
        made = (*made, Part(SHAPE, Spec(DTYPES["I64"], (len(tensor.spec.shape),))))
    names = {role: rule.name.spell(tensor.name) for role, rule in rules.items()}
    parts = tuple(interned(stored_part(part, rules[part.role], tensor.name)) for part in made)
    changed = tuple(
        (part, rules[part.role]) for part in tensor.parts if _change(part, rules[part.role]) is not None
    )
    if parts == tensor.parts and not changed:
        return tensor, names
    grain = lcm(tensor.grain, *(_TOGETHER[rule.layout] for rule in rules.values()))
    shape = (tensor.unpadded or tensor.spec.shape) if SHAPE in rules else None
    return tensor.evolve(parts=parts, value=Spelling(tensor.value, changed, shape), grain=grain), names


@dataclass(frozen=True, slots=True)
class Spelling(Expr):
    """The parts of a tensor as a convention stores them.

    Attributes:
        of: what yields the parts as the scheme makes them.
        changed: the parts whose bytes are others when they are stored, and how.
        shape: what is stored as the shape of the tensor, if it is.
    """

    of: Expr
    changed: tuple[tuple[Part, PartRule], ...]
    shape: tuple[int, ...] | None

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        changes = {part.role: _change(part, rule) for part, rule in self.changed}
        for piece in self.of.read(start, stop, context):
            change = changes.get(piece.role)
            yield piece if change is None else change(piece, context)
        if self.shape is not None and start == 0:
            yield Piece(SHAPE, 0, np.array(self.shape, np.int64))


def _read_by(tensor: LazyTensor, convention: Convention, planning: Planning) -> None:
    """Refuse options of a scheme that the consumer does not read; warn where only some loaders do."""
    scheme: Any = tensor.scheme
    rule = convention.scheme(scheme.name)
    for option, value in rule.unread(scheme).items():
        told = f"{scheme.name} with {option}={_shown(value)}"
        known = (one for one in rule.partly if not one.experts and option in one.when)
        by = next((one.by for one in known if holds(one.when, scheme)), None)
        if by is None:
            raise PlanError(
                f"{convention.name} does not read {told}",
                tensor=tensor.name,
                hint=f"use {' or '.join(map(_shown, rule.reads[option]))}, or --convention neutral, which"
                " transcode alone reads",
            )
        planning.warn(f"{convention.name}: {told} is read by {by}")
    if experts_of(tensor.name) is not None:
        for one in rule.partly:
            if one.experts and holds(one.when, scheme):
                planning.warn(f"{convention.name}: experts as {scheme.name} are read by {one.by}")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def stored_part(part: Part, rule: PartRule, name: str) -> Part:
    """Facts of a part as it is stored."""
    spec = part.spec
    dtype = spec.dtype if rule.dtype is None else DTYPES[rule.dtype]
    shape = spec.shape
    if rule.layout != "rows" and len(shape) != 2:
        raise PlanError(
            f"the {rule.layout} layout holds the scales of a matrix, not those of {len(shape)}-D stacks",
            tensor=name,
            hint="exclude it, or choose a convention with scales in rows",
        )
    if rule.layout == "swizzled":
        shape = swizzle.padded(*shape)
    elif rule.layout == "packed_rows":
        shape = (-(-shape[0] // 8), shape[1])
    elif spec.dtype.bits != dtype.bits:
        shape = (*shape[:-1], shape[-1] * spec.dtype.bits // dtype.bits)
    if rule.split is not None:
        shape = (*shape[:-1], shape[-1] // rule.split, rule.split)
    if rule.shape is not None and not shape:
        shape = rule.shape
    elif rule.squeeze and shape and shape[-1] == 1:
        shape = shape[:-1]
    return replace(part, spec=Spec(dtype, shape))


def _change(part: Part, rule: PartRule) -> Callable[[Piece, Scratch], Piece] | None:
    """What happens to the bytes of a part on their way to the file; None if nothing does."""
    spec = part.spec
    if rule.layout == "swizzled":
        columns = spec.shape[-1]

        def tile(piece: Piece, scratch: Scratch) -> Piece:
            scales = piece.data.view(np.uint8).reshape(-1, columns)
            shape = swizzle.padded(*scales.shape)
            out = swizzle.swizzle(scales, scratch.take(shape, np.uint8))
            return Piece(piece.role, piece.offset // columns * shape[1], out)

        return tile
    if rule.layout == "packed_rows":
        across = spec.shape[-1]

        def pack(piece: Piece, scratch: Scratch) -> Piece:
            words = packing.pack_rows(piece.data.reshape(-1, across))
            return Piece(piece.role, piece.offset // 8 * words.itemsize, words)

        return pack
    if rule.offset:

        def raise_codes(piece: Piece, scratch: Scratch) -> Piece:
            codes = piece.data.view(np.uint8)
            out = np.bitwise_xor(codes, _TOP_BIT[rule.offset], out=scratch.take(codes.shape, np.uint8))
            return Piece(piece.role, piece.offset, out)

        return raise_codes
    if rule.packing == "high_first":
        if spec.dtype.bits != 4:
            return None

        def swap(piece: Piece, scratch: Scratch) -> Piece:
            out = packing.swap_nibbles(piece.data, scratch.take(piece.data.shape, np.uint8))
            return Piece(piece.role, piece.offset, out)

        return swap
    if rule.reciprocal:

        def invert(piece: Piece, scratch: Scratch) -> Piece:
            return Piece(piece.role, piece.offset, np.divide(np.float32(1), piece.data))

        return invert
    return None


def canonical(stored: Array, role: str, rule: PartRule, part: Part, *, powers: bool = False) -> Array:
    """A stored part as the scheme itself would have it: the inverse of what :func:`spell` does to bytes.

    Args:
        stored: the whole part, or any whole rows of the codes; in its carrier dtype.
        rule: how it is stored.
        part: the part as the scheme makes it.
        powers: it is stored as exponents (E8M0), the scheme's are float32.
    """
    if powers and role == "scale":
        from ..schemes.mx import powers_of_two

        return powers_of_two()[stored.view(np.uint8)]
    if rule.layout == "swizzled":
        return swizzle.unswizzle(stored.view(np.uint8), *part.spec.shape)
    if rule.layout == "packed_rows":
        return packing.unpack_rows(stored, part.spec.shape[0])
    if rule.offset:
        return np.bitwise_xor(np.ascontiguousarray(stored).view(np.uint8), _TOP_BIT[rule.offset])
    if rule.packing == "high_first" and part.spec.dtype.bits == 4:
        return packing.swap_nibbles(stored.view(np.uint8))
    if rule.reciprocal:
        return np.divide(np.float32(1), stored)
    return stored
