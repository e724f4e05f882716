"""The search of an E4M3 scale for each block of 16: of some about the plain one, that which loses least.

All are judged at once by bounds of :mod:`.sweep`. Mostly one is left by them; where there are several, their
errors are found. A chunk of blocks goes through each step together: one block after the other, each would
wait for its own results, and the processor would guess which block has several left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import sweep
from .jit import lane
from .lanes import at_most, shr, size_of, to_step
from .minifloat import FORMATS
from .vectors import first_bit, least, numbers16, put16, total, values16, within

__all__ = ["SCALES", "best_scales", "nv_error"]

SCALES = 127
"""Codes of E4M3 that are positive numbers, or zero."""

_U = np.uint32
_BLOCK = 16
_INF = np.float32(np.inf)
_MOST = _U(65535)
_E2M1 = FORMATS["e2m1"]
_E2M1_MAX = np.float32(_E2M1.max)
_NORMAL_BITS, _MANTISSA_SHIFT = _E2M1.normal_bits, _E2M1.mantissa_shift


@lane
def nv_error(x: Any, code: Any, inverses: Any, squares: Any) -> Any:
    """Squared error of a block under a scale; a product with the reciprocal will do, as this only judges."""
    size = size_of(x * inverses[code])
    gap = size - to_step(at_most(size, _E2M1_MAX), _NORMAL_BITS, _MANTISSA_SHIFT)
    return total(gap * gap) * squares[code]


@lane
def window(first: Any, low: Any, high: Any) -> Any:
    """The least code that is tried, and how many are: from ``low`` below to ``high`` above the plain one."""
    least_code = max(first - low, np.int64(1))
    return least_code, min(first + high + 1, np.int64(SCALES)) - least_code


@lane
def put_bounds(
    part: Any,
    blocks: Any,
    low: Any,
    high: Any,
    peaks: Any,
    sweeping: Any,
    lowest: Any,
    table: Any,
    places: Any,
) -> Any:
    """Write bounds of what the scales that are tried lose, 16 to a block, over its places; 0 where nothing is
    known.
    """
    for b in range(blocks.shape[0]):
        sweep.look_up(part, b * _BLOCK, np.int64(blocks[b]) - low, lowest, places)
    for b in range(blocks.shape[0]):
        start = b * _BLOCK
        least_code, count = window(np.int64(blocks[b]), low, high)
        if sweeping and sweep.covers(least_code, peaks[b], lowest):
            put16(places, start, sweep.sums(_U(least_code), count, table, places, start))
        else:
            for k in range(_BLOCK):
                places[start + k] = 0


@lane
def best_scales(
    part: Any, blocks: Any, low: Any, high: Any, peaks: Any, sweeping: Any, exact: Any, lowest: Any,
    inverses: Any, squares: Any, table: Any, places: Any, numbers: Any,
) -> Any:  # fmt: skip
    """Put the scale with the least squared error in place of each plain one: the plain one if it is one of
    several, else the least of them; see :func:`.micro.nv`. Scales of 0 stay.

    Args:
        part: bits of the blocks.
        blocks: their plain scales, codes of E4M3.
        peaks: largest magnitudes.
        sweeping: whether the table of :mod:`.sweep` is filled.
        inverses, squares: of the scales, by code.
        places: uint16 ``[blocks * 16]``, overwritten.
        numbers: uint32 ``[blocks * 2]``, overwritten.
    """
    put_bounds(part, blocks, low, high, peaks, sweeping, lowest, table, places)
    several, masks = numbers[: blocks.shape[0]], numbers[blocks.shape[0] :]
    listed = np.int64(0)
    for b in range(blocks.shape[0]):
        first = np.int64(blocks[b])
        least_code, count = window(first, low, high)
        bounds = numbers16(places, b * _BLOCK)
        reach = _U(least(bounds) + sweep.SLACK)
        if not exact:
            reached = least_code + first_bit(within(bounds, least(bounds)))
            error = nv_error(values16(part, b * _BLOCK), reached, inverses, squares)
            reach = sweep.bound(error, _U(least_code))
        left = _U(within(bounds, min(reach, _MOST)) & _U(_U(1 << count) - _U(1)))
        # No branches: which blocks have several left cannot be predicted. So numbers are written always, and
        # counted where they are wanted.
        several[listed], masks[listed] = _U(b), _U(left | _U(_U(first) << _U(_BLOCK)))
        listed += np.int64(_U(left & _U(left - _U(1))) != _U(0)) & np.int64(first > 0)
        only = least_code + first_bit(left)
        blocks[b] = np.uint8(only if first > 0 else first)
    for k in range(listed):
        at, left = np.int64(several[k]), _U(masks[k] & _MOST)
        first = np.int64(shr(masks[k], _U(_BLOCK)))
        x = values16(part, at * _BLOCK)
        least_code, _ = window(first, low, high)
        least_error, chosen = _INF, first
        while left:
            code = least_code + first_bit(left)
            left = _U(left & _U(left - _U(1)))
            error = nv_error(x, code, inverses, squares)
            better = error < least_error or (error == least_error and code == first)
            least_error = error if better else least_error
            chosen = code if better else chosen
        blocks[at] = np.uint8(chosen)
