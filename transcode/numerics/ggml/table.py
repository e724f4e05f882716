"""Blocks of each type that can be decoded, by ggml's name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.dtypes import BLOCKS

__all__ = ["DECODED", "IQ4_VALUES", "decode"]

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""Of the codes of IQ4_NL and IQ4_XS (``kvalues_iq4nl``)."""

_E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


class _Way(NamedTuple):
    """How a type is decoded: by which kernel of which module, with a table or a code book."""

    module: str
    kernel: str
    values: tuple[int, ...] = ()
    book: str = ""


DECODED: Mapping[str, _Way] = {
    **{
        name: _Way("decode", name.lower())
        for name in ("Q1_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0")
    },
    **{name: _Way("decode_k", name.lower()) for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")},
    **{
        name: _Way("decode_iq", name.lower(), book=name)
        for name in ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
    },
    "IQ1_M": _Way("decode_iq", "iq1_m", book="IQ1_S"),
    "IQ4_NL": _Way("decode", "table4", IQ4_VALUES),
    "IQ4_XS": _Way("decode_k", "iq4_xs", IQ4_VALUES),
    "MXFP4": _Way("decode", "mxfp4", _E2M1_DOUBLED),
    "NVFP4": _Way("decode", "nvfp4", _E2M1_DOUBLED),
}
"""By name. Q8_1 and Q8_K, which ggml computes with and never stores, are none of them."""


def decode(name: str, blocks: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write the values of whole blocks.

    Args:
        name: one of :data:`DECODED`.
        blocks: their bytes, contiguous, of any shape.
        out: contiguous, with as many elements as the blocks have.
    """
    way, dtype = DECODED[name], BLOCKS[name]
    kernel: Any = getattr(import_module(f"{__package__}.{way.module}"), way.kernel)
    more: tuple[Any, ...] = ()
    if way.values:
        more = (np.array(way.values, np.float32),)
    elif way.book:
        from .grids import grid

        more = (grid(way.book),)
    kernel(blocks.reshape(-1, dtype.bits // 8), *more, out.reshape(-1, dtype.elements))
