"""Stochastic rounding: codes that are right on average, under the scales that a scheme has chosen.

What a value is rounded to is one of its two neighbours, the nearer the likelier, so that the mean of many
roundings is the value itself: small differences, a LoRA's for one, do not vanish in coarse codes. (Gupta,
Agrawal, Gopalakrishnan, Narayanan: "Deep learning with limited numerical precision", 2015.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ..core.expr import Piece
from ..core.scheme import Scheme, Stats
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..numerics.minifloat import FORMATS
from .base import Base, widened
from .grid import Grid
from .packed import apart, together

__all__ = ["can_dither", "dithered", "key_of"]


def can_dither(scheme: Scheme, spec: Spec) -> bool:
    """Whether values, scales and zero points are all there is to decoding it."""
    return isinstance(scheme, Base) and scheme.grid(spec) is not None


def key_of(seed: int, name: str) -> int:
    """A number of 64 bits for the tensor of a name."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")


def dithered(
    scheme: Scheme, spec: Spec, rows: Array, values: Array, start: int, stats: Stats | None,
    pieces: Sequence[Piece], key: int, scratch: Scratch,
) -> list[Piece]:  # fmt: skip
    """Pieces with codes that were rounded at random.

    Args:
        rows: what was encoded, ``[r, K]`` in the carrier dtype of ``spec``: whole grains, from row ``start``.
        values: the same in float32.
        stats: what the scheme was given.
        pieces: what it made.
        key: see :func:`key_of`.
    """
    from ..numerics.dither import dither

    assert isinstance(scheme, Base)
    grid = scheme.grid(spec)
    assert grid is not None
    data = {piece.role: piece.data for piece in pieces}
    if scheme.observes and start:  # what belongs to the whole tensor came with row 0
        inner = Spec(spec.dtype, (scheme.grain(spec), spec.columns))
        again = scheme.encode(rows[: inner.rows], inner, 0, stats, Scratch())
        data = {**{piece.role: piece.data.copy() for piece in again if piece.role not in data}, **data}
    stop = start + len(rows)
    lines = grid.blocks.line(np.arange(start, stop))
    lines = lines - lines[0]
    if (among := apart(data["codes"], len(rows), grid)[1]) is not None:
        data["scale"] = among
    scales = _scales(grid, data)[lines]
    zeros = np.zeros_like(scales)
    if grid.zeroed:
        zeros = data["zero_point"].reshape(-1, grid.blocks.across).astype(np.float64)[lines]
    numbers, codes = grid.ascending()
    out = scratch.take(rows.shape, np.uint8)
    dither(
        values, scales, zeros, grid.blocks.width, numbers, codes, np.uint64(key),
        np.uint64(start * spec.columns), out,
    )  # fmt: skip
    stored = together(out, data["scale"], grid, scratch)
    whole = Piece("codes", start * stored.shape[1], stored)
    return [whole if piece.role == "codes" else piece for piece in pieces]


def _scales(grid: Grid, data: dict[str, Array]) -> Array:
    """Scales of these rows of blocks, float64; 1 where a block of zeros has none."""
    stored = np.ascontiguousarray(data["scale"])
    if grid.scales == "float":
        scales = widened(stored, grid.kept).astype(np.float64)
    elif grid.scales == "power":
        scales = np.ldexp(1.0, stored.view(np.uint8).astype(np.int32) - 127)
    else:
        whole = (
            float(np.asarray(data["global_scale"], np.float32).reshape(())) if "global_scale" in data else 1.0
        )
        whole /= float(np.asarray(data["tensor_scale"], np.float32)[0]) if "tensor_scale" in data else 1.0
        scales = FORMATS["e4m3fn"].values()[stored.view(np.uint8)].astype(np.float64) / whole
    scales = scales.reshape(-1, grid.blocks.across)
    return np.where(scales == 0, 1.0, scales)
