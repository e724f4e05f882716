"""Kernels of the block formats: 32 values under a power of two (MX), 16 under an E4M3 scale (NVFP4).

Blocks are independent, so values are taken as one long line, a chunk at a time that stays in the nearest
cache: the scale of each block, then the codes, then their packing, each a loop over the chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .jit import kernel, lane
from .lanes import (
    bits,
    encode,
    fill16,
    fill32,
    larger,
    peak16,
    peak32,
    quotient,
    real,
    shr,
    size_of,
    to_step,
    total16,
    total32,
    widen,
)

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


_CHUNK = 2048

Array = NDArray[Any]


def work(scratch: Scratch) -> tuple[Array, Array, Array]:
    """What the encoders need for themselves: factors, wide, line."""
    return (
        scratch.take((2 * _CHUNK // NV_BLOCK,), np.float32),
        scratch.take((2 * _CHUNK,), np.float32),
        scratch.take((_CHUNK // 4,), np.uint32),
    )


def search_work(scratch: Scratch) -> tuple[Array, Array, Array, Array]:
    """What the searches need for themselves: factors, wide, errors, best."""
    blocks = _CHUNK // NV_BLOCK
    return tuple(scratch.take((size,), np.float32) for size in (blocks, _CHUNK, _CHUNK, blocks))  # type: ignore[return-value]


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


@kernel
def mx_search(
    values: Any, mode: int, top: Any, power: Any, least: Any, drop: Any,
    factors: Any, wide: Any, errors: Any, best: Any, scales: Any,
) -> bool:  # fmt: skip
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
        for move in (0, -1, 1):
            for b in range(blocks.shape[0]):
                code = np.int64(factors[b]) + move
                fill32(wide, b * MX_BLOCK, reciprocal(_U(code if 0 <= code <= 254 else 0)))
            for j in range(part.shape[0]):
                size = size_of(widen(part[j]) * wide[j])
                gap = size - to_step(size if size < top else top, least, drop)
                errors[j] = gap * gap
            for b in range(blocks.shape[0]):
                # In units of the square of the first scale: no power of two can overflow.
                found = total32(errors, b * MX_BLOCK) * np.float32(4.0**move)
                code = np.int64(factors[b]) + move
                if move == 0 or (found < best[b] and 0 <= code <= 254):
                    best[b] = found
                    blocks[b] = np.uint8(code)
    return True


@kernel
def mx(
    values: Any, mode: int, given: bool, width: int, top: Any, power: Any, least: Any, drop: Any, ruler: Any,
    factors: Any, wide: Any, line: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """``scale = 2**(byte - 127)`` by :func:`scale_byte`, ``code = rne(x / scale)``, saturating; blocks of 32.

    Args:
        values: bits ``[n]``, n a multiple of 32, see :func:`lanes.widen`.
        mode: one of :data:`MODES`.
        given: whether ``scales`` hold the scales already.
        width: bits of a code: 8, 6 or 4.
        top, power, drop: the element format, see :func:`scale_byte`.
        least, ruler: the same, see :func:`lanes.encode`.
        factors, wide, line: see :func:`work`.
        codes: uint8 ``[n * width / 8]``, written: low nibble first, or a little-endian stream of 6 bits.
        scales: uint8 ``[n / 32]``, written.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    shift = _U(32 - width)
    sign = _U(1 << (width - 1))
    own = line.view(np.uint8)
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
            fill32(wide, b * MX_BLOCK, factors[b])
        out = packed if width == 8 else own[:count]
        if mode == 0 and not given:  # nothing is above the largest value
            for j in range(count):
                y = widen(part[j]) * wide[j]
                code = encode(size_of(y), least, drop, ruler)
                out[j] = np.uint8(code | _U(shr(bits(y), shift) & sign))
        else:
            for j in range(count):
                y = widen(part[j]) * wide[j]
                size = size_of(y)
                code = encode(size if size < top else top, least, drop, ruler)
                out[j] = np.uint8(code | _U(shr(bits(y), shift) & sign))
        if width != 8:
            pack_line(line[: count // 4], width, packed)
    return True


@lane
def pack_line(line: Any, width: Any, out: Any) -> None:
    """Codes of one row, one to a byte (given as uint32, four together), packed to ``width`` bits."""
    if width == 4:
        pairs = line.view(np.uint16)
        for k in range(out.shape[0]):
            pair = pairs[k]
            out[k] = np.uint8(pair | (pair >> 4))
    else:
        for k in range(line.shape[0]):
            four = line[k]
            packed = _U(four & _U(0x3F)) | _U(_U(four >> _U(2)) & _U(0xFC0))
            packed |= _U(_U(four >> _U(4)) & _U(0x3F000)) | _U(_U(four >> _U(6)) & _U(0xFC0000))
            out[3 * k] = np.uint8(packed)
            out[3 * k + 1] = np.uint8(packed >> _U(8))
            out[3 * k + 2] = np.uint8(packed >> _U(16))


@lane
def nv_scale(wanted: Any) -> Any:
    """E4M3 code of a block scale."""
    return _U(
        encode(wanted if wanted < _E4M3_TOP else _E4M3_TOP, _E4M3_LEAST, _E4M3_DROP, _E4M3_RULER) - _E4M3_BASE
    )


@lane
def nv_value(code: Any) -> Any:
    """The value of a positive E4M3 code."""
    fraction = np.float32(code & _U(7))
    if code < _U(8):
        return fraction * np.float32(2.0**-9)
    return (np.float32(8) + fraction) * real(_U(_U(shr(code, _U(3)) + _U(117)) << _U(23)))


@lane
def nv_try(peak: Any, shared: Any, attempt: Any, low: Any) -> Any:
    """The E4M3 code to try: first the plain one."""
    plain = nv_scale((peak / _SIX) / shared)
    if attempt == 0:
        return plain
    if low < 0:
        return nv_scale((peak / _FOUR) / shared)
    move = attempt - 1 - low if attempt <= low else attempt - low
    return _U(min(max(np.int64(plain) + move, 1), 126))


@kernel
def nv_search(
    values: Any,
    shared: Any,
    low: int,
    high: int,
    factors: Any,
    wide: Any,
    errors: Any,
    best: Any,
    scales: Any,
) -> bool:
    """Of several E4M3 scales, that with the least squared error; the plain one wins a tie.

    Arguments and result as for :func:`nv`, of which this is the first half. A block whose plain scale
    underflows keeps it.

    Args:
        low, high: try the codes from ``low`` below to ``high`` above the plain one; with ``low = -1`` only
            the one that maps the peak to 4 instead of 6.
    """
    tries = 2 if low < 0 else low + high + 1
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        blocks = scales[start // NV_BLOCK : (start + part.shape[0]) // NV_BLOCK]
        highest = values.dtype.type(0)
        for b in range(blocks.shape[0]):
            peak = peak16(part, b * NV_BLOCK)
            highest = larger(highest, peak)
            factors[b] = widen(peak)
        if not widen(highest) < _INF:
            return False
        for attempt in range(tries):
            for b in range(blocks.shape[0]):
                unit = shared * nv_value(nv_try(factors[b], shared, attempt, low))
                fill16(wide, b * NV_BLOCK, _ONE / unit)
            for j in range(part.shape[0]):
                # A product with the reciprocal will do: this only judges.
                size = size_of(widen(part[j]) * wide[j])
                gap = size - to_step(size if size < _SIX else _SIX, _E2M1_LEAST, _E2M1_DROP)
                errors[j] = gap * gap
            for b in range(blocks.shape[0]):
                code = nv_try(factors[b], shared, attempt, low)
                value = nv_value(code)
                found = total16(errors, b * NV_BLOCK) * (value * value)
                if attempt == 0 or (found < best[b] and blocks[b] != np.uint8(0)):
                    best[b] = found
                    blocks[b] = np.uint8(code)
    return True


@lane
def nv_code(x: Any, size: Any) -> Any:
    """E2M1 code of a magnitude, with the sign of ``x``."""
    code = encode(size if size < _SIX else _SIX, _E2M1_LEAST, _E2M1_DROP, _E2M1_RULER)
    return np.uint8(_U(code & _U(7)) | _U(shr(bits(x), _U(28)) & _U(8)))


@kernel
def nv(
    values: Any, shared: Any, given: bool,
    factors: Any, wide: Any, line: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """``scale = rne_e4m3((peak / 6) / shared)``, ``code = rne_e2m1(x / (shared * scale))``; blocks of 16.

    Args:
        values: bits ``[n]``, n a multiple of 16, see :func:`lanes.widen`.
        shared: multiplier of the whole tensor, float32.
        given: whether ``scales`` hold the scales already.
        factors, wide, line: see :func:`work`.
        codes: uint8 ``[n / 2]``, written, low nibble first.
        scales: uint8 ``[n / 16]``, written: E4M3.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    own = line.view(np.uint8)
    gentle = shared >= _GENTLE  # then so is its product with the least scale, 2**-9
    units = factors[: factors.shape[0] // 2]
    inverses = factors[factors.shape[0] // 2 :]
    wide_units = wide[:_CHUNK]
    wide_inverses = wide[_CHUNK:]
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        count = part.shape[0]
        blocks = scales[start // NV_BLOCK : (start + count) // NV_BLOCK]
        if not given:
            highest = values.dtype.type(0)
            for b in range(blocks.shape[0]):
                peak = peak16(part, b * NV_BLOCK)
                highest = larger(highest, peak)
                units[b] = widen(peak)
            if not widen(highest) < _INF:
                return False
            for b in range(blocks.shape[0]):
                blocks[b] = np.uint8(nv_scale((units[b] / _SIX) / shared))
        for b in range(blocks.shape[0]):
            unit = shared * nv_value(_U(blocks[b]))
            units[b] = unit
            inverses[b] = _ONE / unit if unit > _ZERO else _ZERO
        for b in range(blocks.shape[0]):
            fill16(wide_units, b * NV_BLOCK, units[b])
            fill16(wide_inverses, b * NV_BLOCK, inverses[b])
        if gentle:
            for j in range(count):
                x = widen(part[j])
                own[j] = nv_code(x, size_of(quotient(x, wide_units[j], wide_inverses[j])))
        else:
            for j in range(count):
                x = widen(part[j])
                own[j] = nv_code(x, size_of(x / wide_units[j]) if wide_units[j] > _ZERO else _ZERO)
        pack_line(line[: count // 4], 4, codes[start // 2 : (start + count) // 2])
    return True
