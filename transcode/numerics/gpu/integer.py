"""Integers of up to 8 bits, see :mod:`..integer` for what arguments mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...core.scratch import Scratch
from ..nibbles import HIGH, LOW, SEARCHED
from .arithmetic import blocks, extremes, fit, next_up, packed, peaks, store, unblocked
from .search import pick_integer, search_cost
from .worker import Array, Worker

__all__ = ["integers", "symmetric", "with_zero"]

_COST = 24
_BEFORE = 16
"""Bytes that what comes before takes for each value: float32, its stages in turn."""

Before = Callable[[torch.Tensor], torch.Tensor]


def symmetric(
    worker: Worker, rows: Array, height: int, width: int, stored: int, tensor_scale: Any, largest: Any,
    codes: Array, scales: Array, *, before: Before | None = None,
) -> bool:  # fmt: skip
    """See :func:`..integer.symmetric`; ``before`` is done to values first."""
    limit = float(largest)
    divisor = worker.number(limit)
    whole = float(tensor_scale) > 0
    if whole:
        scales[...] = tensor_scale
        height, width = 1, rows.shape[1]
    scale_of_all = worker.number(float(tensor_scale))

    def compute(values: torch.Tensor) -> Any:
        cut = blocks(values if before is None else before(values), height, width)
        if whole:
            return None, (unblocked(_codes(cut, scale_of_all, -limit, limit), *values.shape),)
        peak = peaks(cut)
        scale = fit(peak, divisor, limit + 0.5, stored)
        encoded = unblocked(_codes(cut, scale, -limit, limit), *values.shape)
        return torch.isfinite(peak).all(), (encoded, scale[:, 0, :, 0])

    cost = _COST if before is None else _COST + _BEFORE
    return worker.stream(rows, height, (codes,) if whole else (codes, scales), cost, compute)


def with_zero(
    worker: Worker, rows: Array, width: int, stored: int, span: Any,
    codes: Array, scales: Array, zeros: Array, *, before: Before | None = None,
) -> bool:  # fmt: skip
    """See :func:`..integer.with_zero`; ``before`` is done to values first."""
    divisor = worker.number(float(span))

    def compute(values: torch.Tensor) -> Any:
        cut = blocks(values if before is None else before(values), 1, width)
        finite, encoded, scale, zero = _stretched(cut, divisor, float(span), stored)
        return finite, (unblocked(encoded, *values.shape), scale[:, 0, :, 0], zero[:, 0, :, 0])

    cost = _COST if before is None else _COST + _BEFORE
    return worker.stream(rows, 1, (codes, scales, zeros), cost, compute)


def integers(
    worker: Worker, groups: Array, stored: int, divisors: Array,
    codes: Array, scales: Array, zeros: Array | None, scratch: Scratch,
) -> bool:  # fmt: skip
    """See :func:`..encode.integers`."""
    span = 15.0
    divisor = worker.number(span)
    reach = worker.constant(divisors.tobytes(), lambda: torch.from_numpy(divisors)[:, None])

    def compute(values: torch.Tensor) -> Any:
        cut = blocks(values, 1, groups.shape[1])
        rest: tuple[torch.Tensor, ...]
        if zeros is None:
            peak = peaks(cut)
            finite = torch.isfinite(peak).all()
            scale = _best(values, peak.view(-1), reach, stored, worker.number(1)).view(peak.shape)
            encoded = _codes(cut, scale, LOW, HIGH)
            rest = (scale[:, 0, :, 0],)
        else:
            finite, encoded, scale, zero = _stretched(cut, divisor, span, stored)
            rest = (scale[:, 0, :, 0], zero[:, 0, :, 0])
        nibbles = encoded.view(torch.uint8).bitwise_and_(15).view(values.shape)
        return finite, (packed(nibbles, 4), *rest)

    rows = codes.reshape(len(groups), -1)
    cost = search_cost(worker.device) if zeros is None else _COST
    outputs = (rows, scales) if zeros is None else (rows, scales, zeros)
    return worker.stream(groups, 1, outputs, cost, compute)


def _codes(cut: torch.Tensor, scale: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return (cut.float() / scale).round_().clamp_(low, high).to(torch.int8)


def _stretched(
    cut: torch.Tensor, divisor: torch.Tensor, span: float, stored: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whether all are finite, codes, scales and zero points of blocks over a range that includes 0."""
    lowest_code = -(span + 1) * 0.5
    low, high = extremes(cut)
    low, high = low.float().clamp_max(0), high.float().clamp_min(0)
    finite = (torch.isfinite(low) & torch.isfinite(high)).all()
    reach = high - low
    # The difference of two large floats may be infinite, that of their shares is not.
    apart = high / divisor - low / divisor
    scale = store(torch.where(torch.isinf(reach), apart, reach / divisor), stored)
    scale = next_up(scale, reach / scale, span + 0.5, stored)
    empty = reach == 0
    scale = torch.where(empty, 1.0, scale)
    zero = torch.where(
        empty, 0.0, (lowest_code - low / scale).clamp_(lowest_code, lowest_code + span).round_()
    )
    encoded = (cut.float() / scale).round_().add_(zero).clamp_(lowest_code, lowest_code + span).to(torch.int8)
    return finite, encoded, scale, zero.to(torch.int8)


def _best(
    values: torch.Tensor, peak: torch.Tensor, divisors: torch.Tensor, stored: int, unity: torch.Tensor
) -> torch.Tensor:
    """Of the scales of each group, the first with the least squared error, see :func:`..nibbles.nibbles`."""
    first = fit(peak, divisors[0], HIGH + 0.5, stored)
    candidates = torch.cat([first[None], store(peak / divisors[1:], stored)])
    shares = candidates * (unity / first)
    index = pick_integer(values, unity / candidates, shares * shares, LOW, HIGH)
    index = torch.where(peak >= SEARCHED, index, 0)
    return candidates.gather(0, index[None].long())[0]
