"""The block formats. Each block is a row here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...core.scratch import Scratch
from ..minifloat import FORMATS, Minifloat
from .arithmetic import bits, edges, encode8, packed, peaks, real, short_codes
from .search import pick_float, search_cost
from .worker import Array, Worker

__all__ = ["mx", "nv"]

_COST = 24
_MX_BLOCK = 32
_NV_BLOCK = 16
_FRACTION = 0x007FFFFF
_HALF_NORMAL = 0x00400000
_E2M1 = FORMATS["e2m1"]
_E4M3 = FORMATS["e4m3fn"]
_SMALLEST_KEPT = _E4M3.smallest_subnormal * _E2M1.smallest_subnormal / 2
"""See :func:`..micro.nv_floored`."""


def mx(
    worker: Worker, values: Array, kind: Minifloat, mode: str, search: bool,
    codes: Array, scales: Array, scratch: Scratch,
) -> bool:  # fmt: skip
    """See :func:`..encode.mx`."""
    largest = worker.number(kind.max)
    limits = worker.constant(kind, lambda: edges(kind)) if kind.bits < 8 else None

    def compute(rows: torch.Tensor) -> Any:
        peak = peaks(rows[:, None, None, :])[:, 0, 0, 0]
        finite = torch.isfinite(peak).all()
        code = _scale_byte(peak, mode, largest, kind)
        if search:
            code = _next_best(rows, code, kind, peak)
        quotients = rows.float() * _reciprocal(code)[:, None]
        if limits is None:
            encoded = encode8(quotients, kind.name, kind.max)
        else:
            encoded = packed(short_codes(quotients, limits), kind.bits)
        return finite, (encoded, code.to(torch.uint8)[:, None])

    return _stream(worker, values, _MX_BLOCK, (codes, scales), search, compute)


def nv(
    worker: Worker, values: Array, shared: Any, search: tuple[int, int] | None,
    codes: Array, scales: Array, scratch: Scratch,
) -> bool:  # fmt: skip
    """See :func:`..encode.nv`."""
    unity, six, four = worker.number(1), worker.number(6), worker.number(4)
    divisor = worker.number(float(shared))
    limits = worker.constant(_E2M1, lambda: edges(_E2M1))
    low, high = search or (0, 0)
    moves = worker.constant((low, high), lambda: _moves(low, high))

    smallest_kept = worker.number(float(np.float32(shared) * np.float32(_SMALLEST_KEPT)))

    def scale_of(peak: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
        code = encode8(peak / reach / divisor, "e4m3fn", _E4M3.max)
        return torch.where((code == 0) & (peak > smallest_kept), 1, code)

    def compute(rows: torch.Tensor) -> Any:
        peak = peaks(rows[:, None, None, :])[:, 0, 0, 0]
        finite = torch.isfinite(peak).all()
        code = scale_of(peak, six)
        if search is not None:
            if low < 0:
                others = scale_of(peak, four)[None]
            else:
                others = (code.to(torch.int32) + moves).clamp_(1, 126).to(torch.uint8)
            code = _best_scale(rows, torch.cat([code[None], others]), float(shared), unity)
        unit = code.view(torch.float8_e4m3fn).float() * float(shared)
        # Over infinity, so that a block whose scale underflowed has codes of zero, with the values' signs.
        unit = torch.where(unit > 0, unit, torch.inf)
        encoded = packed(short_codes(rows.float() / unit[:, None], limits), 4)
        return finite, (encoded, code[:, None])

    return _stream(worker, values, _NV_BLOCK, (codes, scales), search is not None, compute)


def _stream(
    worker: Worker, values: Array, block: int, outputs: tuple[Array, ...], search: bool, compute: Any
) -> bool:
    rows = values.reshape(-1, block)
    cost = search_cost(worker.device) if search else _COST
    return worker.stream(rows, 1, [out.reshape(len(rows), -1) for out in outputs], cost, compute)


def _scale_byte(peak: torch.Tensor, mode: str, largest: torch.Tensor, kind: Minifloat) -> torch.Tensor:
    """Int32, see :func:`..micro.scale_byte`."""
    if mode == "rceil":
        u = bits(peak / largest)
        fraction = u & _FRACTION
        up = torch.where(u <= _FRACTION, u > _HALF_NORMAL, fraction != 0)
        return ((u >> 23) + up).clamp_max_(_top_code(kind))
    u = bits(peak)
    if mode == "even":
        u = u + ((1 << 22) >> kind.nmant)
    exponent = u >> 23
    if mode == "ceil":
        exponent = exponent + ((u & _FRACTION) != 0)
    return (exponent - kind.emax).clamp_(0, _top_code(kind))


def _top_code(kind: Minifloat) -> int:
    """See :func:`..micro.top_code`."""
    return 254 - kind.emax


def _reciprocal(code: torch.Tensor) -> torch.Tensor:
    """``2**(127 - code)`` as float32; NaN where there is no such scale."""
    pattern = torch.where(code < 254, (254 - code) << 23, _HALF_NORMAL)
    missing = int(np.float32(np.nan).view(np.int32))
    return real(torch.where((code < 0) | (code > 254), missing, pattern).to(torch.int32))


def _next_best(rows: torch.Tensor, code: torch.Tensor, kind: Minifloat, peak: torch.Tensor) -> torch.Tensor:
    """Of a scale byte and the two next to it, the one with the least squared error; the upper one only where
    the largest value is cut off, see :func:`..micro.mx_search`.
    """
    largest = int(np.float32(kind.max).view(np.uint32))
    cut_off = np.uint32(largest + ((1 << 22) >> (23 - int(kind.mantissa_shift)))).view(np.float32)
    candidates = torch.stack([code, code - 1, code + 1])
    multipliers = _reciprocal(candidates)
    # In units of the square of the first scale: no power of two can overflow.
    weights = torch.ones_like(multipliers)
    weights[1], weights[2] = 0.25, 4.0
    raised = (peak.float() * multipliers[0] > float(cut_off)) & (code < _top_code(kind))
    multipliers[2].masked_fill_(~raised, torch.nan)
    index = pick_float(rows, multipliers, weights, kind.max, int(kind.normal_bits), int(kind.mantissa_shift))
    return candidates.gather(0, index[None].long())[0]


def _moves(low: int, high: int) -> torch.Tensor:
    """Steps away from the first code, in the order of :func:`..micro.nv`; int32 ``[c, 1]``."""
    return torch.tensor([*range(-low, 0), *range(1, high + 1)], dtype=torch.int32)[:, None]


def _best_scale(rows: torch.Tensor, codes: torch.Tensor, shared: float, unity: torch.Tensor) -> torch.Tensor:
    """Of E4M3 codes ``[c, n]`` for each block, the one with the least squared error; the first if it is 0."""
    value = codes.view(torch.float8_e4m3fn).float()
    multipliers = unity / (value * shared)
    multipliers[1:].masked_fill_(codes[0] == 0, torch.nan)
    index = pick_float(
        rows, multipliers, value * value, _E2M1.max, int(_E2M1.normal_bits), int(_E2M1.mantissa_shift)
    )
    return codes.gather(0, index[None].long())[0]
