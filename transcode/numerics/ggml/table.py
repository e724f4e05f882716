"""Blocks of each type that can be decoded or encoded, by ggml's name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from itertools import pairwise
from math import log2
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.dtypes import BLOCKS
from ...core.scratch import Scratch
from .books import BOOKS, book

__all__ = ["DECODED", "ENCODED", "IQ4_VALUES", "NEEDY", "SPREAD", "decode", "encode"]

WORK = 2048
"""Floats that kernels need for themselves."""

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
    kernel(_read_only(blocks.reshape(-1, dtype.bits // 8)), *more, out.reshape(-1, dtype.elements))


class _Made(NamedTuple):
    """How a type is encoded: by which kernel of which module, with what beside values and blocks."""

    module: str
    kernel: str
    needs: str = ""


ENCODED: Mapping[str, _Made] = {
    **{name: _Made("encode", name.lower()) for name in ("Q1_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")},
    **{name: _Made("encode", name.lower()) for name in ("TQ1_0", "TQ2_0", "NVFP4")},
    **{name: _Made("encode_k", name.lower(), "codes") for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")},
    **{name: _Made("encode_iq", name.lower(), "limits") for name in ("IQ4_NL", "IQ4_XS")},
    **{name: _Made("encode_books", name.lower(), "book") for name in BOOKS},
    "MXFP4": _Made("encode", "mxfp4", "nearly"),
}
"""By name, those that are encoded."""

NEEDY = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")
"""Types that are of no use without weights (llama.cpp, ``tensor_requires_imatrix``)."""


SPREAD: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1"), (0, 1)),
    **dict.fromkeys(("Q3_K", "Q4_K", "Q5_K", "IQ4_XS"), (256, 2)),
    "Q2_K": (256, 1),
    "Q6_K": (256, 0),
    "IQ4_NL": (32, 2),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS"), (256, 1)),
    **dict.fromkeys(("IQ2_S", "IQ3_XXS", "IQ3_S"), (256, 2)),
}
"""Types whose searches weights of columns guide: over how many values (0: a row) the mean square is taken
that is added to each square, and how many times; 0 where it plays no part.
"""


def encode(
    name: str,
    values: NDArray[np.float32],
    blocks: NDArray[np.uint8],
    scratch: Scratch,
    weights: NDArray[np.float32] | None = None,
) -> int:
    """Write the blocks of values.

    Args:
        name: one of :data:`ENCODED`.
        values: contiguous, of any shape with whole blocks; with weights rows, ``[n, K]``.
        blocks: contiguous, as many bytes as the blocks have.
        weights: of the columns, ``[K]``, finite and not negative; only for the types of :data:`SPREAD`.

    Returns:
        -1; or the number of the first block that holds what is not finite, or needs a scale beyond F16.
    """
    way, dtype = ENCODED[name], BLOCKS[name]
    lines, out = _read_only(values.reshape(-1, dtype.elements)), blocks.reshape(-1, dtype.bits // 8)
    weights = None if weights is None else _read_only(weights.reshape(-1))
    if way.needs == "book":
        return _of_book(name, lines, out, scratch, weights, _sigmas(name, values, scratch, weights))
    more: tuple[Any, ...] = ()
    if way.needs == "nearly":
        more = (_nearly(),)
    elif way.needs == "limits":
        more = (np.array(IQ4_VALUES, np.float32), _limits(), scratch.take((WORK,), np.float32))
    elif way.needs or weights is not None:
        more = (scratch.take((WORK,), np.float32), scratch.take((288,), np.uint8))
    if weights is None:
        kernel: Any = getattr(import_module(f"{__package__}.{way.module}"), way.kernel)
        return int(kernel(lines, out, *more))
    from . import encode_weighted

    sigmas = _sigmas(name, values, scratch, weights)
    kernel = getattr(encode_weighted, way.kernel)
    return int(kernel(lines, out, weights.reshape(-1, dtype.elements), sigmas, *more))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """What kernels only read, as such: those that they may write to, as rows that were made float32, would
    have them compiled once more, to the same code.
    """
    view = array.view()
    view.setflags(write=False)
    return view


def _sigmas(
    name: str, values: NDArray[np.float32], scratch: Scratch, weights: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Mean squares of values, see :data:`SPREAD`; nothing is meant by them without weights."""
    from .encode_weighted import spread

    span, times = SPREAD[name]
    spans = _read_only(values.reshape(-1, span or values.shape[-1]))
    sigmas = scratch.take((len(spans),), np.float32)
    if times and len(spans) and weights is not None:
        spread(spans, np.float32(times), sigmas)
    return sigmas


def _of_book(
    name: str, lines: NDArray[np.float32], out: NDArray[np.uint8], scratch: Scratch,
    weights: NDArray[np.float32] | None, sigmas: NDArray[np.float32],
) -> int:  # fmt: skip
    """See :func:`encode`: of a type with a code book."""
    from . import book_search, encode_books

    near, how, count = book(name), BOOKS[name], len(lines)
    width, groups = near.codes.shape[1], 256 // how.size
    scales = scratch.take((count, groups), np.float32)
    numbers = scratch.take((count, 256 // width), np.int16)
    signs = scratch.take((count, 32), np.uint8)
    whole = _read_only(np.empty((0, 256), np.float32)) if weights is None else weights.reshape(-1, 256)
    search: Any = book_search.search_eights if width == 8 else book_search.search_fours
    bad = int(
        search(
            lines, whole, sigmas, scratch.take((book_search.ROOM,), np.float32), *near, how.size, how.even,
            np.float32(how.least), how.last, np.float32(how.delta), how.held, how.again,
            scales.reshape(-1), numbers.reshape(count * groups, -1), signs.reshape(count * groups, -1),
        )
    )  # fmt: skip
    return bad if bad >= 0 else int(getattr(encode_books, ENCODED[name].kernel)(out, scales, numbers, signs))


@cache
def _limits() -> NDArray[np.float32]:
    """The least float32 from which on the reference finds the next of :data:`IQ4_VALUES` no farther
    (``best_index_int8``, whose differences are rounded)."""
    limits = []
    for low, high in pairwise(np.array(IQ4_VALUES, np.float32)):
        near, far = low, high  # the first is nearer to the lower one, the second is not
        while (middle := np.float32((np.float64(near) + np.float64(far)) / 2)) not in (near, far):
            near, far = (middle, far) if middle - low < high - middle else (near, middle)
        limits.append(far)
    return np.array(limits, np.float32)


@cache
def _nearly() -> NDArray[np.uint32]:
    """See :func:`.encode.mxfp4`."""
    limits = []
    for exponent in range(-149, 128):
        low, high = 0, 1 << 23
        while low < high:
            middle = (low + high) // 2
            if np.float32(exponent + log2(1 + middle / (1 << 23))) >= exponent + 1:
                high = middle
            else:
                low = middle + 1
        limits.append(low)
    return np.array(limits, np.uint32)
