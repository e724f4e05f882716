"""Measure what a scheme loses of rows that were just encoded, by decoding them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.expr import Piece
from ...core.quality import Loss, total
from ...core.scheme import Scheme, Stats
from ...core.scratch import Scratch
from ...core.spec import Spec

__all__ = ["measure"]

Array = NDArray[Any]

_CHUNK = 1 << 20
"""Bytes of source values that are decoded at a time: what was encoded last is still in the cache."""


def measure(
    scheme: Scheme, rows: Array, spec: Spec, start: int, stats: Stats | None, pieces: Sequence[Piece]
) -> Loss:
    """The loss of rows ``start`` to ``start + len(rows)`` of a tensor.

    Where the scheme searches for its scales, the rows are encoded once more without the search.

    Args:
        scheme: what encoded them.
        rows: ``[r, K]`` in the carrier dtype of ``spec``; rows are whole grains of the tensor.
        spec: facts of the whole tensor.
        start: first of the rows.
        stats: what encode was given.
        pieces: what encode made of them.
    """
    simple = scheme.without_search
    losses: list[Loss] = []
    cursor = {piece.role: 0 for piece in pieces}
    data = {piece.role: piece.data.reshape(-1).view(np.uint8) for piece in pieces}
    for begin, end in _matrices(spec, start, start + len(rows)):
        own = rows[begin - start : end - start]
        inner = Spec(spec.dtype, own.shape)
        parts: dict[str, Array] = {}
        missing = False
        twice = scheme.parts(Spec(spec.dtype, (2 * len(own), spec.columns)))
        for part in scheme.parts(inner):
            if part.role not in data:
                missing = True
                continue
            whole = part in twice  # of the tensor: the same for all its matrices
            at = 0 if whole else cursor[part.role]
            raw = data[part.role][at : at + part.spec.nbytes]
            parts[part.role] = raw.view(part.spec.dtype.carrier)
            cursor[part.role] = at + part.spec.nbytes
        if missing:  # a part of the whole tensor, which came with its first row
            grain = own[: scheme.grain(inner)]
            parts = {**_encoded(scheme, grain, Spec(spec.dtype, grain.shape), stats), **parts}
        losses += _losses(scheme, simple, own, inner, stats, parts)
    found = total(losses)
    assert found is not None
    return found


def _matrices(spec: Spec, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut rows at the ends of matrices: blocks never reach over two of them."""
    height = spec.shape[-2]
    while start < stop:
        end = min(stop, start - start % height + height)
        yield start, end
        start = end


def _losses(
    scheme: Scheme, simple: Scheme | None, rows: Array, spec: Spec, stats: Stats | None,
    parts: Mapping[str, Array],
) -> Iterator[Loss]:  # fmt: skip
    """Losses of the rows of one matrix, which are whole blocks of it."""
    from ...numerics.loss import losses
    from ...numerics.rows import as_bits

    grain = scheme.grain(spec)
    step = max(_CHUNK * 8 // max(spec.row_bits * grain, 1), 1) * grain
    codes = parts["codes"].reshape(spec.rows, -1)
    for start in range(0, spec.rows, step):
        stop = min(start + step, spec.rows)
        chunk = rows[start:stop]
        values = as_bits(chunk, spec.dtype)
        sums = np.zeros(3)
        out = np.empty(chunk.shape, np.float32)
        scheme.decode({**parts, "codes": codes[start:stop]}, spec, start, stop, out)
        losses(values, out, sums)
        plain = None
        if simple is not None:
            inner = Spec(spec.dtype, chunk.shape)
            simple.decode(_encoded(simple, chunk, inner, stats), inner, 0, len(chunk), out)
            others = np.zeros(3)
            losses(values, out, others)
            plain = float(others[1])
        yield Loss(float(sums[0]), float(sums[1]), plain, float(sums[2]))


def _encoded(scheme: Scheme, rows: Array, spec: Spec, stats: Stats | None) -> dict[str, Array]:
    return {piece.role: piece.data.copy() for piece in scheme.encode(rows, spec, 0, stats, Scratch())}
