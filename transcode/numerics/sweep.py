"""Errors of many scales at once, from a table: which E4M3 scales of a block of 16 can be the best.

A row for each magnitude that BF16 has (or for all that begin with its bits), a column for each code of three
octaves of scales: the squared error of that value under that scale. All relative to an octave of the scales,
as a factor of two in both changes nothing. So sixteen rows added give the errors of sixteen scales, where
each scale alone would take as much. Entries are rounded down, and those of several values are the least of
them: the sums are lower bounds. A scale whose bound is above an error that another one reaches is out; what
is left, mostly one, is judged by its error in float32. So the choice is that of all scales tried.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .jit import lane
from .lanes import at_most, bits, real, shr, size_of, to_step
from .minifloat import FORMATS
from .vectors import gathered, places16

__all__ = [
    "LANES",
    "SLACK",
    "TABLE",
    "bound",
    "covers",
    "fill",
    "look_up",
    "lowest_row",
    "octave",
    "suits",
    "sums",
    "table",
]

LANES = 16
"""Scales whose errors are summed at once."""

SLACK = np.uint32(18)
"""What sums of exact rows may be below the errors they stand for: 16 roundings, and those of float32."""

_UNIT = np.float32(1024)
"""Entries are in units of the square of the octave's first scale over this."""

_ROWS = 800
"""From a quarter of an octave's first scale, up to which all codes are 0 under all scales, to 6.4 times the
largest that may be the plain one.
"""

_COLUMNS = 32
"""As many as 7 + LANES, and no row in two lines of a cache more than it must be."""
TABLE = _ROWS * _COLUMNS

_U = np.uint32
_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_QUARTER = np.float32(0.25)
_EIGHTH = np.float32(0.125)
_LARGEST_ENTRY = np.float32(65535)
_ROUNDED = np.float32(2)
_SAFE = np.float32(0.05)
_FIRST_NORMAL = 8
_GENTLE, _GENTLE_TOP = np.float32(2.0**-60), np.float32(2.0**60)
_E2M1 = FORMATS["e2m1"]
_E2M1_MAX = np.float32(_E2M1.max)
_NORMAL_BITS, _MANTISSA_SHIFT = _E2M1.normal_bits, _E2M1.mantissa_shift


def table(scratch: Scratch) -> NDArray[np.uint16]:
    """Room for a table."""
    return scratch.take((TABLE,), np.uint16)


@lane
def suits(shared: Any) -> Any:
    """Whether a table can be made for a multiplier: no value of interest is subnormal or infinite."""
    return shared >= _GENTLE and shared <= _GENTLE_TOP


@lane
def lowest_row(shared: Any) -> Any:
    """Bits (the upper 16 of float32, as uint32) of the first row's magnitude, for scales from 1 to 2."""
    return _U(shr(bits(shared * _QUARTER), _U(16)) - _U(1))


@lane
def fill(shared: Any, exact: Any, table: Any) -> Any:
    """Fill the table of a multiplier.

    Args:
        shared: multiplier of the whole tensor, float32.
        exact: whether a row stands for one value, as with BF16, not for all that begin with its bits.
        table: uint16 ``[TABLE]``, written.
    """
    lowest = lowest_row(shared)
    inverse = _ONE / shared
    for column in range(_COLUMNS):
        table[column] = 0  # all that is at most the first row's magnitude: 0 under all scales
    for row in range(1, _ROWS):
        low = real(_U(_U(lowest + _U(row)) << _U(16))) * inverse
        high = real(_U(_U(lowest + _U(row + 1)) << _U(16))) * inverse
        reach = _ZERO if exact else (high - low) * _HALF
        x = low + reach
        for column in range(_COLUMNS):
            scale = (_ONE + np.float32(column & 7) * _EIGHTH) * np.float32(1 << (column >> 3))
            share = x / scale
            gap = size_of(share - to_step(at_most(share, _E2M1_MAX), _NORMAL_BITS, _MANTISSA_SHIFT)) * scale
            gap = gap - reach
            entry = gap * gap * _UNIT - _SAFE
            entry = entry if gap > _ZERO and entry > _ZERO else _ZERO
            table[row * _COLUMNS + column] = np.uint16(entry if entry < _LARGEST_ENTRY else _LARGEST_ENTRY)


@lane
def octave(code: Any, lowest: Any) -> Any:
    """Bits of the magnitude of the first row where ``code`` (uint32, a normal number) is a scale of the first
    octave.
    """
    return _U(_U(lowest + _U(shr(code, _U(3)) << _U(7))) - _U(7 << 7))


@lane
def look_up(values: Any, start: Any, code: Any, lowest: Any, places: Any) -> Any:
    """Write where 16 values have their rows, for scales from ``code`` (int64) on."""
    places16(values, start, octave(_U(code), lowest), _U(_COLUMNS), places, start)


@lane
def sums(code: Any, count: Any, table: Any, places: Any, start: Any) -> Any:
    """Bounds of the errors of 16 values under ``count`` scales from ``code`` (uint32) on: uint16 vector."""
    return gathered(table, np.int64(code & _U(7)), count, places, start)


@lane
def covers(code: Any, peak: Any, lowest: Any) -> Any:
    """Whether the table has the errors of values up to ``peak`` under the scales from ``code`` (int64) on."""
    return code >= _FIRST_NORMAL and shr(bits(peak), _U(16)) < _U(octave(_U(code), lowest) + _U(_ROWS))


@lane
def bound(error: Any, code: Any) -> Any:
    """What the sum of a scale that may reach an error cannot be above; uint32.

    Args:
        error: squared error in units of the square of the multiplier.
        code: as for :func:`sums`.
    """
    unit = real(_U(_U(_U(127 + 7) - shr(code, _U(3))) << _U(23)))
    reached = error * unit * unit * _UNIT + _ROUNDED
    return _U(reached) if reached < _LARGEST_ENTRY else _U(65535)
