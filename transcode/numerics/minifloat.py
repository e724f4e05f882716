"""The small float formats: what their bits mean, as numbers and as tables. No numba here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMATS", "Minifloat"]


@dataclass(frozen=True, slots=True)
class Minifloat:
    """A float format of at most 8 bits with a sign, ``exponent`` and ``mantissa`` bits and subnormal numbers.

    Attributes:
        name: the definition's name, e.g. ``"e4m3fn"``.
        dtype: safetensors' name of the dtype that holds one code.
        exponent, mantissa: widths of the fields.
        bias: exponent bias.
        top: largest finite value.
        infinite: whether codes above ``top`` hold infinity and NaN as in IEEE 754 (e5m2); otherwise at most
            the code of all ones is NaN (``e4m3fn``), or none is (the 4- and 6-bit formats).
    """

    name: str
    dtype: str
    exponent: int
    mantissa: int
    bias: int
    top: float
    infinite: bool = False

    @property
    def bits(self) -> int:
        """Width of one code."""
        return 1 + self.exponent + self.mantissa

    @property
    def least_normal(self) -> float:
        """Smallest normal number."""
        return float(2.0 ** (1 - self.bias))

    @property
    def power(self) -> int:
        """Exponent of the largest power of two that the format holds."""
        return int(np.frexp(self.top)[1]) - 1

    @property
    def limit(self) -> float:
        """Half a step above :attr:`top`: where rounding to nearest would leave the format."""
        return self.top + 2.0 ** (self.power - self.mantissa - 1)

    @property
    def least_bits(self) -> np.uint32:
        """Float32 bits of :attr:`least_normal`, as ``lanes.encode`` wants them."""
        return np.float32(self.least_normal).view(np.uint32)

    @property
    def drop(self) -> np.uint32:
        """Mantissa bits that float32 has more, as ``lanes.encode`` wants them."""
        return np.uint32(23 - self.mantissa)

    @property
    def ruler(self) -> np.float32:
        """What ``lanes.encode`` needs so that the low 8 bits of its result are the code."""
        grow = -(int(self.least_bits) >> int(self.drop)) & 0xFF
        return np.uint32(np.float32(2.0 ** int(self.drop)).view(np.uint32) + grow).view(np.float32)

    def values(self) -> NDArray[np.float32]:
        """The value of each code, ``[2**bits]`` float32, read-only; what has no finite value is NaN or
        infinite.
        """
        values: NDArray[np.float32] = _values(self)
        return values


@cache
def _values(kind: Minifloat) -> NDArray[np.float32]:
    codes = np.arange(1 << kind.bits)
    fraction = codes & ((1 << kind.mantissa) - 1)
    exponent = (codes >> kind.mantissa) & ((1 << kind.exponent) - 1)
    implicit = np.where(exponent > 0, 1 << kind.mantissa, 0)
    size = np.ldexp(
        (implicit + fraction).astype(np.float64), np.maximum(exponent, 1) - kind.bias - kind.mantissa
    )
    beyond = size > kind.top
    size[beyond] = np.nan
    if kind.infinite:
        size[beyond & (fraction == 0)] = np.inf
    values: NDArray[np.float32] = np.where(codes >> (kind.bits - 1) != 0, -size, size).astype(np.float32)
    values.setflags(write=False)
    return values


FORMATS: dict[str, Minifloat] = {
    kind.name: kind
    for kind in (
        Minifloat("e4m3fn", "F8_E4M3", 4, 3, 7, 448.0),
        Minifloat("e5m2", "F8_E5M2", 5, 2, 15, 57344.0, infinite=True),
        Minifloat("e2m3", "F6_E2M3", 2, 3, 1, 7.5),
        Minifloat("e3m2", "F6_E3M2", 3, 2, 3, 28.0),
        Minifloat("e2m1", "F4", 2, 1, 1, 6.0),
    )
}
"""By name of the definition. Sources: OCP 8-bit Floating Point Specification 1.0 and OCP Microscaling Formats
1.0.
"""
