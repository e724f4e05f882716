"""Types of tensors by their numbers (``ggml.h``, enum ``ggml_type``), and the order of their bytes."""

from __future__ import annotations

from ...core.dtypes import BLOCKS, DTYPES, DType

__all__ = ["GONE", "NUMBERS", "TYPES", "swaps"]

_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32",
    27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
    41: "Q1_0",
}  # fmt: skip

TYPES: dict[int, DType] = {
    number: BLOCKS[name] if name in BLOCKS else DTYPES[name] for number, name in _NAMES.items()
}
"""Number -> dtype."""

NUMBERS: dict[str, int] = {name: number for number, name in _NAMES.items()}
"""Name of a dtype -> number."""

GONE: dict[int, str] = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip
"""Types that ggml itself has taken out."""

_ORDERED: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,), "MXFP4": (), "NVFP4": (),
}  # fmt: skip
"""First bytes of the 16-bit numbers of a block, of the types whose big-endian form is settled
(``gguf_convert_endian.py``)."""


def swaps(dtype: DType) -> tuple[int, ...] | None:
    """The places of a block's, or element's, bytes in the order in which a big-endian file has them; None
    where that is not settled.
    """
    size = dtype.bits // 8
    if dtype.elements == 1:
        return tuple(reversed(range(size)))
    if dtype.name not in _ORDERED:
        return None
    order = list(range(size))
    for at in _ORDERED[dtype.name]:
        order[at], order[at + 1] = at + 1, at
    return tuple(order)
