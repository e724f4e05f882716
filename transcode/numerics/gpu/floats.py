"""8-bit floats under scales, see :mod:`..floats` for what arguments mean."""

from __future__ import annotations

from typing import Any

import torch

from ..minifloat import FORMATS
from .arithmetic import blocks, encode8, fit, peaks, unblocked
from .worker import Array, Worker

__all__ = ["scaled"]

_COST = 24
_KINDS = {kind.top: kind for kind in FORMATS.values() if kind.bits == 8}


def scaled(
    worker: Worker, rows: Array, height: int, width: int, stored: int, given: Any,
    top: Any, least: Any, drop: Any, ruler: Any, codes: Array, scales: Array,
) -> bool:  # fmt: skip
    """See :func:`..floats.scaled`."""
    whole = float(given) > 0
    if whole:
        scales[...] = given
        height, width = 1, rows.shape[1]
    scale_of_all = worker.number(float(given))
    divisor = worker.number(float(top))
    kind = _KINDS[float(top)]

    def compute(values: torch.Tensor) -> Any:
        cut = blocks(values, height, width)
        if whole:
            scale, fine = scale_of_all, None
        else:
            peak = peaks(cut)
            fine = torch.isfinite(peak).all()
            scale = fit(peak, divisor, kind.limit, stored)
        made = unblocked(encode8(cut.float() / scale, kind.name, kind.top), *values.shape)
        return fine, (made,) if whole else (made, scale[:, 0, :, 0])

    return worker.stream(rows, height, (codes,) if whole else (codes, scales), _COST, compute)
