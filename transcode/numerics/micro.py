"""Kernels of the block formats: 32 values under a power of two (MX), 16 under an E4M3 scale (NVFP4).

Blocks are independent, so values are taken as one long line, a chunk at a time that stays in the nearest
cache: the peak of each block, then all the scales, in a loop that the compiler vectorises, then the codes. A
block's values stay in registers from the load to the packed bytes: passing them, or their scales spread out,
through memory takes as long as the arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .jit import kernel, lane
from .lanes import at_most, bits, encode, larger, quotient, real, shr, size_of, to_step, widen, with_sign
from .vectors import columns16, columns32, pack4, pack6, pack8, peak16, peak32, total, values16, values32

__all__ = ["MODES", "MX_BLOCK", "NV_BLOCK", "mx", "mx_search", "nv", "nv_search", "search_work", "work"]

MX_BLOCK = 32
NV_BLOCK = 16

MODES = {"rceil": 0, "floor": 1, "even": 2, "ceil": 3}
"""How a power-of-two scale is derived from the peak of its block, see :func:`scale_byte`."""

_U = np.uint32
_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_FRACTION = _U(0x007FFFFF)
_HALF_LEAST = _U(0x00400000)
_SIX = np.float32(6)
_FOUR = np.float32(4)
_E4M3_TOP = np.float32(448)
_E4M3_LEAST = np.float32(2.0**-6).view(_U)
_E4M3_DROP = _U(20)
_E4M3_BASE = _U((int(_E4M3_LEAST) >> 20) + (20 << 23))
_E4M3_RULER = np.float32(2.0**20)
_E2M1_LEAST = np.float32(1).view(_U)
_E2M1_DROP = _U(22)
_E2M1_RULER = _U(np.float32(2.0**22).view(_U) + _U(2)).view(np.float32)
_GENTLE = np.float32(2.0**-51)
_SEEN = np.float32(2.0**-11)
"""A quarter of the smallest E4M3 number."""


_SCALES = 127
"""Codes of E4M3 that are positive numbers, or zero."""

_CHUNK = 2048

Array = NDArray[Any]


def work(scratch: Scratch) -> tuple[Array]:
    """What the encoders need for themselves: factors."""
    return (scratch.take((2 * _CHUNK // NV_BLOCK,), np.float32),)


def search_work(scratch: Scratch) -> tuple[Array]:
    """What the searches need for themselves: factors."""
    return (scratch.take((2 * _SCALES + _CHUNK // NV_BLOCK,), np.float32),)


@lane
def scale_byte(peak: Any, mode: Any, top: Any, power: Any, drop: Any) -> Any:
    """E8M0 code (uint32, 0 to 254) of the scale ``2**(code - 127)`` for a block with that largest magnitude.

    OCP Microscaling Formats 1.0 leaves the rounding open; these are the modes in use, all clamped at 2**-127:

    - rceil: the least power of two that is not below ``peak / top``: nothing saturates;
    - floor: ``floor(log2(peak)) - power``, the text of the standard: up to a quarter of a binade saturates;
    - even: the same, once the peak is rounded to the element's number of mantissa bits;
    - ceil: ``ceil(log2(peak)) - power``.

    A block of zeros has code 0.

    Args:
        top: largest value of the element format.
        power: exponent (uint32) of its largest power of two.
        drop: 23 minus its number of mantissa bits.
    """
    if mode == 0:
        u = bits(peak / top)
        up = u > _HALF_LEAST if u <= _FRACTION else (u & _FRACTION) != _U(0)
        return _U(shr(u, _U(23)) + _U(up))
    u = bits(peak)
    if mode == 2:
        u = _U(u + shr(_U(1 << 22), _U(_U(23) - drop)))
    exponent = shr(u, _U(23))
    if mode == 3:
        exponent = _U(exponent + _U((u & _FRACTION) != _U(0)))
    return _U(exponent - power) if exponent > power else _U(0)


@lane
def reciprocal(code: Any) -> Any:
    """``2**(127 - code)`` as float32."""
    return real(_U(_U(_U(254) - code) << _U(23))) if code < _U(254) else real(_HALF_LEAST)


@lane
def misfit(x: Any, top: Any, least: Any, drop: Any) -> Any:
    """Squared error, as float32, of a block of values that are divided by their scale."""
    size = size_of(x)
    gap = size - to_step(at_most(size, top), least, drop)
    return total(gap * gap)


@kernel
def mx_search(
    values: Any, mode: int, top: Any, power: Any, least: Any, drop: Any, factors: Any, scales: Any
) -> bool:
    """Of the scale byte by :func:`scale_byte` and its two neighbours, that with the least squared error.

    Arguments and result as for :func:`mx`, of which this is the first half; the plain one wins a tie.
    """
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        blocks = scales[start // MX_BLOCK : (start + part.shape[0]) // MX_BLOCK]
        highest = values.dtype.type(0)
        for b in range(blocks.shape[0]):
            peak = peak32(part, b * MX_BLOCK)
            highest = larger(highest, peak)
            code = scale_byte(widen(peak), mode, top, power, drop)
            factors[b] = np.float32(code)
            blocks[b] = np.uint8(code)
        if not widen(highest) < _INF:
            return False
        for b in range(blocks.shape[0]):
            plain = np.int64(factors[b])
            x = values32(part, b * MX_BLOCK)
            best = _INF
            kept = plain
            for move in (0, -1, 1):
                code = plain + move
                error = misfit(x * reciprocal(_U(code if 0 <= code <= 254 else 0)), top, least, drop)
                # In units of the square of the first scale: no power of two can overflow.
                found = error * np.float32(4.0**move)
                better = move == 0 or (found < best and 0 <= code <= 254)
                best = found if better else best
                kept = code if better else kept  # no branch: which is better cannot be predicted
            blocks[b] = np.uint8(kept)
    return True


@lane
def mx_code(x: Any, width: Any, top: Any, least: Any, drop: Any, ruler: Any) -> Any:
    """Codes of values that are divided by their scale."""
    return with_sign(encode(at_most(size_of(x), top), least, drop, ruler), x, width)


@kernel
def mx(
    values: Any, mode: int, given: bool, width: int, top: Any, power: Any, least: Any, drop: Any, ruler: Any,
    factors: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """``scale = 2**(byte - 127)`` by :func:`scale_byte`, ``code = rne(x / scale)``, saturating; blocks of 32.

    Args:
        values: bits ``[n]``, n a multiple of 32, see :func:`lanes.widen`.
        mode: one of :data:`MODES`.
        given: whether ``scales`` hold the scales already.
        width: bits of a code: 8, 6 or 4.
        top, power, drop: the element format, see :func:`scale_byte`.
        least, ruler: the same, see :func:`lanes.encode`.
        factors: see :func:`work`.
        codes: uint8 ``[n * width / 8]``, written: low nibble first, or a little-endian stream of 6 bits.
        scales: uint8 ``[n / 32]``, written.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        count = part.shape[0]
        blocks = scales[start // MX_BLOCK : (start + count) // MX_BLOCK]
        packed = codes[start * width // 8 : (start + count) * width // 8]
        if given:
            for b in range(blocks.shape[0]):
                factors[b] = reciprocal(_U(blocks[b]))
        else:
            highest = values.dtype.type(0)
            for b in range(blocks.shape[0]):
                peak = peak32(part, b * MX_BLOCK)
                highest = larger(highest, peak)
                factors[b] = widen(peak)
            if not widen(highest) < _INF:
                return False
            for b in range(blocks.shape[0]):
                code = scale_byte(factors[b], mode, top, power, drop)
                blocks[b] = np.uint8(code)
                factors[b] = reciprocal(code)
        for b in range(blocks.shape[0]):
            even, odd = columns32(part, b * MX_BLOCK)
            low = mx_code(even * factors[b], width, top, least, drop, ruler)
            high = mx_code(odd * factors[b], width, top, least, drop, ruler)
            if width == 4:
                pack4(packed, b * 16, low, high)
            elif width == 8:
                pack8(packed, b * 32, low, high)
            else:
                pack6(packed, b * 24, low, high)
    return True


@lane
def nv_scale(wanted: Any) -> Any:
    """E4M3 code of a block scale."""
    return _U(
        encode(wanted if wanted < _E4M3_TOP else _E4M3_TOP, _E4M3_LEAST, _E4M3_DROP, _E4M3_RULER) - _E4M3_BASE
    )


@lane
def nv_floored(code: Any, peak: Any, seen: Any) -> Any:
    """A block scale that was rounded to zero becomes the smallest there is, if that keeps any of its block.

    Args:
        seen: what the smallest scale makes of the code for 0.25, which is rounded to zero: peaks above it
            are kept.
    """
    return _U(code | _U(_U(code == _U(0)) & _U(peak > seen)))


@lane
def nv_value(code: Any) -> Any:
    """The value of a positive E4M3 code."""
    fraction = np.float32(code & _U(7))
    if code < _U(8):
        return fraction * np.float32(2.0**-9)
    return (np.float32(8) + fraction) * real(_U(_U(shr(code, _U(3)) + _U(117)) << _U(23)))


@kernel
def nv_search(values: Any, shared: Any, low: int, high: int, factors: Any, scales: Any) -> bool:
    """Of several E4M3 scales, that with the least squared error; the plain one wins a tie.

    Arguments and result as for :func:`nv`, of which this is the first half. A block of which even the
    smallest scale keeps nothing has scale 0.

    Args:
        low, high: try the codes from ``low`` below to ``high`` above the plain one; with ``low = -1`` only
            the one that maps the peak to 4 instead of 6.
    """
    tries = 2 if low < 0 else low + high + 1
    # A hundred and some scales are all there are: their values cost as much as those of a few blocks.
    inverses = factors[:_SCALES]
    squares = factors[_SCALES : 2 * _SCALES]
    for k in range(_SCALES):
        value = nv_value(_U(k))
        inverses[k] = _ONE / (shared * value)
        squares[k] = value * value
    peaks = factors[2 * _SCALES :]
    seen = shared * _SEEN
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        blocks = scales[start // NV_BLOCK : (start + part.shape[0]) // NV_BLOCK]
        highest = values.dtype.type(0)
        for b in range(blocks.shape[0]):
            peak = peak16(part, b * NV_BLOCK)
            highest = larger(highest, peak)
            peaks[b] = widen(peak)
        if not widen(highest) < _INF:
            return False
        for b in range(blocks.shape[0]):
            peak = peaks[b]
            blocks[b] = np.uint8(nv_floored(nv_scale((peak / _SIX) / shared), peak, seen))
            peaks[b] = np.float32(nv_floored(nv_scale((peak / _FOUR) / shared), peak, seen))
        for b in range(blocks.shape[0]):
            plain = np.int64(blocks[b])
            if plain == 0:
                continue
            x = values16(part, b * NV_BLOCK)
            best = _INF
            kept = plain
            for attempt in range(tries):
                code = plain
                if attempt > 0:
                    if low < 0:
                        code = np.int64(peaks[b])
                    else:
                        move = attempt - 1 - low if attempt <= low else attempt - low
                        code = max(plain + np.int64(move), np.int64(1))
                        code = min(code, np.int64(_SCALES - 1))
                # A product with the reciprocal will do: this only judges.
                found = misfit(x * inverses[code], _SIX, _E2M1_LEAST, _E2M1_DROP) * squares[code]
                better = attempt == 0 or found < best
                best = found if better else best
                kept = code if better else kept  # no branch: which is better cannot be predicted
            blocks[b] = np.uint8(kept)
    return True


@lane
def nv_code(x: Any, share: Any) -> Any:
    """E2M1 codes of the magnitudes of ``share``, with the signs of ``x``."""
    code = encode(at_most(size_of(share), _SIX), _E2M1_LEAST, _E2M1_DROP, _E2M1_RULER)
    return with_sign(code, x, _U(4))


@kernel
def nv(values: Any, shared: Any, given: bool, factors: Any, codes: Any, scales: Any) -> bool:
    """``scale = rne_e4m3((peak / 6) / shared)``, ``code = rne_e2m1(x / (shared * scale))``; blocks of 16.

    A scale that was rounded to zero is 2**-9 instead, the smallest of E4M3, if that keeps any of its block.

    Args:
        values: bits ``[n]``, n a multiple of 16, see :func:`lanes.widen`.
        shared: multiplier of the whole tensor, float32.
        given: whether ``scales`` hold the scales already.
        factors: see :func:`work`.
        codes: uint8 ``[n / 2]``, written, low nibble first.
        scales: uint8 ``[n / 16]``, written: E4M3.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    gentle = shared >= _GENTLE  # then so is its product with the least scale, 2**-9
    seen = shared * _SEEN
    nowhere = _ZERO if gentle else _INF  # what makes all quotients of a block zero, in either way to divide
    units = factors[: factors.shape[0] // 2]
    inverses = factors[factors.shape[0] // 2 :]
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        count = part.shape[0]
        blocks = scales[start // NV_BLOCK : (start + count) // NV_BLOCK]
        packed = codes[start // 2 : (start + count) // 2]
        if not given:
            highest = values.dtype.type(0)
            for b in range(blocks.shape[0]):
                peak = peak16(part, b * NV_BLOCK)
                highest = larger(highest, peak)
                units[b] = widen(peak)
            if not widen(highest) < _INF:
                return False
            for b in range(blocks.shape[0]):
                peak = units[b]
                blocks[b] = np.uint8(nv_floored(nv_scale((peak / _SIX) / shared), peak, seen))
        for b in range(blocks.shape[0]):
            unit = shared * nv_value(_U(blocks[b]))
            units[b] = unit if unit > _ZERO else nowhere
            inverses[b] = _ONE / unit if unit > _ZERO else _ZERO
        for b in range(blocks.shape[0]):
            even, odd = columns16(part, b * NV_BLOCK)
            if gentle:
                low = nv_code(even, quotient(even, units[b], inverses[b]))
                high = nv_code(odd, quotient(odd, units[b], inverses[b]))
            else:
                low = nv_code(even, even / units[b])
                high = nv_code(odd, odd / units[b])
            pack4(packed, b * 8, low, high)
    return True
