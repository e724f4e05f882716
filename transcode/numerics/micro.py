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
from .minifloat import FORMATS
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
_HALF_NORMAL = _U(0x00400000)
_E2M1, _E4M3 = FORMATS["e2m1"], FORMATS["e4m3fn"]
_E2M1_MAX = np.float32(_E2M1.max)
_FOUR = np.float32(4)
_E2M1_NORMAL_BITS, _E2M1_SHIFT, _E2M1_MAGIC = _E2M1.normal_bits, _E2M1.mantissa_shift, _E2M1.magic
_E4M3_MAX = np.float32(_E4M3.max)
_E4M3_SUBNORMAL = np.float32(_E4M3.smallest_subnormal)
_E4M3_NORMAL_BITS, _E4M3_SHIFT = _E4M3.normal_bits, _E4M3.mantissa_shift
_E4M3_BASE = _U((int(_E4M3_NORMAL_BITS) >> int(_E4M3_SHIFT)) + (int(_E4M3_SHIFT) << 23))
_E4M3_MAGIC = np.float32(2.0 ** int(_E4M3_SHIFT))
_GENTLE = np.float32(2.0**-60 / _E4M3.smallest_subnormal)
_SMALLEST_KEPT = np.float32(_E4M3.smallest_subnormal * _E2M1.smallest_subnormal / 2)
"""Under the smallest block scale, what up to there is rounded to zero."""

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
def scale_byte(peak: Any, mode: Any, largest: Any, emax: Any, mantissa_shift: Any) -> Any:
    """E8M0 code (uint32, 0 to 254) of the scale ``2**(code - 127)`` for a block with that largest magnitude.

    OCP Microscaling Formats 1.0 leaves the rounding open; these are the modes in use, all clamped at 2**-127:

    - rceil: the smallest power of two that is not below ``peak / largest``: nothing saturates;
    - floor: ``floor(log2(peak)) - emax``, the text of the standard: up to a quarter of a binade saturates;
    - even: the same, once the peak is rounded to the element's number of mantissa bits;
    - ceil: ``ceil(log2(peak)) - emax``.

    A block of zeros has code 0.

    Args:
        largest: largest value of the element format.
        emax: exponent (uint32) of its largest power of two.
        mantissa_shift: 23 minus its number of mantissa bits.
    """
    if mode == 0:
        u = bits(peak / largest)
        up = u > _HALF_NORMAL if u <= _FRACTION else (u & _FRACTION) != _U(0)
        return _U(shr(u, _U(23)) + _U(up))
    u = bits(peak)
    if mode == 2:
        u = _U(u + shr(_U(1 << 22), _U(_U(23) - mantissa_shift)))
    exponent = shr(u, _U(23))
    if mode == 3:
        exponent = _U(exponent + _U((u & _FRACTION) != _U(0)))
    return _U(exponent - emax) if exponent > emax else _U(0)


@lane
def reciprocal(code: Any) -> Any:
    """``2**(127 - code)`` as float32."""
    return real(_U(_U(_U(254) - code) << _U(23))) if code < _U(254) else real(_HALF_NORMAL)


@lane
def misfit(x: Any, largest: Any, normal_bits: Any, mantissa_shift: Any) -> Any:
    """Squared error, as float32, of a block of values that are divided by their scale."""
    size = size_of(x)
    gap = size - to_step(at_most(size, largest), normal_bits, mantissa_shift)
    return total(gap * gap)


@kernel
def mx_search(
    values: Any, mode: int, largest: Any, emax: Any, normal_bits: Any, mantissa_shift: Any,
    factors: Any, scales: Any,
) -> bool:  # fmt: skip
    """Of the scale byte by :func:`scale_byte` and its two neighbours, that with the least squared error.

    Arguments and result as for :func:`mx`, of which this is the first half; the first wins a tie.
    """
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        blocks = scales[start // MX_BLOCK : (start + part.shape[0]) // MX_BLOCK]
        highest = values.dtype.type(0)
        for b in range(blocks.shape[0]):
            peak = peak32(part, b * MX_BLOCK)
            highest = larger(highest, peak)
            code = scale_byte(widen(peak), mode, largest, emax, mantissa_shift)
            factors[b] = np.float32(code)
            blocks[b] = np.uint8(code)
        if not widen(highest) < _INF:
            return False
        for b in range(blocks.shape[0]):
            first = np.int64(factors[b])
            x = values32(part, b * MX_BLOCK)
            least_error = _INF
            chosen = first
            for move in (0, -1, 1):
                code = first + move
                error = misfit(
                    x * reciprocal(_U(code if 0 <= code <= 254 else 0)), largest, normal_bits, mantissa_shift
                )
                # In units of the square of the first scale: no power of two can overflow.
                error = error * np.float32(4.0**move)
                better = move == 0 or (error < least_error and 0 <= code <= 254)
                least_error = error if better else least_error
                chosen = code if better else chosen  # no branch: which is better cannot be predicted
            blocks[b] = np.uint8(chosen)
    return True


@lane
def mx_code(x: Any, width: Any, largest: Any, normal_bits: Any, mantissa_shift: Any, magic: Any) -> Any:
    """Codes of values that are divided by their scale."""
    return with_sign(encode(at_most(size_of(x), largest), normal_bits, mantissa_shift, magic), x, width)


@kernel
def mx(
    values: Any, mode: int, has_scales: bool, width: int,
    largest: Any, emax: Any, normal_bits: Any, mantissa_shift: Any, magic: Any,
    factors: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """``scale = 2**(byte - 127)`` by :func:`scale_byte`, ``code = rne(x / scale)``, saturating; blocks of 32.

    Args:
        values: bits ``[n]``, n a multiple of 32, see :func:`.lanes.widen`.
        mode: one of :data:`MODES`.
        has_scales: whether ``scales`` hold the scales already.
        width: bits of a code: 8, 6 or 4.
        largest, emax, mantissa_shift: the element format, see :func:`scale_byte`.
        normal_bits, magic: the same, see :func:`.lanes.encode`.
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
        if has_scales:
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
                code = scale_byte(factors[b], mode, largest, emax, mantissa_shift)
                blocks[b] = np.uint8(code)
                factors[b] = reciprocal(code)
        for b in range(blocks.shape[0]):
            even, odd = columns32(part, b * MX_BLOCK)
            low = mx_code(even * factors[b], width, largest, normal_bits, mantissa_shift, magic)
            high = mx_code(odd * factors[b], width, largest, normal_bits, mantissa_shift, magic)
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
        encode(wanted if wanted < _E4M3_MAX else _E4M3_MAX, _E4M3_NORMAL_BITS, _E4M3_SHIFT, _E4M3_MAGIC)
        - _E4M3_BASE
    )


@lane
def nv_floored(code: Any, peak: Any, smallest_kept: Any) -> Any:
    """A block scale that was rounded to zero becomes the smallest there is, if that keeps any of its block.

    Args:
        smallest_kept: the smallest scale times 0.25, which is rounded to zero: peaks above it are kept.
    """
    return _U(code | _U(_U(code == _U(0)) & _U(peak > smallest_kept)))


@lane
def nv_value(code: Any) -> Any:
    """The value of a positive E4M3 code."""
    fraction = np.float32(code & _U(7))
    if code < _U(8):
        return fraction * _E4M3_SUBNORMAL
    return (np.float32(8) + fraction) * real(_U(_U(shr(code, _U(3)) + _U(117)) << _U(23)))


@kernel
def nv_search(values: Any, shared: Any, low: int, high: int, factors: Any, scales: Any) -> bool:
    """Of several E4M3 scales, that with the least squared error; the first wins a tie.

    Arguments and result as for :func:`nv`, of which this is the first half. A block of which even the
    smallest scale keeps nothing has scale 0.

    Args:
        low, high: try the codes from ``low`` below to ``high`` above the first one; with ``low = -1`` only
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
    smallest_kept = shared * _SMALLEST_KEPT
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
            blocks[b] = np.uint8(nv_floored(nv_scale((peak / _E2M1_MAX) / shared), peak, smallest_kept))
            peaks[b] = np.float32(nv_floored(nv_scale((peak / _FOUR) / shared), peak, smallest_kept))
        for b in range(blocks.shape[0]):
            first = np.int64(blocks[b])
            if first == 0:
                continue
            x = values16(part, b * NV_BLOCK)
            least_error = _INF
            chosen = first
            for attempt in range(tries):
                code = first
                if attempt > 0:
                    if low < 0:
                        code = np.int64(peaks[b])
                    else:
                        move = attempt - 1 - low if attempt <= low else attempt - low
                        code = max(first + np.int64(move), np.int64(1))
                        code = min(code, np.int64(_SCALES - 1))
                # A product with the reciprocal will do: this only judges.
                error = misfit(x * inverses[code], _E2M1_MAX, _E2M1_NORMAL_BITS, _E2M1_SHIFT) * squares[code]
                better = attempt == 0 or error < least_error
                least_error = error if better else least_error
                chosen = code if better else chosen  # no branch: which is better cannot be predicted
            blocks[b] = np.uint8(chosen)
    return True


@lane
def nv_code(x: Any, share: Any) -> Any:
    """E2M1 codes of the magnitudes of ``share``, with the signs of ``x``."""
    code = encode(at_most(size_of(share), _E2M1_MAX), _E2M1_NORMAL_BITS, _E2M1_SHIFT, _E2M1_MAGIC)
    return with_sign(code, x, _U(4))


@kernel
def nv(values: Any, shared: Any, has_scales: bool, factors: Any, codes: Any, scales: Any) -> bool:
    """``scale = rne_e4m3((peak / 6) / shared)``, ``code = rne_e2m1(x / (shared * scale))``; blocks of 16.

    A scale that was rounded to zero is 2**-9 instead, the smallest of E4M3, if that keeps any of its block.

    Args:
        values: bits ``[n]``, n a multiple of 16, see :func:`.lanes.widen`.
        shared: multiplier of the whole tensor, float32.
        has_scales: whether ``scales`` hold the scales already.
        factors: see :func:`work`.
        codes: uint8 ``[n / 2]``, written, low nibble first.
        scales: uint8 ``[n / 16]``, written: E4M3.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    gentle = shared >= _GENTLE  # then so is its product with the smallest scale
    smallest_kept = shared * _SMALLEST_KEPT
    nowhere = _ZERO if gentle else _INF  # what makes all quotients of a block zero, in either way to divide
    units = factors[: factors.shape[0] // 2]
    inverses = factors[factors.shape[0] // 2 :]
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        count = part.shape[0]
        blocks = scales[start // NV_BLOCK : (start + count) // NV_BLOCK]
        packed = codes[start // 2 : (start + count) // 2]
        if not has_scales:
            highest = values.dtype.type(0)
            for b in range(blocks.shape[0]):
                peak = peak16(part, b * NV_BLOCK)
                highest = larger(highest, peak)
                units[b] = widen(peak)
            if not widen(highest) < _INF:
                return False
            for b in range(blocks.shape[0]):
                peak = units[b]
                blocks[b] = np.uint8(nv_floored(nv_scale((peak / _E2M1_MAX) / shared), peak, smallest_kept))
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
