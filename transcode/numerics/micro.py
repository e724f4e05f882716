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
from . import sweep
from .edges import HIGHEST, LOWEST, by_words, codes16, codes32, codes_pair, edges16, room
from .jit import kernel, lane
from .lanes import at_most, bits, encode, larger, quotient, real, shr, size_of, to_step, widen, with_sign
from .minifloat import FORMATS
from .nv_search import SCALES, best_scales, nv_error
from .peaks import peak32, put_peaks16, put_peaks32
from .vectors import (
    columns16,
    columns32,
    fetch,
    halves16,
    pack4,
    pack6,
    pack8,
    total,
    values16,
    values32,
)

__all__ = ["MODES", "MX_BLOCK", "NV_BLOCK", "mx", "mx_search", "nv", "nv_work", "search_work", "work"]

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
_TWO, _FOUR, _QUARTER = np.float32(2), np.float32(4), np.float32(0.25)
_E2M1_NORMAL_BITS, _E2M1_SHIFT, _E2M1_MAGIC = _E2M1.normal_bits, _E2M1.mantissa_shift, _E2M1.magic
_E4M3_MAX = np.float32(_E4M3.max)
_E4M3_SUBNORMAL = np.float32(_E4M3.smallest_subnormal)
_E4M3_NORMAL_BITS, _E4M3_SHIFT = _E4M3.normal_bits, _E4M3.mantissa_shift
_E4M3_BASE = _U((int(_E4M3_NORMAL_BITS) >> int(_E4M3_SHIFT)) + (int(_E4M3_SHIFT) << 23))
_E4M3_MAGIC = np.float32(2.0 ** int(_E4M3_SHIFT))
_GENTLE = np.float32(2.0**-60 / _E4M3.smallest_subnormal)
_SMALLEST_KEPT = np.float32(_E4M3.smallest_subnormal * _E2M1.smallest_subnormal / 2)
"""Under the smallest block scale, what up to there is rounded to zero."""

_WORDS_FROM, _WORDS_TO = (_U(int(np.log2(unit)) + 127) for unit in (LOWEST, HIGHEST))
"""E8M0 codes of units for which :mod:`.edges` has edges."""
_WORDS_SHARED = np.float32(HIGHEST / _E4M3.max)

_CHUNK = 2048

_AT_ONCE = 16
"""Blocks whose edges are found at once; what memory there is for a chunk is a multiple of that."""

Array = NDArray[Any]


def work(scratch: Scratch) -> tuple[Array, Array]:
    """What the encoder of MX needs for itself: factors, and edges of codes."""
    blocks = _CHUNK // MX_BLOCK
    return scratch.take((blocks,), np.float32), room(blocks, scratch)


def search_work(scratch: Scratch) -> tuple[Array, Array]:
    """What the search of MX needs for itself: peaks and errors, and numbers of blocks."""
    blocks = _CHUNK // MX_BLOCK
    return scratch.take((2 * blocks,), np.float32), scratch.take((2 * blocks,), np.int32)


def nv_work(scratch: Scratch) -> tuple[Array, Array, Array, Array, Array]:
    """The same for :func:`nv`: factors, edges, a table of :mod:`.sweep`, places in it, numbers of blocks."""
    return (
        scratch.take((2 * SCALES + 2 * _CHUNK // NV_BLOCK,), np.float32),
        room(_CHUNK // NV_BLOCK, scratch),
        sweep.table(scratch),
        scratch.take((_CHUNK,), np.uint16),
        scratch.take((2 * _CHUNK // NV_BLOCK,), np.uint32),
    )


@lane
def scale_byte(peak: Any, mode: Any, largest: Any, emax: Any, mantissa_shift: Any) -> Any:
    """E8M0 code (uint32, 0 to 254) of the scale ``2**(code - 127)`` for a block with that largest magnitude.

    OCP Microscaling Formats 1.0 leaves the rounding open; these are the modes in use, all clamped at 2**-127,
    and above at :func:`top_code`:

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
        return min(_U(shr(u, _U(23)) + _U(up)), top_code(emax))
    u = bits(peak)
    if mode == 2:
        u = _U(u + shr(_U(1 << 22), _U(_U(23) - mantissa_shift)))
    exponent = shr(u, _U(23))
    if mode == 3:
        exponent = _U(exponent + _U((u & _FRACTION) != _U(0)))
    return min(_U(exponent - emax), top_code(emax)) if exponent > emax else _U(0)


@lane
def top_code(emax: Any) -> Any:
    """E8M0 code (uint32) of the largest scale under which no code is infinite in float32."""
    return _U(_U(254) - emax)


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
    floats: Any, numbers: Any, scales: Any,
) -> bool:  # fmt: skip
    """Of the scale byte by :func:`scale_byte` and its two neighbours, that with the least squared error.

    The first wins a tie, then the lower one. Only those are tried that may be better: the lower one, where
    what it cuts off of the largest value alone is less than the error that there is; the upper one, where the
    largest value is cut off already. Under twice a scale that holds all values nothing is nearer, as all its
    codes but the largest are those of the smaller one.

    Args:
        values, mode, largest, emax, normal_bits, mantissa_shift, scales: see :func:`mx`, of which this is the
            first half.
        floats, numbers: see :func:`search_work`.

    Returns:
        Whether all values were finite; otherwise the output is incomplete.
    """
    errors = floats[_CHUNK // MX_BLOCK :]
    raised = numbers[_CHUNK // MX_BLOCK :]
    cut_off = real(_U(bits(largest) + shr(_U(1 << 22), _U(_U(23) - mantissa_shift))))
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        blocks = scales[start // MX_BLOCK : (start + part.shape[0]) // MX_BLOCK]
        highest = values.dtype.type(0)
        for b in range(blocks.shape[0]):
            peak = peak32(part, b * MX_BLOCK)
            highest = larger(highest, peak)
            floats[b] = widen(peak)
        if not widen(highest) < _INF:
            return False
        for b in range(blocks.shape[0]):
            code = scale_byte(floats[b], mode, largest, emax, mantissa_shift)
            blocks[b] = np.uint8(code)
            floats[b] = floats[b] * reciprocal(code)
        lower, upper = np.int64(0), np.int64(0)
        for b in range(blocks.shape[0]):
            code, share = _U(blocks[b]), floats[b]
            x = values32(part, b * MX_BLOCK)
            error = misfit(x * reciprocal(code), largest, normal_bits, mantissa_shift)
            errors[b] = error
            over = max(share * _TWO - largest, _ZERO)
            # Numbers are written always, and counted where they are wanted: that cannot be predicted.
            numbers[lower] = np.int32(b)
            lower += np.int64(over * over * _QUARTER < error) & np.int64(code > _U(0))
            raised[upper] = np.int32(b)
            upper += np.int64(share > cut_off) & np.int64(code < top_code(emax))
        # In units of the square of the first scale: no power of two can overflow.
        for k in range(lower):
            at = np.int64(numbers[k])
            lower_code = _U(blocks[at] - 1)
            x = values32(part, at * MX_BLOCK)
            error = misfit(x * reciprocal(lower_code), largest, normal_bits, mantissa_shift) * _QUARTER
            better = error < errors[at]
            blocks[at] = np.uint8(lower_code) if better else blocks[at]
            errors[at] = error if better else errors[at]
        for k in range(upper):
            at = np.int64(raised[k])
            code = (
                np.int64(scale_byte(widen(peak32(part, at * MX_BLOCK)), mode, largest, emax, mantissa_shift))
                + 1
            )
            x = values32(part, at * MX_BLOCK)
            error = misfit(x * reciprocal(_U(code)), largest, normal_bits, mantissa_shift) * _FOUR
            blocks[at] = np.uint8(code) if error < errors[at] else blocks[at]
    return True


@lane
def mx_code(x: Any, width: Any, largest: Any, normal_bits: Any, mantissa_shift: Any, magic: Any) -> Any:
    """Codes of values that are divided by their scale."""
    return with_sign(encode(at_most(size_of(x), largest), normal_bits, mantissa_shift, magic), x, width)


@kernel
def mx(
    values: Any, mode: int, has_scales: bool, width: int,
    largest: Any, emax: Any, normal_bits: Any, mantissa_shift: Any, magic: Any,
    factors: Any, words: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """``scale = 2**(byte - 127)`` by :func:`scale_byte`, ``code = rne(x / scale)``, saturating; blocks of 32.

    Args:
        values: bits ``[n]``, n a multiple of 32, see :func:`.lanes.widen`.
        mode: one of :data:`MODES`.
        has_scales: whether ``scales`` hold the scales already.
        width: bits of a code: 8, 6 or 4.
        largest, emax, mantissa_shift: the element format, see :func:`scale_byte`.
        normal_bits, magic: the same, see :func:`.lanes.encode`.
        factors, words: see :func:`work`.
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
        wordy = by_words(values) and width == 4
        if has_scales:
            for b in range(blocks.shape[0]):
                code = _U(blocks[b])
                factors[b] = reciprocal(code)
                wordy &= code >= _WORDS_FROM and code <= _WORDS_TO
        else:
            if not put_peaks32(part, blocks.shape[0], factors):
                return False
            for b in range(blocks.shape[0]):
                peak = factors[b]
                code = scale_byte(peak, mode, largest, emax, mantissa_shift)
                blocks[b] = np.uint8(code)
                factors[b] = reciprocal(code)
                wordy &= (code >= _WORDS_FROM and code <= _WORDS_TO) or peak == _ZERO
        if wordy:
            for b in range(blocks.shape[0]):
                factors[b] = real(_U(_U(blocks[b]) << _U(23)))
            for b in range(0, blocks.shape[0], _AT_ONCE):
                edges16(factors, words, b)
            for b in range(blocks.shape[0]):
                fetch(part, b * MX_BLOCK + _CHUNK)
                codes32(part, b * MX_BLOCK, words, b, packed, b * 16)
            continue
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


@lane
def nv_code(x: Any, share: Any) -> Any:
    """E2M1 codes of the magnitudes of ``share``, with the signs of ``x``."""
    code = encode(at_most(size_of(share), _E2M1_MAX), _E2M1_NORMAL_BITS, _E2M1_SHIFT, _E2M1_MAGIC)
    return with_sign(code, x, _U(4))


@lane
def nv_share(x: Any, unit: Any, inverse: Any, gentle: Any) -> Any:
    """``x / unit``, in the quicker way where it is as right."""
    return quotient(x, unit, inverse) if gentle else x / unit


@kernel
def nv(
    values: Any, shared: Any, has_scales: bool, low: int, high: int, exact: bool,
    factors: Any, words: Any, table: Any, places: Any, numbers: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """``scale = rne_e4m3((peak / 6) / shared)``, ``code = rne_e2m1(x / (shared * scale))``; blocks of 16.

    A scale that was rounded to zero is 2**-9 instead, the smallest of E4M3, if that keeps any of its block.
    A block of which even that keeps nothing has scale 0.

    Args:
        values: bits ``[n]``, n a multiple of 16, see :func:`.lanes.widen`.
        shared: multiplier of the whole tensor, float32.
        has_scales: whether ``scales`` hold the scales already.
        low, high: else, try the codes from ``low`` below to ``high`` above the plain one; with ``low = -1``
            the one that maps the peak to 4 instead of 6. Kept is that with the least squared error, the first
            of those if several have it: the plain one, then from the lowest up.
        exact: whether values are BF16, see :func:`.sweep.fill`.
        factors, words, table, places, numbers: see :func:`nv_work`.
        codes: uint8 ``[n / 2]``, written, low nibble first.
        scales: uint8 ``[n / 16]``, written: E4M3.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    gentle = shared >= _GENTLE  # then so is its product with the smallest scale
    smallest_kept = shared * _SMALLEST_KEPT
    nowhere = _ZERO if gentle else _INF  # what makes all quotients of a block zero, in either way to divide
    # A hundred and some scales are all there are: their values cost as much as those of a few blocks.
    inverse_of = factors[:SCALES]
    square_of = factors[SCALES : 2 * SCALES]
    units = factors[2 * SCALES : 2 * SCALES + _CHUNK // NV_BLOCK]
    inverses = factors[2 * SCALES + _CHUNK // NV_BLOCK :]
    lowest = sweep.lowest_row(shared)
    sweeping = low > 0 and not has_scales and sweep.suits(shared)
    if sweeping:
        sweep.fill(shared, exact, table)
    if low != 0:
        for k in range(SCALES):
            value = nv_value(_U(k))
            inverse_of[k] = _ONE / (shared * value)
            square_of[k] = value * value
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        count = part.shape[0]
        blocks = scales[start // NV_BLOCK : (start + count) // NV_BLOCK]
        packed = codes[start // 2 : (start + count) // 2]
        if not has_scales:
            if not put_peaks16(part, blocks.shape[0], units):
                return False
            for b in range(blocks.shape[0]):
                peak = units[b]
                blocks[b] = np.uint8(nv_floored(nv_scale((peak / _E2M1_MAX) / shared), peak, smallest_kept))
            if low < 0:
                for b in range(blocks.shape[0]):
                    peak = units[b]
                    inverses[b] = np.float32(
                        nv_floored(nv_scale((peak / _FOUR) / shared), peak, smallest_kept)
                    )
                for b in range(blocks.shape[0]):
                    x = values16(part, b * NV_BLOCK)
                    first, other = np.int64(blocks[b]), np.int64(inverses[b])
                    better = nv_error(x, other, inverse_of, square_of) < nv_error(
                        x, first, inverse_of, square_of
                    )
                    blocks[b] = np.uint8(other if better and first > 0 else first)
            if low > 0:
                best_scales(
                    part, blocks, low, high, units, sweeping, exact, lowest, inverse_of, square_of,
                    table, places, numbers,
                )  # fmt: skip
        if by_words(values) and gentle and shared <= _WORDS_SHARED:
            for b in range(blocks.shape[0]):
                units[b] = shared * nv_value(_U(blocks[b]))
            for b in range(0, blocks.shape[0], _AT_ONCE):
                edges16(units, words, b)
            for b in range(0, blocks.shape[0] & ~1, 2):
                fetch(part, b * NV_BLOCK + _CHUNK)
                codes_pair(part, b * NV_BLOCK, words, b, packed, b * 8)
            for b in range(blocks.shape[0] & ~1, blocks.shape[0]):
                codes16(part, b * NV_BLOCK, words, b, packed, b * 8)
            continue
        for b in range(blocks.shape[0]):
            unit = shared * nv_value(_U(blocks[b]))
            units[b] = unit if unit > _ZERO else nowhere
            inverses[b] = _ONE / unit if unit > _ZERO else _ZERO
        pairs = blocks.shape[0] & ~1
        for b in range(0, pairs, 2):
            even, odd = columns32(part, b * NV_BLOCK)
            unit, inverse = halves16(units, b), halves16(inverses, b)
            low_codes = nv_code(even, nv_share(even, unit, inverse, gentle))
            high_codes = nv_code(odd, nv_share(odd, unit, inverse, gentle))
            pack4(packed, b * 8, low_codes, high_codes)
        for b in range(pairs, blocks.shape[0]):
            first_even, first_odd = columns16(part, b * NV_BLOCK)
            alone, inverse_alone = units[b], inverses[b]
            low_alone = nv_code(first_even, nv_share(first_even, alone, inverse_alone, gentle))
            high_alone = nv_code(first_odd, nv_share(first_odd, alone, inverse_alone, gentle))
            pack4(packed, b * 8, low_alone, high_alone)
    return True
