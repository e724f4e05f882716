"""Codes and scales of one scheme as those of another, without any value being rounded where that can be.

Two grids (:class:`.grid.Grid`) are compared. Where every value of the one is a value of the other under the
same scale, and no block of the other reaches over several of the one, codes are looked up and scales are
repeated: that is exact whatever they are. Where scales are powers of two, a block of the other may reach over
several of the one: it takes the largest of their scales, divided by what lets its codes hold all of that
block, and in smaller ones codes are shifted by powers of two, exact as far as the format's exponents reach.

Blocks of GGUF hold scales among their codes: these are taken apart and put together (:mod:`.packed`).

For nvfp4 the scale of the tensor is ``2**(top - 8)``, ``top`` being the largest exponent of its blocks: block
scales, in E4M3, are then ``2**8`` at most, and exact down to ``2**-9``: for blocks within ``2**17``. From
nvfp4 in one form to nvfp4 in another codes and block scales go along as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import floor, gcd, log2

import numpy as np

from ..core.dtypes import BLOCKS
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Scheme
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..core.value import Value
from .base import Base, narrowed, widened
from .grid import EXACT, LOSSY, LOWEST, Grid, tables
from .packed import apart, together

__all__ = ["Recode", "recoding"]

_NARROWEST = 8
"""Columns of a cell, at least: with fewer, looking up shifts costs more than the codes."""

_SPLIT = -9, 8
"""Exponents of the powers of two that E4M3 holds."""

_SHARED = -126, 126
"""Exponents of a scale of the tensor, of which the reciprocal is stored."""

_POWERS = {"F32": (-149, 127), "BF16": (-133, 127), "F16": (-24, 15)}
"""Exponents of the powers of two that a stored scale may be."""

_WHOLE = ("global_scale", "tensor_scale")
"""Roles of scales of whole tensors: what is divided by, and what is multiplied by."""


@dataclass(frozen=True, slots=True)
class Recode(Value):
    """How codes and scales of a scheme become those of another.

    Attributes:
        source: the scheme of the codes that there are.
        given: facts of the tensor for it.
        target: the scheme that is wanted.
        spec: facts of the tensor for it.
        shift: exponent of two by which the largest scale of a block is divided.
        certain: no value changes, whatever the scales are.
    """

    source: Scheme
    given: Spec
    target: Scheme
    spec: Spec
    shift: int
    certain: bool

    @property
    def wants_top(self) -> bool:
        """Whether the largest exponent of the whole tensor must be known first."""
        old, new = _grid(self.source, self.given), _grid(self.target, self.spec)
        return new.scales == "split" or (self.target.observes and not new.within(old))

    @property
    def within(self) -> bool:
        """Whether scales are stored among the codes that there are."""
        return bool(_grid(self.source, self.given).stored)

    @property
    def whole(self) -> str | None:
        """Role of the scale of the tensor that is made of another such scale, not of scales of blocks."""
        if _grid(self.source, self.given).scales != "split":
            return None
        return next((part.role for part in self.target.parts(self.spec) if part.role in _WHOLE), None)

    def exponents(self, parts: Mapping[str, Array]) -> Array:
        """Exponents of all scales that there are, int32 ``[lines, across]``; of some rows, where ``parts``
        are the codes of these alone, with their scales among them.

        Raises:
            ValueError: a scale is NaN.
        """
        grid = _grid(self.source, self.given)
        stored = parts.get("scale")
        if stored is None:
            rows = (
                parts["codes"].size
                * BLOCKS[grid.stored].elements
                // (self.given.columns * (BLOCKS[grid.stored].bits // 8))
            )
            stored = apart(parts["codes"], rows, grid)[1]
        codes = np.asarray(stored).view(np.uint8)
        if (codes == 255).any():
            raise ValueError("a scale is NaN")
        exponents: Array = codes.astype(np.int32) - 127
        return exponents.reshape(-1, grid.blocks.across)

    def rows(
        self, codes: Array, parts: Mapping[str, Array], start: int, stop: int, top: int, scratch: Scratch
    ) -> tuple[list[Piece], Array]:
        """Rows ``start`` to ``stop``, which are whole grains of both schemes.

        Args:
            codes: of these rows, as the source's scheme has them.
            parts: its other parts, whole; a scale of the tensor as ``tensor_scale``, what is multiplied by.
            top: largest exponent of all scales, of the tensor or of those that share one; looked at where
                :attr:`wants_top`.

        Returns:
            Pieces of the target's parts; and the worst state (:data:`.grid.EXACT` ...) of each cell, uint8
            ``[r, cells]``. A cell is what shares both scales, of one row.

        Raises:
            ValueError: a scale is NaN or infinite.
        """
        from ..numerics.recode import recode

        old, new = _grid(self.source, self.given), _grid(self.target, self.spec)
        columns, count = self.spec.columns, stop - start
        width = gcd(old.blocks.width, new.blocks.width)
        at = np.arange(-(-columns // width)) * width
        numbers = np.arange(start, stop)
        values, among = apart(codes, count, old)
        if among is not None:  # scales are those of these rows
            parts = {**parts, "scale": among}
        before = old.blocks.line(numbers)[:, None] - (start if old.stored else 0), at // old.blocks.width
        lines, across = new.blocks.line(numbers), at // new.blocks.width
        first = int(lines[0])
        corners = np.flatnonzero(np.diff(lines, prepend=-1)), np.flatnonzero(np.diff(across, prepend=-1))
        stored: dict[str, Array] = {}
        if old.scales == "power":
            exponents = self.exponents(parts)[before]
            largest = np.maximum.reduceat(exponents, corners[1], axis=1)
            largest = np.maximum.reduceat(largest, corners[0], axis=0)
            if self.wants_top and new.scales != "split":
                largest = np.full_like(largest, top)
            chosen, stored = self._scales(largest - self.shift, top, new, scratch)
            shifts = exponents - chosen[(lines - first)[:, None], across]
        else:
            stored["scale"] = self._same_scales(parts["scale"], before, corners, scratch)
            if self.whole is not None:
                stored[self.whole] = _whole_scale(self.whole, parts.get("tensor_scale"))
            shifts = np.zeros((count, len(at)), np.int32)
        if new.zeroed:
            zeros = np.zeros((len(corners[0]), len(corners[1])), np.int8)
            if old.zeroed:
                points = np.asarray(parts["zero_point"]).reshape(-1, old.blocks.across)
                zeros = np.ascontiguousarray(points[before][np.ix_(*corners)])
            stored["zero_point"] = zeros
        # Where stored scales end below what is wanted, codes end at their largest.
        most = self.shift if (shifts <= self.shift).all() else self.shift - LOWEST
        table, states = tables(old, new, most)
        out = scratch.take((count, columns), np.uint8)
        worst = np.empty(shifts.shape, np.uint8)
        chosen_rows = np.clip(shifts, LOWEST, most).astype(np.int32) - np.int32(LOWEST)
        recode(values, chosen_rows, width, table, states, out, worst)
        stored_codes = together(out, stored["scale"], new, scratch)
        pieces = [Piece("codes", start * stored_codes.shape[1], stored_codes)]
        for part in self.target.parts(self.spec):
            whole = part.spec.shape == () or part.role in _WHOLE
            if part.role == "codes" or (whole and start):
                continue  # what belongs to the whole tensor came with row 0
            offset = 0 if whole else first * new.blocks.across * part.spec.dtype.itemsize
            data = stored[part.role]
            if whole and data.size < part.spec.numel:  # one to each of a stack
                data = np.repeat(data, part.spec.numel)
            pieces.append(Piece(part.role, offset, data))
        return pieces, worst

    def _same_scales(
        self, stored: Array, before: tuple[Array, Array], corners: tuple[Array, Array], scratch: Scratch
    ) -> Array:
        """Those of the source's blocks, one to each of the target's."""
        old, new = _grid(self.source, self.given), _grid(self.target, self.spec)
        if old.scales == "split":
            codes = np.asarray(stored).view(np.uint8).reshape(-1, old.blocks.across)[before][np.ix_(*corners)]
            if (codes & 127 == 127).any():
                raise ValueError("a scale is NaN")
            if not old.stored and (codes > 128).any():
                raise ValueError("a scale is negative")
            return np.ascontiguousarray(codes & 127)  # GGUF has no signs there, and heeds none
        scales = widened(np.asarray(stored), old.kept).reshape(-1, old.blocks.across)
        picked = scales[before][np.ix_(*corners)]
        if not np.isfinite(picked).all():
            raise ValueError("a scale is not finite")
        return narrowed(picked, new.kept, scratch)

    def _scales(self, wanted: Array, top: int, new: Grid, scratch: Scratch) -> tuple[Array, dict[str, Array]]:
        """The exponents that scales can have, nearest those that are wanted; and the scales, as stored."""
        if new.scales == "split":
            shared = min(max(top - _SPLIT[1], _SHARED[0]), _SHARED[1])
            inner = np.clip(wanted - shared, *_SPLIT)
            codes = np.where(inner < -6, 1 << np.maximum(inner + 9, 0), (inner + 7) << 3)
            whole = np.array([np.ldexp(np.float32(1), shared)], np.float32)
            wholes = {role: _whole_scale(role, whole) for role in _WHOLE}
            return inner + shared, {"scale": codes.astype(np.uint8), **wholes}
        if new.scales == "power":
            held = np.clip(wanted, -127, 127)
            return held, {"scale": (held + 127).astype(np.uint8)}
        held = np.clip(wanted, *_POWERS[new.kept.name])
        return held, {"scale": narrowed(np.ldexp(np.float32(1), held), new.kept, scratch)}


def _whole_scale(role: str, multiplier: Array | None) -> Array:
    """A scale of the tensor as a scheme stores it."""
    one = np.ones(1, np.float32) if multiplier is None else np.asarray(multiplier, np.float32).reshape(-1)
    return np.float32(1) / one if role == "global_scale" else one


def recoding(
    source: Scheme, given: Spec, target: Scheme, spec: Spec, *, daring: bool = False
) -> Recode | None:
    """How codes of a scheme become those of another without being rounded; None where they cannot.

    Args:
        source, given, target, spec: see :class:`Recode`.
        daring: whether blocks of integers may reach over several scales: exact where these lie within a few
            powers of two, and where they do not, worse than encoding anew.
    """
    if not isinstance(source, Base) or not isinstance(target, Base):
        return None
    old, new = source.grid(given), target.grid(spec)
    if old is None or new is None or (old.zeroed and not new.zeroed):
        return None
    if new.scales == "split" and not any(part.role in _WHOLE for part in target.parts(spec)):
        return None  # nothing to put the range of scales into
    if old.scales == "split":
        return _along(source, given, target, spec)
    inside, in_powers = new.within(old), old.scales == "power"
    if not inside:
        even = len(set(np.diff(new.ascending()[0]))) == 1
        narrow = gcd(old.blocks.width, new.blocks.width) < _NARROWEST
        if not in_powers or narrow or (even and not daring):
            return None
    if new.scales == "float":
        powers = ("F32", "BF16", "F16") if new.stored else ("F32", "BF16")
        wide = new.kept.name in (powers if in_powers else ("F32", old.kept.name))
        if not wide:
            return None
    elif not in_powers:
        return None
    finite = np.isfinite(old.table)
    if "Q8_0" in (old.stored, new.stored):  # no quantizer writes -128: a file that holds it is told
        finite &= old.table != -128
    shifts = [0]
    if not inside:
        shifts = [floor(log2(new.reach / float(np.abs(old.table[finite]).max())))]
    elif in_powers and not old.zeroed:
        shifts += [sign * size for size in range(1, 9) for sign in (-1, 1)]
    for shift in shifts:
        _, states = tables(old, new, shift)
        if (states[-1][: len(old.table)][finite] == EXACT).all():
            floats = new.scales == "float" and not (in_powers and new.kept.name == "F16")
            ranged = floats or (new.scales == old.scales and shift == 0)
            certain = inside and ranged and bool((states[-1][: len(old.table)] != LOSSY).all())
            return Recode(source, given, target, spec, shift, certain)
    return None


def _along(source: Scheme, given: Spec, target: Scheme, spec: Spec) -> Recode | None:
    """From nvfp4 to nvfp4 in other blocks, with the scale of the tensor."""
    old, new = _grid(source, given), _grid(target, spec)
    if new.scales != "split" or old.stored == new.stored:
        return None
    if getattr(target, "global_scale_dtype", "F32") != "F32":
        return None  # which the reciprocal of what there is need not be
    if len(spec.shape) > 2 and any(part.role == "tensor_scale" for part in source.parts(given)):
        return None  # one to each of a stack
    return Recode(source, given, target, spec, 0, True)


def _grid(scheme: Scheme, spec: Spec) -> Grid:
    assert isinstance(scheme, Base)
    return _known(scheme, spec)


@lru_cache(maxsize=256)
def _known(scheme: Base, spec: Spec) -> Grid:
    grid = scheme.grid(spec)
    assert grid is not None
    return grid
