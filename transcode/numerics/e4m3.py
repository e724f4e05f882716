"""Scales in E4M3, sixteen at once: codes are numbers in float32 lanes, from 0 to 126."""

from __future__ import annotations

from typing import Any

import numpy as np

from .deferred import types
from .jit import instruction, lane
from .lanes import INTEGER, at_most, bits, encode, real
from .minifloat import FORMATS
from .vectors import constant, floats, shaped

__all__ = ["CODES", "e4m3_code", "e4m3_value"]

CODES = np.float32(126)
"""The largest code, of 448."""

_E4M3 = FORMATS["e4m3fn"]
_MAX = np.float32(_E4M3.max)
_NORMAL_BITS, _SHIFT, _MAGIC = _E4M3.normal_bits, _E4M3.mantissa_shift, _E4M3.magic
_BIAS = np.float32(2.0 ** (127 - _E4M3.bias))


@instruction
def _low_byte(context: Any, word: Any) -> Any:
    """The lowest 8 bits of lanes of uint32, as float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = builder.and_(args[0], constant(args[0].type, 0xFF))
        return builder.sitofp(byte, floats(byte.type))  # it has no sign, and signed ones are faster

    return shaped(types.float32, word)(word), generate


@instruction
def _exponent_and_mantissa(context: Any, word: Any) -> Any:
    """The lowest 7 bits of lanes of uint32, where a float32 has the last bits of its exponent and the
    first of its mantissa.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = builder.and_(args[0], constant(args[0].type, 0x7F))
        return builder.shl(code, constant(code.type, 20))

    return word(word), generate


@lane
def e4m3_code(wanted: Any) -> Any:
    """Codes nearest to numbers that are not negative; 448 is the largest."""
    return _low_byte(encode(at_most(wanted, _MAX), _NORMAL_BITS, _SHIFT, _MAGIC))


@lane
def e4m3_value(code: Any) -> Any:
    """The values of codes: bits of a float32 whose exponent is too small by the difference of both biases,
    subnormal ones as well.
    """
    return real(_exponent_and_mantissa(bits(code + INTEGER))) * _BIAS
