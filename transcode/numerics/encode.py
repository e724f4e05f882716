"""What the schemes of blocks call: a search and the encoding, or codes and their packing, as one step.

A GPU does each with the values brought to it once; the processor in the kernels of :mod:`.micro`,
:mod:`.nibbles`, :mod:`.integer` and :mod:`.pack`, one after the other. Searches with weights of columns, of
signs and of zero points are the processor's (:mod:`.weighted`, :mod:`.nibble_scales`). numba on demand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .backend import dispatched
from .minifloat import Minifloat

__all__ = [
    "integers",
    "integers_signed",
    "integers_weighted",
    "integers_zeroed",
    "mx",
    "mx_weighted",
    "nv",
    "nv_weighted",
]

Array = NDArray[Any]


@dispatched
def mx(
    values: Array, kind: Minifloat, mode: str, search: bool, codes: Array, scales: Array, scratch: Scratch
) -> bool:
    """Blocks of 32 under powers of two.

    Args:
        values: bits ``[n]``, n a multiple of 32, see :func:`.rows.as_bits`.
        kind: format of the codes.
        mode: one of :data:`.micro.MODES`.
        search: whether to search, see :func:`.micro.mx_search`.
        codes: uint8 ``[n * kind.bits / 8]``, written.
        scales: uint8 ``[n / 32]``, written: E8M0.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    from . import micro

    number = micro.MODES[mode]
    largest, emax = np.float32(kind.max), np.uint32(kind.emax)
    if search and not micro.mx_search(
        values, number, largest, emax, kind.normal_bits, kind.mantissa_shift,
        *micro.search_work(scratch), scales,
    ):  # fmt: skip
        return False
    return bool(
        micro.mx(
            values, number, search, kind.bits,
            largest, emax, kind.normal_bits, kind.mantissa_shift, kind.magic,
            *micro.work(scratch), codes, scales,
        )
    )  # fmt: skip


@dispatched
def nv(
    values: Array, shared: Any, search: tuple[int, int] | None, codes: Array, scales: Array, scratch: Scratch
) -> bool:
    """Blocks of 16 under E4M3 scales under ``shared``.

    Args:
        values: bits ``[n]``, n a multiple of 16, see :func:`.rows.as_bits`.
        shared: multiplier of the whole tensor, float32.
        search: ``low`` and ``high`` of :func:`.micro.nv`, or None for the plain scales.
        codes: uint8 ``[n / 2]``, written, low nibble first.
        scales: uint8 ``[n / 16]``, written: E4M3.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    from . import micro

    return bool(
        micro.nv(
            values, shared, False, *(search or (0, 0)), values.dtype == np.uint16, *micro.nv_work(scratch),
            codes, scales,
        )
    )  # fmt: skip


@dispatched
def integers(
    groups: Array, stored: int, divisors: Array, codes: Array, scales: Array, zeros: Array | None,
    scratch: Scratch,
) -> bool:  # fmt: skip
    """Groups under scales as 4-bit integers, two in a byte, the first in the low nibble.

    Args:
        groups: bits ``[n, size]``, size a multiple of 32, see :func:`.rows.as_bits`.
        stored: dtype of the stored scale, :data:`.lanes.STORED`.
        divisors: see :func:`.nibbles.nibbles`, and :func:`.nibble_search.nibble_scales` for 32 and more; not
            used with zero points.
        codes: uint8 ``[n * size / 2]``, written.
        scales: float32 ``[n, 1]``, written; holds values of the stored dtype.
        zeros: int8 ``[n, 1]``, written, or None for symmetric codes.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    if zeros is None:
        from .nibble_search import AT_ONCE, nibble_scales, work
        from .nibbles import nibble_codes, nibbles

        values, size, each = groups.reshape(-1), groups.shape[1], scales.reshape(-1)
        if len(divisors) < AT_ONCE:
            return bool(nibbles(values, size, stored, divisors, codes, each))
        found = nibble_scales(values, size, stored, divisors, work(size, scratch), each)
        if found:
            nibble_codes(values, size, stored, codes, each)
        return bool(found)
    from .integer import with_zero
    from .pack import pack_nibbles

    wide = scratch.take(groups.shape, np.int8)
    finite = with_zero(groups, groups.shape[1], stored, np.float32(15), wide, scales, zeros)
    if finite:
        pack_nibbles(wide.reshape(-1).view(np.uint16), codes)
    return bool(finite)


def mx_weighted(
    values: Array, kind: Minifloat, mode: str, weights: Array, codes: Array, scales: Array, scratch: Scratch
) -> bool:
    """:func:`mx` with the scales of :func:`.weighted.mx_weighted`; weights float32 ``[K]``."""
    from . import micro, weighted

    number = micro.MODES[mode]
    largest, emax = np.float32(kind.max), np.uint32(kind.emax)
    if not weighted.mx_weighted(
        values, number, largest, emax, kind.normal_bits, kind.mantissa_shift,
        weighted.balanced(weights), scales,
    ):  # fmt: skip
        return False
    return bool(
        micro.mx(
            values, number, True, kind.bits,
            largest, emax, kind.normal_bits, kind.mantissa_shift, kind.magic,
            *micro.work(scratch), codes, scales,
        )
    )  # fmt: skip


def nv_weighted(
    values: Array, shared: Any, both: bool, weights: Array, codes: Array, scales: Array, scratch: Scratch
) -> bool:
    """:func:`nv` with the scales of :func:`.weighted.nv_weighted`; weights float32 ``[K]``."""
    from . import micro, weighted

    factors = weighted.nv_factors(scratch)
    if not weighted.nv_weighted(values, shared, both, weighted.balanced(weights), factors, scales):
        return False
    exact = values.dtype == np.uint16
    return bool(micro.nv(values, shared, True, 0, 0, exact, *micro.nv_work(scratch), codes, scales))


def integers_weighted(
    groups: Array, stored: int, divisors: Array, weights: Array, codes: Array, scales: Array, scratch: Scratch
) -> bool:
    """Symmetric :func:`integers` with the scales of :func:`.weighted.nibbles_weighted`; weights float32
    ``[K]``.
    """
    from .nibbles import nibble_codes
    from .weighted import balanced, nibbles_weighted, nibbles_work

    values, size = groups.reshape(-1), groups.shape[1]
    room = nibbles_work(size, len(divisors), scratch)
    found = nibbles_weighted(values, size, stored, divisors, balanced(weights), room, scales.reshape(-1))
    if found:
        nibble_codes(values, size, stored, codes, scales.reshape(-1))
    return bool(found)


def integers_signed(
    groups: Array, stored: int, divisors: Array, weights: Array, codes: Array, scales: Array, scratch: Scratch
) -> bool:
    """Symmetric :func:`integers` with the scales of :func:`.nibble_scales.signed_scales`; weights float32
    ``[K]``.
    """
    from .nibble_scales import signed_scales
    from .nibbles import nibble_codes
    from .weighted import balanced, nibbles_work

    values, size = groups.reshape(-1), groups.shape[1]
    room = nibbles_work(size, len(divisors), scratch)
    finite = signed_scales(values, size, stored, divisors, balanced(weights), room, scales.reshape(-1))
    if finite:
        nibble_codes(values, size, stored, codes, scales.reshape(-1))
    return bool(finite)


def integers_zeroed(
    groups: Array, stored: int, weights: Array, codes: Array, scales: Array, zeros: Array, scratch: Scratch
) -> bool:
    """:func:`integers` with the scales and zero points of :func:`.nibble_scales.zeroed_scales`; weights
    float32 ``[K]``.
    """
    from .nibble_scales import SHARES, zeroed_codes, zeroed_scales, zeroed_work
    from .weighted import balanced

    values, size = groups.reshape(-1), groups.shape[1]
    shares, room = np.array(SHARES, np.float32), zeroed_work(scratch)
    each, points = scales.reshape(-1), zeros.reshape(-1)
    finite = zeroed_scales(values, size, stored, shares, balanced(weights), room, each, points)
    if finite:
        zeroed_codes(values, size, stored, codes, each, points)
    return bool(finite)
