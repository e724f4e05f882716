"""Integers of up to 8 bits, see :mod:`..integer` for what arguments mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .arithmetic import blocks, extremes, fit, peaks, store, unblocked
from .search import INTEGER, pick, pick_cost
from .worker import Array, Worker

__all__ = ["symmetric", "with_zero"]

_COST = 24


def symmetric(
    worker: Worker, rows: Array, height: int, width: int, stored: int, given: Any, top: Any, tries: int,
    codes: Array, scales: Array,
) -> bool:  # fmt: skip
    """See :func:`..integer.symmetric`."""
    whole = float(given) > 0
    if whole:
        scales[...] = given
        height, width = 1, rows.shape[1]
    scale_of_all = worker.number(float(given))
    limit = worker.number(float(top))
    shares = [np.float32(1 - step / 48) for step in range(tries + 1)]

    def compute(values: torch.Tensor) -> Any:
        cut = blocks(values, height, width)
        if whole:
            scale, fine = scale_of_all, None
        else:
            peak = peaks(cut)
            fine = torch.isfinite(peak).all()
            scale = fit(peak, limit, stored)
            if tries:
                scale = _best(cut, scale, stored, shares, float(top))
        quotients = cut.float() / scale
        made = quotients.round_().clamp_(-float(top), float(top)).to(torch.int8)
        made = unblocked(made, *values.shape)
        return fine, (made,) if whole else (made, scale[:, 0, :, 0])

    cost = _COST if not tries else pick_cost(worker.device)
    return worker.stream(rows, height, (codes,) if whole else (codes, scales), cost, compute)


def _best(
    cut: torch.Tensor, scale: torch.Tensor, stored: int, shares: list[np.float32], top: float
) -> torch.Tensor:
    """Of a scale and smaller ones, the first with the least squared error."""
    plain = scale.reshape(-1)
    others = [store(plain * float(share), stored) for share in shares[1:]]
    candidates = torch.stack([plain, *others])
    flat = cut.transpose(1, 2).reshape(plain.shape[0], -1)
    index = pick(flat, candidates, INTEGER, top, 0, 0)
    return candidates.gather(0, index[None].long()).view(scale.shape)


def with_zero(
    worker: Worker, rows: Array, width: int, stored: int, span: Any,
    codes: Array, scales: Array, zeros: Array,
) -> bool:  # fmt: skip
    """See :func:`..integer.with_zero`."""
    floor = -(float(span) + 1) * 0.5
    ceiling = floor + float(span)
    reach_of_codes = worker.number(float(span))

    def compute(values: torch.Tensor) -> Any:
        cut = blocks(values, 1, width)
        low, high = extremes(cut)
        low, high = low.float().clamp_max(0), high.float().clamp_min(0)
        fine = (torch.isfinite(low) & torch.isfinite(high)).all()
        reach = high - low
        # The difference of two large floats may be infinite, that of their shares is not.
        apart = high / reach_of_codes - low / reach_of_codes
        scale = store(torch.where(torch.isinf(reach), apart, reach / reach_of_codes), stored)
        empty = reach == 0
        scale = torch.where(empty, 1.0, scale)
        zero = (floor - low / scale).clamp_(floor, ceiling).round_()
        zero = torch.where(empty, 0.0, zero)
        made = (cut.float() / scale).round_().add_(zero).clamp_(floor, ceiling).to(torch.int8)
        made = unblocked(made, *values.shape)
        return fine, (made, scale[:, 0, :, 0], zero[:, 0, :, 0].to(torch.int8))

    return worker.stream(rows, 1, (codes, scales, zeros), _COST, compute)
