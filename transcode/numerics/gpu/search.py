"""Which of several scales suits a block best: the first of those with the least squared error.

Errors are float64 sums, taken value by value in the order of the CPU's kernels, so that near ties fall alike.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from .arithmetic import bits, real

__all__ = ["FLOAT", "INTEGER", "SCALED_FLOAT", "pick", "pick_cost"]

INTEGER, FLOAT, SCALED_FLOAT = 0, 1, 2
"""What a candidate is, and the error under it: of :func:`..integer.error`, a scale; of
:func:`..micro.mx_error`, the reciprocal of a power of two; of :func:`..micro.nv_error`, a scale that may be
zero.
"""


def pick_cost(device: torch.device) -> int:
    """Bytes of device memory that a kernel with a search takes for each value."""
    return 64 if _triton(device) is None else 40


def pick(
    blocks: torch.Tensor, candidates: torch.Tensor, what: int, top: float, least: int, drop: int
) -> torch.Tensor:
    """Number of the best candidate for each block; int32 ``[n]``.

    Args:
        blocks: values in the source's dtype, ``[n, width]``.
        candidates: float32 ``[c, n]``; NaN is never picked.
        what: INTEGER, FLOAT or SCALED_FLOAT.
        top: largest code or value.
        least, drop: of a float format, see :func:`..lanes.to_step`.
    """
    fused = _triton(blocks.device)
    if fused is not None:
        picked: torch.Tensor = fused.pick(blocks, candidates, what, top, least, drop)
        return picked
    chosen = torch.zeros(blocks.shape[0], dtype=torch.int32, device=blocks.device)
    lowest = _error(blocks, candidates[0], what, top, least, drop)
    for number in range(1, candidates.shape[0]):
        found = _error(blocks, candidates[number], what, top, least, drop)
        better = found < lowest
        chosen.masked_fill_(better, number)
        lowest = torch.where(better, found, lowest)
    return chosen


def _error(
    blocks: torch.Tensor, candidate: torch.Tensor, what: int, top: float, least: int, drop: int
) -> torch.Tensor:
    """Squared error of each block, float64 ``[n]``; as ``search_triton`` computes it."""
    values = blocks.float()
    scale = candidate[:, None]
    if what == INTEGER:
        code = (values / scale).clamp_(-top, top).round_()
        gap = values.double() - code.double() * scale.double()
        return _total(gap)
    if what == FLOAT:
        size = (values * scale).abs_()
        unit = 1.0 / candidate.double()  # a power of two: exact
        return _total((size - _step(size.clamp_max(top), least, drop)).double()) * unit * unit
    exact = values.abs().double()
    size = torch.where(scale > 0, (exact / scale.double()).float(), 0.0)
    return _total(exact - _step(size.clamp_max_(top), least, drop).double() * scale.double())


def _step(size: torch.Tensor, least: int, drop: int) -> torch.Tensor:
    """See :func:`..lanes.to_step`."""
    exponent = (bits(size) & 0x7F800000).clamp_min_(least)
    ruler = real(exponent + (drop << 23))
    return (size + ruler) - ruler


def _total(gaps: torch.Tensor) -> torch.Tensor:
    squares = (gaps * gaps).t().contiguous()
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    return total


@cache
def _triton(device: torch.device) -> Any:
    """The fused search, where it can run."""
    if device.type == "cpu" or find_spec("triton") is None:
        return None
    from . import search_triton

    return search_triton
