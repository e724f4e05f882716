"""The block formats, see :mod:`..micro` for what arguments mean. Each block is a row here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..minifloat import FORMATS, Minifloat
from .arithmetic import bits, edges, encode8, peaks, real, short_codes
from .search import FLOAT, SCALED_FLOAT, pick, pick_cost
from .worker import Array, Worker

__all__ = ["mx", "nv"]

_COST = 24
_MX_BLOCK = 32
_NV_BLOCK = 16
_FRACTION = 0x007FFFFF
_HALF_LEAST = 0x00400000
_E2M1 = FORMATS["e2m1"]
_E4M3 = FORMATS["e4m3fn"]


def mx(
    worker: Worker, values: Array, mode: int, best: bool, width: int,
    top: Any, power: Any, least: Any, drop: Any, ruler: Any,
    factors: Any, wide: Any, line: Any, codes: Array, scales: Array,
) -> bool:  # fmt: skip
    """See :func:`..micro.mx`."""
    kind = _kind(width, float(top))
    limit = worker.number(float(top))
    limits = edges(kind).to(worker.device) if width < 8 else None

    def compute(rows: torch.Tensor) -> Any:
        peak = peaks(rows[:, None, None, :])[:, 0, 0, 0]
        fine = torch.isfinite(peak).all()
        code = _scale_byte(peak, mode, limit, int(power), int(drop))
        if best:
            code = _next_best(rows, code, kind)
        quotients = rows.float() * _reciprocal(code)[:, None]
        if limits is None:
            made = encode8(quotients, kind.name, kind.top)
        else:
            made = _packed(short_codes(quotients, limits), width)
        return fine, (made, code.to(torch.uint8)[:, None])

    return _stream(worker, values, _MX_BLOCK, (codes, scales), best, compute)


def nv(
    worker: Worker, values: Array, shared: Any, low: int, high: int,
    factors: Any, wide: Any, line: Any, codes: Array, scales: Array,
) -> bool:  # fmt: skip
    """See :func:`..micro.nv`."""
    six, four = worker.number(6), worker.number(4)
    divisor = worker.number(float(shared))
    limits = edges(_E2M1).to(worker.device)

    def scale_of(peak: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
        return encode8(peak / reach / divisor, "e4m3fn", _E4M3.top)

    def unit_of(code: torch.Tensor) -> torch.Tensor:
        return code.view(torch.float8_e4m3fn).float() * float(shared)

    def compute(rows: torch.Tensor) -> Any:
        peak = peaks(rows[:, None, None, :])[:, 0, 0, 0]
        fine = torch.isfinite(peak).all()
        code = scale_of(peak, six)
        if low < 0:
            others = scale_of(peak, four)[None]
            candidates = torch.cat([code[None], others])
            unit = unit_of(candidates)
        elif low or high:
            middle = code.to(torch.int32)
            steps = torch.arange(low + high + 1, dtype=torch.int32, device=rows.device)[:, None]
            others = (middle - low).clamp_min_(1) + steps
            allowed = others <= (middle + high).clamp_max_(126)
            candidates = torch.cat([code[None], others.to(torch.uint8)])
            unit = unit_of(candidates)
            unit[1:].masked_fill_(~allowed, torch.nan)
        if low or high:
            index = pick(rows, unit, SCALED_FLOAT, _E2M1.top, int(_E2M1.least_bits), int(_E2M1.drop))
            code = candidates.gather(0, index[None].long())[0]
        unit = unit_of(code)
        # Over infinity, so that a block whose scale underflowed has codes of zero, with the values' signs.
        unit = torch.where(unit > 0, unit, torch.inf)
        made = _packed(short_codes(rows.float() / unit[:, None], limits), 4)
        return fine, (made, code[:, None])

    return _stream(worker, values, _NV_BLOCK, (codes, scales), bool(low or high), compute)


def _stream(
    worker: Worker, values: Array, block: int, outputs: tuple[Array, ...], search: bool, compute: Any
) -> bool:
    rows = values.reshape(-1, block)
    cost = pick_cost(worker.device) if search else _COST
    return worker.stream(rows, 1, [out.reshape(len(rows), -1) for out in outputs], cost, compute)


def _kind(width: int, top: float) -> Minifloat:
    return next(kind for kind in FORMATS.values() if kind.bits == width and kind.top == top)


def _scale_byte(peak: torch.Tensor, mode: int, top: torch.Tensor, power: int, drop: int) -> torch.Tensor:
    """Int32, see :func:`..micro.scale_byte`."""
    if mode == 0:
        u = bits(peak / top)
        fraction = u & _FRACTION
        up = torch.where(u <= _FRACTION, u > _HALF_LEAST, fraction != 0)
        return (u >> 23) + up
    u = bits(peak)
    if mode == 2:
        u = u + ((1 << 22) >> (23 - drop))
    exponent = u >> 23
    if mode == 3:
        exponent = exponent + ((u & _FRACTION) != 0)
    return (exponent - power).clamp_min_(0)


def _reciprocal(code: torch.Tensor) -> torch.Tensor:
    """``2**(127 - code)`` as float32; NaN where there is no such scale."""
    pattern = torch.where(code < 254, (254 - code) << 23, _HALF_LEAST)
    missing = int(np.float32(np.nan).view(np.int32))
    return real(torch.where((code < 0) | (code > 254), missing, pattern).to(torch.int32))


def _next_best(rows: torch.Tensor, code: torch.Tensor, kind: Minifloat) -> torch.Tensor:
    """Of a scale byte and the two next to it, the one with the least squared error."""
    candidates = torch.stack([code, code - 1, code + 1])
    index = pick(rows, _reciprocal(candidates), FLOAT, kind.top, int(kind.least_bits), int(kind.drop))
    return candidates.gather(0, index[None].long())[0]


def _packed(codes: torch.Tensor, width: int) -> torch.Tensor:
    """Codes of 4 or 6 bits (int32 ``[n, K]``), packed to bytes ``[n, K * width / 8]``."""
    if width == 4:
        return (codes[:, 0::2] + (codes[:, 1::2] << 4)).to(torch.uint8)
    four = codes[:, 0::4] | codes[:, 1::4] << 6 | codes[:, 2::4] << 12 | codes[:, 3::4] << 18
    return torch.stack([four, four >> 8, four >> 16], 2).bitwise_and_(0xFF).to(torch.uint8).flatten(1)
