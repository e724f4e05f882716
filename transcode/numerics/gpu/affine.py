"""Codes of any few bits under a scale and an offset, see :mod:`..affine_widths` for what arguments mean.

A group is a column here, ``[size, starts, groups]``: its sums are taken value by value, as the processor
does, those of all groups at once. A search tries all its beginnings at once.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ..starts import PHASES, ROUNDS, SHARES, TINY
from .arithmetic import store
from .worker import Array, Worker

__all__ = ["affine", "affine_widths"]

_COST = 16
_EACH = 32
"""Bytes that each beginning takes for each value: a product for each of five sums, and what makes them."""


class _Sums(NamedTuple):
    """Of each group, ``[starts, groups]``: of errors, codes, their squares, values and products."""

    error: torch.Tensor
    codes: torch.Tensor
    squares: torch.Tensor
    values: torch.Tensor
    products: torch.Tensor


def affine_widths(
    worker: Worker, values: Array, size: int, width: int, middle: Any, stored: int, starts: int,
    weights: Array, line: Array, codes: Array, scales: Array, offsets: Array,
) -> bool:  # fmt: skip
    """See :func:`..affine_widths.affine_widths`; ``line`` is not looked at."""
    return _fitted(
        worker, values, size, width, float(middle), stored, starts, False, weights, codes, scales, offsets
    )


def affine(
    worker: Worker, values: Array, size: int, stored: int, weights: Array, work: Array,
    codes: Array, scales: Array, offsets: Array,
) -> bool:  # fmt: skip
    """See :func:`..affine.affine`; ``work`` is not looked at."""
    return _fitted(worker, values, size, 4, 8.0, stored, 1, True, weights, codes, scales, offsets)


def _fitted(
    worker: Worker, values: Array, size: int, width: int, middle: float, stored: int, starts: int,
    watched: bool, weights: Array, codes: Array, scales: Array, offsets: Array,
) -> bool:  # fmt: skip
    """``watched``: whether no line is fitted any more once a scale has become tiny."""
    top, mid = float((1 << width) - 1), middle
    whole, two, unity = worker.number(top), worker.number(2), worker.number(1)
    rounds, tiny = ROUNDS[starts > 1], float(TINY)
    shares, phases = (
        worker.constant((name, starts), partial(torch.from_numpy, of[:starts, None].copy()))
        for name, of in (("shares", SHARES), (("phases", middle), PHASES + np.float32(middle)))
    )
    columns = size if weights.size == 1 else weights.size
    heavy = None if weights.size == 1 else torch.from_numpy(weights.copy()).to(worker.device)

    def codes_of(x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        share = (x - offset).div_(scale).clamp_(-top, top).round_()
        return share.clamp_(-mid, top - mid)

    def compute(rows: torch.Tensor) -> Any:
        x = rows.float().view(-1, size).t().contiguous()[:, None]
        weight = None
        count: Any = float(size)
        if heavy is not None:
            weight = heavy.view(-1, size).t().repeat(1, len(rows))[:, None]
            count = _in_order(weight)
        low, high = torch.aminmax(x, dim=0)
        widest = high / whole - low / whole
        unit = unity / widest.clamp_min(tiny)
        searched = widest >= tiny
        scale = widest * shares
        offset = (low + (widest - scale) * top / two) + phases * scale
        going = searched | (shares == 1) & (phases == mid)
        best = torch.full_like(scale, torch.inf)
        best_scale, best_offset = torch.ones_like(scale), _stored_offset(low, stored).expand_as(scale)
        for number in range(rounds):
            own, shift = store(scale, stored), _stored_offset(offset, stored)
            q = codes_of(x, own, shift)
            sums = _sums(x, q, own, shift, unit, weight)
            better = going & (sums.error < best)
            best = torch.where(better, sums.error, best)
            best_scale = torch.where(better, own, best_scale)
            best_offset = torch.where(better, shift, best_offset)
            if number == rounds - 1:
                break
            spread = count * sums.squares - sums.codes * sums.codes
            slope = (count * sums.products - sums.codes * sums.values) / spread
            going = going & (scale >= tiny if watched else searched) & (spread > 0) & (slope > 0)
            offset = shift + ((sums.values - slope * sums.codes) / count) / unit
            scale = slope / unit
        chosen = best.argmin(0, keepdim=True)
        scale, offset = best_scale.gather(0, chosen), best_offset.gather(0, chosen)
        number = codes_of(x, scale, offset)[:, 0].add_(mid).to(torch.uint8)
        packed = _stream_of_bits(number.t().contiguous(), width).view(len(rows), -1)
        finite = torch.isfinite(low).all() & torch.isfinite(high).all()
        return finite, (packed, scale.view(len(rows), -1), offset.view(len(rows), -1))

    rows = values.reshape(-1, columns)
    outputs = [one.reshape(len(rows), -1) for one in (codes, scales, offsets)]
    return worker.stream(rows, 1, outputs, _COST + _EACH * starts, compute)


def _sums(
    x: torch.Tensor, q: torch.Tensor, own: torch.Tensor, shift: torch.Tensor, unit: torch.Tensor,
    weight: torch.Tensor | None,
) -> _Sums:  # fmt: skip
    terms = torch.empty((len(x), 5, *q.shape[1:]), dtype=torch.float32, device=x.device)
    gap = (x - (q * own).add_(shift)).mul_(unit)
    torch.mul(gap, gap, out=terms[:, 0])
    y = (x - shift).mul_(unit)
    if weight is not None:
        terms[:, 0].mul_(weight)
        y.mul_(weight)
        torch.mul(q, weight, out=terms[:, 1])
        torch.mul(q * q, weight, out=terms[:, 2])
    else:
        terms[:, 1] = q
        torch.mul(q, q, out=terms[:, 2])
    terms[:, 3] = y
    torch.mul(q, y, out=terms[:, 4])
    return _Sums(*_in_order(terms))


def _in_order(terms: torch.Tensor) -> torch.Tensor:
    """Sum over the first dimension, one after the other."""
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total


def _stored_offset(offset: torch.Tensor, stored: int) -> torch.Tensor:
    """See :func:`..affine.stored_offset`."""
    return torch.where(offset == 0, 0, store(offset.abs(), stored).copysign(offset))


def _stream_of_bits(codes: torch.Tensor, width: int) -> torch.Tensor:
    """Codes (uint8 ``[n, size]``) as bytes ``[n, size * width / 8]``, the lowest bits first."""
    words = torch.zeros((*codes.shape[:-1], codes.shape[-1] // 8), dtype=torch.int64, device=codes.device)
    for place in range(8):
        words |= codes[..., place::8].long() << width * place
    return torch.stack([words >> 8 * place & 255 for place in range(width)], -1).to(torch.uint8).flatten(-2)
