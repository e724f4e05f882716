"""The float formats, described once: what their bits mean, as numbers and as tables. No numba here.

Facts have the names of ``ml_dtypes.finfo`` (``nexp``, ``nmant``, ``max``, ``smallest_normal``,
``smallest_subnormal``) and of the OCP's texts (``bias``, ``emax``).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..core.records import dataclass

__all__ = ["FORMATS", "PLAIN", "FloatFormat", "Minifloat", "to_e8m0"]


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A binary float format, with subnormal numbers if it has a sign.

    Attributes:
        name: the definition's name, e.g. ``"e4m3fn"``.
        dtype: safetensors' name of the dtype that holds one code.
        nexp, nmant: bits of the exponent and of the mantissa.
        bias: exponent bias.
        max: largest finite value.
        infinite: whether codes above ``max`` hold infinity and NaN as in IEEE 754 (e5m2); otherwise at most
            the code of all ones is NaN (``e4m3fn``), or none is (the 4- and 6-bit formats).
        signed: whether there is a sign; without, as in E8M0, there is neither zero nor a subnormal number.
    """

    name: str
    dtype: str
    nexp: int
    nmant: int
    bias: int
    max: float
    infinite: bool = False
    signed: bool = True

    @property
    def bits(self) -> int:
        """Width of one code."""
        return self.signed + self.nexp + self.nmant

    @property
    def smallest_normal(self) -> float:
        """Smallest positive number with a full mantissa."""
        return float(2.0 ** (self.signed - self.bias))

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive number."""
        return self.smallest_normal * 2.0**-self.nmant

    @property
    def emax(self) -> int:
        """Exponent of the largest power of two that the format holds."""
        return int(np.frexp(self.max)[1]) - 1

    @property
    def limit(self) -> float:
        """Half a step above :attr:`max`: where rounding to nearest would leave the format."""
        return self.max + 2.0 ** (self.emax - self.nmant - 1)

    @property
    def normal_bits(self) -> np.uint32:
        """Float32 bits of :attr:`smallest_normal`, as ``lanes.encode`` wants them."""
        return np.float32(self.smallest_normal).view(np.uint32)

    @property
    def mantissa_shift(self) -> np.uint32:
        """Mantissa bits that float32 has more, as ``lanes.encode`` wants them."""
        return np.uint32(23 - self.nmant)


@dataclass(frozen=True, slots=True)
class Minifloat(FloatFormat):
    """A float format of at most 8 bits, whose values stand in a table."""

    @property
    def magic(self) -> np.float32:
        """What ``lanes.encode`` needs so that the low 8 bits of its result are the code."""
        grow = -(int(self.normal_bits) >> int(self.mantissa_shift)) & 0xFF
        return np.uint32(np.float32(2.0 ** int(self.mantissa_shift)).view(np.uint32) + grow).view(np.float32)

    def values(self) -> NDArray[np.float32]:
        """The value of each code, ``[2**bits]`` float32, read-only; what has no finite value is NaN or
        infinite.
        """
        values: NDArray[np.float32] = _values(self)
        return values


@cache
def _values(kind: Minifloat) -> NDArray[np.float32]:
    codes = np.arange(1 << kind.bits)
    mantissa = codes & ((1 << kind.nmant) - 1)
    exponent = (codes >> kind.nmant) & ((1 << kind.nexp) - 1)
    if kind.signed:  # exponent 0 is that of subnormal numbers, whose mantissa has no leading one
        leading = np.where(exponent > 0, 1 << kind.nmant, 0)
        exponent = np.maximum(exponent, 1)
    else:
        leading = np.ones_like(codes)
    size = np.ldexp((leading + mantissa).astype(np.float64), exponent - kind.bias - kind.nmant)
    beyond = size > kind.max
    size[beyond] = np.nan
    if kind.infinite:
        size[beyond & (mantissa == 0)] = np.inf
    negative = codes >> (kind.nexp + kind.nmant) != 0
    values: NDArray[np.float32] = np.where(negative, -size, size).astype(np.float32)
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
        Minifloat("e8m0fnu", "F8_E8M0", 8, 0, 127, 2.0**127, signed=False),
    )
}
"""By name of the definition. Sources: OCP 8-bit Floating Point Specification 1.0 and OCP Microscaling Formats
1.0. Code 0 of E8M0 is 2**-127, as for CUDA.
"""

PLAIN: dict[str, FloatFormat] = {
    kind.dtype: kind
    for kind in (
        FloatFormat("float32", "F32", 8, 23, 127, (2 - 2.0**-23) * 2.0**127, infinite=True),
        FloatFormat("bfloat16", "BF16", 8, 7, 127, (2 - 2.0**-7) * 2.0**127, infinite=True),
        FloatFormat("float16", "F16", 5, 10, 15, 65504.0, infinite=True),
    )
}
"""The formats of weights and of scales, by safetensors' names (IEEE 754; bfloat16 is the upper half of
float32).
"""


def to_e8m0(numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
    """E8M0 codes of powers of two; NaN is 255. Of any other number the code of some power is returned."""
    _, exponent = np.frexp(numbers)  # numbers are 0.5 * 2**exponent
    codes: NDArray[np.uint8] = np.clip(exponent + 126, 0, 254).astype(np.uint8)
    codes[np.isnan(numbers)] = 255
    return codes
