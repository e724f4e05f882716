"""The search for the best scale as one kernel: a lane for each block, which tries the candidates in turn.

Bit for bit ``search._error``: Triton contracts no product and sum (``enable_fp_fusion=False``), divides
float32 as IEEE 754 says only where told (``div_rn``), and keeps subnormal numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

__all__ = ["pick"]

_LANES = 128


def pick(
    blocks: torch.Tensor, candidates: torch.Tensor, what: int, top: float, least: int, drop: int
) -> torch.Tensor:
    """See :func:`.search.pick`."""
    count, width = blocks.shape
    chosen = torch.empty(count, dtype=torch.int32, device=blocks.device)
    _pick[(triton.cdiv(count, _LANES),)](
        blocks.contiguous(), candidates.contiguous(), chosen, count, candidates.shape[0],
        WIDTH=width, WHAT=what, TOP=top, LEAST=least, DROP=drop, LANES=_LANES,
        num_warps=_LANES // 32, enable_fp_fusion=False,
    )  # fmt: skip
    return chosen


@triton.jit  # type: ignore[untyped-decorator]
def _step(size: Any, LEAST: tl.constexpr, DROP: tl.constexpr) -> Any:
    exponent = tl.maximum(size.to(tl.int32, bitcast=True) & 0x7F800000, LEAST)
    ruler = (exponent + (DROP << 23)).to(tl.float32, bitcast=True)
    return (size + ruler) - ruler


@triton.jit  # type: ignore[untyped-decorator]
def _pick(
    blocks: Any, candidates: Any, chosen: Any, count: Any, tries: Any,
    WIDTH: tl.constexpr, WHAT: tl.constexpr, TOP: tl.constexpr,
    LEAST: tl.constexpr, DROP: tl.constexpr, LANES: tl.constexpr,
) -> None:  # fmt: skip
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = lane < count
    first = blocks + lane * WIDTH
    lowest = tl.full([LANES], float("inf"), tl.float64)
    best = tl.zeros([LANES], tl.int32)
    for number in range(tries):
        scale = tl.load(candidates + number * count + lane, mask=inside, other=1.0)
        exact_scale = scale.to(tl.float64)
        total = tl.zeros([LANES], tl.float64)
        for j in range(WIDTH):
            x = tl.load(first + j, mask=inside, other=0.0).to(tl.float32)
            if WHAT == 0:
                code = tl.minimum(tl.maximum(tl.div_rn(x, scale), -TOP), TOP)
                code = (code + 12582912.0) - 12582912.0
                gap = x.to(tl.float64) - code.to(tl.float64) * exact_scale
            elif WHAT == 1:
                size = tl.abs(x * scale)
                gap = (size - _step(tl.minimum(size, TOP), LEAST, DROP)).to(tl.float64)
            else:
                exact = tl.abs(x).to(tl.float64)
                size = tl.where(scale > 0, exact / exact_scale, 0.0).to(tl.float32)
                gap = exact - _step(tl.minimum(size, TOP), LEAST, DROP).to(tl.float64) * exact_scale
            total += gap * gap
        if WHAT == 1:
            unit = 1.0 / exact_scale
            total = total * unit * unit
        better = total < lowest
        best = tl.where(better, number, best)
        lowest = tl.where(better, total, lowest)
    tl.store(chosen + lane, best, mask=inside)
