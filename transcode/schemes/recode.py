"""Codes and scales of one scheme as those of another, without any value being rounded where that can be.

Two grids (:class:`.grid.Grid`) are compared. Where every value of the one is a value of the other under the
same scale, and no block of the other reaches over several of the one, codes are looked up and scales are
repeated: that is exact whatever they are. Where scales are powers of two, a block of the other may reach over
several of the one: it takes the largest of their scales, divided by what lets its codes hold all of that
block, and in smaller ones codes are shifted by powers of two, exact as far as the format's exponents reach.

For nvfp4 the scale of the tensor is ``2**(top - 8)``, ``top`` being the largest exponent of its blocks: block
scales, in E4M3, are then ``2**8`` at most, and exact down to ``2**-9``: for blocks within ``2**17``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import floor, gcd, log2

import numpy as np

from ..core.expr import Piece
from ..core.scheme import Scheme
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..core.value import Value
from .base import Base, narrowed, widened
from .grid import EXACT, LOWEST, Grid, tables
from .packed import packed, unpacked

__all__ = ["Recode", "recoding"]

_NARROWEST = 8
"""Columns of a cell, at least: with fewer, looking up shifts costs more than the codes."""

_SPLIT = -9, 8
"""Exponents of the powers of two that E4M3 holds."""

_SHARED = -126, 126
"""Exponents of a scale of the tensor, of which the reciprocal is stored."""

_POWERS = {"F32": (-149, 127), "BF16": (-133, 127)}
"""Exponents of the powers of two that a stored scale may be."""


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

    def exponents(self, parts: Mapping[str, Array]) -> Array:
        """Exponents of all scales that there are, int32 ``[lines, across]``.

        Raises:
            ValueError: a scale is NaN.
        """
        grid = _grid(self.source, self.given)
        codes = np.asarray(parts["scale"]).view(np.uint8)
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
            parts: its other parts, whole.
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
        before = old.blocks.line(numbers)[:, None], at // old.blocks.width
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
            scales = widened(np.asarray(parts["scale"]), old.kept).reshape(-1, old.blocks.across)
            picked = scales[before][np.ix_(*corners)]
            if not np.isfinite(picked).all():
                raise ValueError("a scale is not finite")
            stored["scale"] = narrowed(picked, new.kept, scratch)
            shifts = np.zeros((count, len(at)), np.int32)
        if new.zeroed:
            zeros = np.zeros((len(corners[0]), len(corners[1])), np.int8)
            if old.zeroed:
                points = np.asarray(parts["zero_point"]).reshape(-1, old.blocks.across)
                zeros = np.ascontiguousarray(points[before][np.ix_(*corners)])
            stored["zero_point"] = zeros
        table, states = tables(old, new, self.shift)
        out = scratch.take((count, columns), np.uint8)
        worst = np.empty(shifts.shape, np.uint8)
        chosen_rows = np.clip(shifts, LOWEST, self.shift).astype(np.int32) - np.int32(LOWEST)
        recode(unpacked(codes, count, old.bits), chosen_rows, width, table, states, out, worst)
        stored_codes = packed(out, new.bits)
        pieces = [Piece("codes", start * stored_codes.shape[1], stored_codes)]
        for part in self.target.parts(self.spec):
            if part.role == "codes" or (part.spec.shape == () and start):
                continue  # what belongs to the whole tensor came with row 0
            offset = 0 if part.spec.shape == () else first * new.blocks.across * part.spec.dtype.itemsize
            pieces.append(Piece(part.role, offset, stored[part.role]))
        return pieces, worst

    def _scales(self, wanted: Array, top: int, new: Grid, scratch: Scratch) -> tuple[Array, dict[str, Array]]:
        """The exponents that scales can have, nearest those that are wanted; and the scales, as stored."""
        if new.scales == "split":
            shared = min(max(top - _SPLIT[1], _SHARED[0]), _SHARED[1])
            inner = np.clip(wanted - shared, *_SPLIT)
            codes = np.where(inner < -6, 1 << np.maximum(inner + 9, 0), (inner + 7) << 3)
            whole = np.array([np.ldexp(np.float32(1), -shared)], np.float32)
            return inner + shared, {"scale": codes.astype(np.uint8), "global_scale": whole}
        if new.scales == "power":
            held = np.clip(wanted, -127, 127)
            return held, {"scale": (held + 127).astype(np.uint8)}
        held = np.clip(wanted, *_POWERS[new.kept.name])
        return held, {"scale": narrowed(np.ldexp(np.float32(1), held), new.kept, scratch)}


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
    if old is None or new is None or old.scales == "split" or (old.zeroed and not new.zeroed):
        return None
    inside, in_powers = new.within(old), old.scales == "power"
    if not inside:
        even = len(set(np.diff(new.ascending()[0]))) == 1
        narrow = gcd(old.blocks.width, new.blocks.width) < _NARROWEST
        if not in_powers or narrow or (even and not daring):
            return None
    if new.scales == "float":
        wide = new.kept.name in _POWERS if in_powers else new.kept.name in ("F32", old.kept.name)
        if not wide:
            return None
    elif not in_powers:
        return None
    finite = np.isfinite(old.table)
    shifts = [0]
    if not inside:
        shifts = [floor(log2(new.reach / float(np.abs(old.table[finite]).max())))]
    elif in_powers and not old.zeroed:
        shifts += [sign * size for size in range(1, 9) for sign in (-1, 1)]
    for shift in shifts:
        _, states = tables(old, new, shift)
        if (states[-1][: len(old.table)][finite] == EXACT).all():
            ranged = new.scales == "float" or (new.scales == old.scales and shift == 0)
            certain = inside and ranged
            return Recode(source, given, target, spec, shift, certain)
    return None


def _grid(scheme: Scheme, spec: Spec) -> Grid:
    assert isinstance(scheme, Base)
    return _known(scheme, spec)


@lru_cache(maxsize=256)
def _known(scheme: Base, spec: Spec) -> Grid:
    grid = scheme.grid(spec)
    assert grid is not None
    return grid
