"""Which of several scales suits a block best: the first of those with the least squared error.

Errors are summed in the order of the CPU's kernels, so that near ties fall alike.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from .arithmetic import bits, real

__all__ = ["halved", "pick_float", "pick_integer", "search_cost"]


def search_cost(device: torch.device) -> int:
    """Bytes of device memory that a kernel with a search takes for each value."""
    return 64 if _triton(device) is None else 32


def pick_float(
    blocks: torch.Tensor, multipliers: torch.Tensor, weights: torch.Tensor,
    largest: float, normal_bits: int, mantissa_shift: int,
) -> torch.Tensor:  # fmt: skip
    """Number of the multiplier under which a block suits a float format best; int32 ``[n]``.

    The error is the float32 sum of squares, halves added to halves, times the weight (see
    :func:`..micro.mx_search`, :func:`..micro.nv`).

    Args:
        blocks: values in the source's dtype, ``[n, width]``; width is a power of two.
        multipliers: float32 ``[c, n]``; a NaN is never picked, unless it is the first.
        weights: likewise.
        largest: largest value of the format.
        normal_bits, mantissa_shift: see :func:`..lanes.to_step`.
    """
    fused = _triton(blocks.device)
    if fused is not None:
        picked: torch.Tensor = fused.pick_float(
            blocks, multipliers, weights, largest, normal_bits, mantissa_shift
        )
        return picked
    values = blocks.float()

    def error(number: int) -> torch.Tensor:
        size = (values * multipliers[number][:, None]).abs_()
        gap = size - _step(size.clamp_max(largest), normal_bits, mantissa_shift)
        return halved(gap.mul_(gap)) * weights[number]

    return _first_least(error, multipliers.shape[0])


def pick_integer(
    blocks: torch.Tensor, multipliers: torch.Tensor, weights: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """Number of the multiplier under which a block suits integers best; int32 ``[n]``.

    The error is the float32 sum of squares, see :func:`..nibbles.misfits`, times the weight.

    Args:
        blocks: values in the source's dtype, ``[n, width]``; width is a multiple of 16.
        multipliers: float32 ``[c, n]``.
        weights: likewise.
        low, high: the integers.
    """
    fused = _triton(blocks.device)
    if fused is not None:
        picked: torch.Tensor = fused.pick_integer(blocks, multipliers, weights, low, high)
        return picked
    values = blocks.float()

    def error(number: int) -> torch.Tensor:
        share = values * multipliers[number][:, None]
        gap = share - share.clamp(low, high).round_()
        terms = gap.mul_(gap).view(len(gap), -1, 16)
        sums = terms[:, 0]
        for k in range(1, terms.shape[1]):
            sums = sums + terms[:, k]
        return halved(sums) * weights[number]

    return _first_least(error, multipliers.shape[0])


def _first_least(error: Any, count: int) -> torch.Tensor:
    lowest_loss = error(0)
    chosen = torch.zeros_like(lowest_loss, dtype=torch.int32)
    for number in range(1, count):
        loss = error(number)
        better = loss < lowest_loss
        chosen.masked_fill_(better, number)
        lowest_loss = torch.where(better, loss, lowest_loss)
    return chosen


def _step(size: torch.Tensor, normal_bits: int, mantissa_shift: int) -> torch.Tensor:
    """See :func:`..lanes.to_step`."""
    exponent = (bits(size) & 0x7F800000).clamp_min_(normal_bits)
    magic = real(exponent + (mantissa_shift << 23))
    return (size + magic) - magic


def halved(terms: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension, of a power of two: halves are added to halves."""
    while (width := terms.shape[-1]) > 1:
        terms = terms[..., : width // 2] + terms[..., width // 2 :]
    return terms[..., 0]


@cache
def _triton(device: torch.device) -> Any:
    """The fused search, where it can run."""
    if device.type == "cpu" or find_spec("triton") is None:
        return None
    from . import search_triton

    return search_triton
