"""What the kernels share: blocks, their peaks, stored scales, codes of small floats. See :mod:`..lanes`."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from ..minifloat import PLAIN, Minifloat

__all__ = [
    "bits",
    "blocks",
    "edges",
    "encode8",
    "extremes",
    "fit",
    "next_up",
    "packed",
    "peaks",
    "real",
    "short_codes",
    "store",
    "unblocked",
]

_E8M0_BITS = 0x00400000
"""The bits of 2**-127, the smallest number of E8M0."""

_SUBNORMALS = (
    *(
        (kind.smallest_normal, kind.smallest_subnormal)
        for kind in (PLAIN["F32"], PLAIN["BF16"], PLAIN["F16"])
    ),
    (2.0**-126, 2.0**-127),
)
"""Smallest normal and subnormal number of each stored dtype, in the order of :data:`..lanes.STORED`."""


def blocks(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """``[R, K]`` as ``[r, height, k, width]``; incomplete blocks are filled with zeros."""
    rows, columns = values.shape
    low, right = -rows % height, -columns % width
    if low or right:
        values = torch.nn.functional.pad(values, (0, right, 0, low))
    return values.reshape((rows + low) // height, height, (columns + right) // width, width)


def unblocked(codes: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse of :func:`blocks`."""
    tall, wide = codes.shape[0] * codes.shape[1], codes.shape[2] * codes.shape[3]
    return codes.reshape(tall, wide)[:rows, :columns]


def extremes(cut: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest value of each block, ``[r, 1, k, 1]``, in the dtype of the values; NaN if any is."""
    low, high = torch.aminmax(cut, dim=3, keepdim=True)
    if cut.shape[1] > 1:
        low, high = low.amin(1, keepdim=True), high.amax(1, keepdim=True)
    return low, high


def peaks(cut: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of each block as float32, ``[r, 1, k, 1]``; NaN or infinite if any value is."""
    low, high = extremes(cut)
    return torch.maximum(-low, high).float().abs()


def bits(values: torch.Tensor) -> torch.Tensor:
    """The bits of float32 as int32."""
    return values.view(torch.int32)


def real(pattern: torch.Tensor) -> torch.Tensor:
    """The float32 of some bits."""
    return pattern.view(torch.float32)


def store(scale: torch.Tensor, stored: int) -> torch.Tensor:
    """See :func:`..lanes.store`."""
    if stored == 1:
        return scale.to(torch.bfloat16).float().clamp_min(PLAIN["BF16"].smallest_subnormal)
    if stored == 2:
        half = PLAIN["F16"]
        return scale.clamp_max(half.max).to(torch.float16).float().clamp_min(half.smallest_subnormal)
    if stored == 3:
        up = (bits(scale) + 0x7FFFFF) & ~0x7FFFFF
        return real(torch.where(bits(scale) > _E8M0_BITS, up, _E8M0_BITS))
    return scale.clamp_min(PLAIN["F32"].smallest_subnormal)


def next_up(scale: torch.Tensor, quotient: torch.Tensor, limit: float, stored: int) -> torch.Tensor:
    """The next larger number of the stored dtype, where a scale is among its subnormal numbers and a quotient
    by it is beyond a limit, see :func:`..lanes.fit`.
    """
    smallest_normal, smallest_subnormal = _SUBNORMALS[stored]
    return torch.where((scale < smallest_normal) & (quotient > limit), scale + smallest_subnormal, scale)


def fit(peak: torch.Tensor, largest: torch.Tensor, limit: float, stored: int) -> torch.Tensor:
    """See :func:`..lanes.fit`."""
    scale = store(peak / largest, stored)
    return torch.where(peak == 0, 1.0, next_up(scale, peak / scale, limit, stored))


_EIGHT = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def encode8(quotients: torch.Tensor, kind: str, largest: float) -> torch.Tensor:
    """Codes (uint8) of an 8-bit format, saturating; changes its argument."""
    return quotients.clamp_(-largest, largest).to(_EIGHT[kind]).view(torch.uint8)


def short_codes(quotients: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Codes (int32) of a format of 4 or 6 bits, saturating; ``limits`` are its :func:`edges`.

    Floats are looked up by their bits as signed integers: negative ones come first, from -0 down, then those
    from +0 up. So the sign of a zero is kept, and the place found is the code but for its first bit.
    """
    half = (limits.shape[0] + 1) // 2
    return torch.bucketize(bits(quotients), limits, out_int32=True).bitwise_xor_(half)


def packed(codes: torch.Tensor, width: int) -> torch.Tensor:
    """Codes of 4 or 6 bits (integers ``[n, K]``) as bytes ``[n, K * width / 8]``, see :mod:`..packing`."""
    if width == 4:
        return (codes[:, 0::2] + (codes[:, 1::2] << 4)).to(torch.uint8)
    four = codes[:, 0::4] | codes[:, 1::4] << 6 | codes[:, 2::4] << 12 | codes[:, 3::4] << 18
    return torch.stack([four, four >> 8, four >> 16], 2).bitwise_and_(0xFF).to(torch.uint8).flatten(1)


@cache
def edges(kind: Minifloat) -> torch.Tensor:
    """The last float, as int32 bits, that is rounded to each code but the last; in the order of such bits."""
    values = kind.values()[: 1 << (kind.bits - 1)]
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32).view(np.int32)
    middle = middle - np.arange(len(middle), dtype=np.int32) % 2  # a tie goes to the even code
    negative = (middle.view(np.uint32) | np.uint32(0x80000000)).view(np.int32)
    return torch.from_numpy(np.concatenate([negative, [np.int32(-1)], middle]).astype(np.int32))
