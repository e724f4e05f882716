"""Groups of turned columns under two scales, W4A8 and W6A8, see :mod:`..grouped` for what arguments mean.

Values are ``[r, groups, size]`` here; sums are taken in the order of the processor's lanes: pairs of columns
first, halves of sixteen columns added to halves, sixteens one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..minifloat import FORMATS
from .hadamard import turned
from .search import halved
from .worker import Array, Worker

__all__ = ["grouped4", "grouped6"]

_COST = 96
_REACH = 127.0
_LEVELS6 = 31.0
_TINY = 2.0**-126
_TURNS = 2
_MOVES = (0, -1, 1)
_CODES = 126
_E4M3 = FORMATS["e4m3fn"]


def grouped4(
    worker: Worker, rows: Array, size: int, unit: Any, line: Array, words: Array, group: int, most: Any,
    levels: Array, middles: Array, work: Array, table: Array, places: Array, found: Array,
    codes: Array, scales: Array, row_scales: Array,
) -> bool:  # fmt: skip
    """See :func:`..grouped.grouped4`; what it works with is not looked at."""
    table, between = (
        worker.constant(one.tobytes(), partial(torch.from_numpy, one.copy())) for one in (levels, middles)
    )
    divisor, unity, reach_of = worker.number(float(most)), worker.number(1), worker.number(_REACH)

    def nearest(x: torch.Tensor) -> torch.Tensor:
        return table[torch.bucketize(x, between)]

    def refitted(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        shares = x * (unity / scale)
        near = nearest(shares)
        products, squares = _total(shares * near), _total(near * near)
        return torch.where(products > 0, scale * (products / squares), 0)

    def compute(values: torch.Tensor) -> Any:
        turning = turned(values, size, float(unit))
        x = turning.view(len(values), -1, group)
        peak = _peaks(x)
        first = peak / divisor
        scale = first
        for _ in range(_TURNS):
            scale = refitted(x, scale)
        scale = torch.where(first >= _TINY, scale, 0)
        ends = torch.cat([-peak / scale, peak / scale], 2)
        tops = torch.where(scale >= _TINY, nearest(ends).abs_() * scale, 0)
        row_scale = _row_scale(tops.flatten(1).amax(1), reach_of)
        x = x / row_scale[:, None, None]

        def decoded(code: torch.Tensor) -> torch.Tensor:
            return (_value(code) * table).round_().clamp_(-_REACH, _REACH)

        def numbers(integers: torch.Tensor) -> torch.Tensor:
            halfway = (integers[..., :-1] + integers[..., 1:]) * 0.5
            return torch.searchsorted(halfway.flatten(0, 1), x.flatten(0, 1)).view(x.shape)

        def error(code: torch.Tensor) -> torch.Tensor:
            integers = decoded(code)
            gap = x - integers.gather(2, numbers(integers))
            return _total(gap * gap)

        chosen = _best(_code(scale / row_scale[:, None, None]), error)
        number = numbers(decoded(chosen)).to(torch.uint8).flatten(1)
        encoded = number[:, 0::2] | number[:, 1::2] << 4
        return torch.isfinite(peak).all(), (encoded, chosen[..., 0].to(torch.uint8), row_scale)

    return worker.stream(rows, 1, (codes, scales, row_scales), _COST, compute)


def grouped6(
    worker: Worker, rows: Array, size: int, unit: Any, line: Array, words: Array, group: int,
    work: Array, codes: Array, scales: Array, row_scales: Array,
) -> bool:  # fmt: skip
    """See :func:`..grouped6.grouped6`; ``line``, ``words`` and ``work`` are not looked at."""
    divisor, unity, reach_of = worker.number(_LEVELS6), worker.number(1), worker.number(_REACH)

    def compute(values: torch.Tensor) -> Any:
        x = turned(values, size, float(unit)).view(len(values), -1, group)
        peak = _peaks(x)
        first = peak / divisor
        scale = first
        for _ in range(_TURNS):
            shares = x * (unity / scale)
            near = _nearest6(shares)
            scale = scale * (_total(shares * near) / _total(near * near))
        kept = first >= _TINY
        tops = torch.where(kept, (peak / scale).round_().clamp_max_(_LEVELS6) * scale, 0)
        row_scale = _row_scale(tops.flatten(1).amax(1), reach_of)
        x = x / row_scale[:, None, None]

        def levels(code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            step = _value(code)
            return _levels6(x, step, torch.where(code > 0, unity / step, 0)), step

        def error(code: torch.Tensor) -> torch.Tensor:
            gap = x - _integer6(*levels(code))
            return _total(gap * gap)

        chosen = _best(_code(torch.where(kept, scale, 0) / row_scale[:, None, None]), error)
        number = levels(chosen)[0].add_(_LEVELS6 + 1).to(torch.uint8).flatten(1)
        low = number[:, 0::2] & 15 | (number[:, 1::2] & 15) << 4
        high = number >> 4
        high = high[:, 0::4] | high[:, 1::4] << 2 | high[:, 2::4] << 4 | high[:, 3::4] << 6
        encoded = torch.cat([low, high], 1)
        return torch.isfinite(peak).all(), (encoded, chosen[..., 0].to(torch.uint8), row_scale)

    return worker.stream(rows, 1, (codes, scales, row_scales), _COST, compute)


def _peaks(x: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of each group, ``[r, groups, 1]``; NaN or infinite if any value is."""
    low, high = torch.aminmax(x, dim=2, keepdim=True)
    return torch.maximum(-low, high)


def _total(terms: torch.Tensor) -> torch.Tensor:
    """Sum of each group, ``[r, groups, 1]``."""
    pairs = terms[..., 0::2] + terms[..., 1::2]
    sixteens = halved(pairs.view(*pairs.shape[:2], -1, 8))
    total = sixteens[..., 0]
    for number in range(1, sixteens.shape[2]):
        total = total + sixteens[..., number]
    return total[..., None]


def _row_scale(reach: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    return torch.where(reach > 0, (reach / divisor).clamp_min_(_TINY), 1)


def _code(wanted: torch.Tensor) -> torch.Tensor:
    """E4M3 codes (int64) of scales that are not negative."""
    held = torch.where(wanted < _E4M3.max, wanted, _E4M3.max)
    return held.to(torch.float8_e4m3fn).view(torch.uint8).long()


def _value(code: torch.Tensor) -> torch.Tensor:
    return code.to(torch.uint8).view(torch.float8_e4m3fn).float()


def _best(first: torch.Tensor, error: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Of E4M3 codes and those beside them the first with the least error."""
    chosen, least = first, torch.full_like(first, torch.inf, dtype=torch.float32)
    for move in _MOVES:
        code = (first + move).clamp_(0, _CODES)
        loss = error(code)
        chosen = torch.where(loss < least, code, chosen)
        least = torch.where(loss < least, loss, least)
    return chosen


def _nearest6(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-_LEVELS6, _LEVELS6).round_()


def _integer6(level: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return (level * step).round_().clamp_(-_REACH, _REACH)


def _levels6(x: torch.Tensor, step: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """See :func:`..grouped6.level6`."""
    level = _nearest6(x * inverse)
    chosen = level
    gap = _integer6(level, step) - x
    error = gap * gap
    for other in (level - 1, level + 1, (x.round() * inverse).round_()):
        other = other.clamp_(-_LEVELS6, _LEVELS6)
        gap = _integer6(other, step) - x
        gap.mul_(gap)
        chosen = torch.where(error > gap, other, chosen)
        error = torch.minimum(error, gap)
    return chosen
