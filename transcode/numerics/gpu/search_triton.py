"""The search for the best scale as one kernel, which reads the values once and tries all scales.

Bit for bit what ``search`` does in many steps: Triton contracts no product and sum
(``enable_fp_fusion=False``), and keeps subnormal numbers.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]

__all__ = ["pick_float", "pick_integer"]

_LANES = 128


def pick_float(
    blocks: torch.Tensor, multipliers: torch.Tensor, weights: torch.Tensor,
    largest: float, normal_bits: int, mantissa_shift: int,
) -> torch.Tensor:  # fmt: skip
    """See :func:`.search.pick_float`."""
    count, width = blocks.shape
    chosen = torch.empty(count, dtype=torch.int32, device=blocks.device)
    _float[(triton.cdiv(count, _LANES),)](
        blocks.contiguous(), multipliers.contiguous(), weights.contiguous(), chosen, count,
        TRIES=multipliers.shape[0], WIDTH=width, LARGEST=largest, NORMAL_BITS=normal_bits,
        MANTISSA_SHIFT=mantissa_shift, LANES=_LANES,
        enable_fp_fusion=False,
    )  # fmt: skip
    return chosen


def pick_integer(
    blocks: torch.Tensor, multipliers: torch.Tensor, weights: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """See :func:`.search.pick_integer`."""
    count, width = blocks.shape
    chosen = torch.empty(count, dtype=torch.int32, device=blocks.device)
    _integer[(triton.cdiv(count, _LANES),)](
        blocks.contiguous(), multipliers.contiguous(), weights.contiguous(), chosen, count,
        TRIES=multipliers.shape[0], WIDTH=width, LOW=low, HIGH=high, LANES=_LANES,
        enable_fp_fusion=False,
    )  # fmt: skip
    return chosen


# Triton looks at annotations, and knows none of Python's.
@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _float(  # type: ignore[no-untyped-def]
    blocks, multipliers, weights, chosen, count,
    TRIES: tl.constexpr, WIDTH: tl.constexpr, LARGEST: tl.constexpr,
    NORMAL_BITS: tl.constexpr, MANTISSA_SHIFT: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = lane < count
    place = lane[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    x = tl.load(blocks + place, mask=inside[:, None], other=0.0).to(tl.float32)
    chosen_number = tl.zeros([LANES], tl.int32)
    lowest = tl.zeros([LANES], tl.float32)
    for number in range(TRIES):
        multiplier = tl.load(multipliers + number * count + lane, mask=inside, other=1.0)
        weight = tl.load(weights + number * count + lane, mask=inside, other=1.0)
        size = tl.abs(x * multiplier[:, None])
        held = tl.where(size < LARGEST, size, LARGEST)
        exponent = tl.maximum(held.to(tl.int32, bitcast=True) & 0x7F800000, NORMAL_BITS)
        magic = (exponent + (MANTISSA_SHIFT << 23)).to(tl.float32, bitcast=True)
        gap = size - ((held + magic) - magic)
        # Two terms have one order, however a sum is carried out.
        terms = gap * gap
        if WIDTH == 32:
            terms = tl.sum(tl.reshape(terms, [LANES, 2, 16]), 1)
        terms = tl.sum(tl.reshape(terms, [LANES, 2, 8]), 1)
        terms = tl.sum(tl.reshape(terms, [LANES, 2, 4]), 1)
        terms = tl.sum(tl.reshape(terms, [LANES, 2, 2]), 1)
        total = tl.sum(terms, 1) * weight
        better = (total < lowest) | (number == 0)
        chosen_number = tl.where(better, number, chosen_number)
        lowest = tl.where(better, total, lowest)
    tl.store(chosen + lane, chosen_number, mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _integer(  # type: ignore[no-untyped-def]
    blocks, multipliers, weights, chosen, count,
    TRIES: tl.constexpr, WIDTH: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = lane < count
    place = lane[:, None] * WIDTH + tl.arange(0, 16)[None, :]
    chosen_number = tl.zeros([LANES], tl.int32)
    lowest = tl.zeros([LANES], tl.float32)
    for number in range(TRIES):
        multiplier = tl.load(multipliers + number * count + lane, mask=inside, other=1.0)
        weight = tl.load(weights + number * count + lane, mask=inside, other=1.0)
        sums = tl.zeros([LANES, 16], tl.float32)
        for first in range(0, WIDTH, 16):
            x = tl.load(blocks + place + first, mask=inside[:, None], other=0.0).to(tl.float32)
            share = x * multiplier[:, None]
            code = tl.minimum(tl.maximum(share, LOW), HIGH)
            code = (code + 12582912.0) - 12582912.0
            gap = share - code
            sums += gap * gap
        # Two terms have one order, however a sum is carried out.
        sums = tl.sum(tl.reshape(sums, [LANES, 2, 8]), 1)
        sums = tl.sum(tl.reshape(sums, [LANES, 2, 4]), 1)
        sums = tl.sum(tl.reshape(sums, [LANES, 2, 2]), 1)
        total = tl.sum(sums, 1) * weight
        better = (total < lowest) | (number == 0)
        chosen_number = tl.where(better, number, chosen_number)
        lowest = tl.where(better, total, lowest)
    tl.store(chosen + lane, chosen_number, mask=inside)
