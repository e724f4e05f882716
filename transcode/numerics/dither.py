"""Kernel that rounds to one of the two nearest values of a table at random, in proportion to their distances.

The random number of an element is a function of a key and of its number in the tensor (SplitMix64: Steele,
Lea, Flood, "Fast splittable pseudorandom number generators", 2014), so neither tiles nor threads change it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel

__all__ = ["dither"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_ONE, _TWO = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_UNIT = 2.0**-53


@kernel
def dither(
    values: Any, scales: Any, zeros: Any, width: int, numbers: Any, codes: Any, key: Any, first: Any, out: Any
) -> None:
    """``out``: the code of ``x / scale + zero`` rounded to one of its two neighbours in ``numbers``.

    Args:
        values: float32 ``[R, K]``.
        scales: float64 ``[R, cdiv(K, width)]``, none of them zero.
        zeros: float64, shaped as ``scales``.
        width: columns that share a scale.
        numbers: float64 ``[N]``, ascending, each once.
        codes: uint8 ``[N]``, the code of each number.
        key: uint64, of the tensor.
        first: uint64, number of the first element in the tensor.
        out: uint8 ``[R, K]``, written.
    """
    count, columns = values.shape
    last = numbers.shape[0] - 1
    for i in range(count):
        for j in range(columns):
            cell = j // width
            wanted = np.float64(values[i, j]) / scales[i, cell] + zeros[i, cell]
            low, high = 0, last
            if wanted <= numbers[0]:
                high = 0
            elif wanted >= numbers[last]:
                low = last
            else:
                while high - low > 1:
                    middle = (low + high) // 2
                    if numbers[middle] <= wanted:
                        low = middle
                    else:
                        high = middle
                at = first + np.uint64(i) * np.uint64(columns) + np.uint64(j)
                mixed = key + (at + np.uint64(1)) * _GAMMA
                mixed = (mixed ^ (mixed >> _30)) * _ONE
                mixed = (mixed ^ (mixed >> _27)) * _TWO
                mixed = mixed ^ (mixed >> _31)
                chance = np.float64(mixed >> _11) * _UNIT
                if wanted - numbers[low] > chance * (numbers[high] - numbers[low]):
                    low = high
            out[i, j] = codes[low]
