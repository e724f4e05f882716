"""The dtypes of stored tensors, under safetensors' names, and those of GGUF that are stored in blocks.

Names and widths are those of the reference serializer (``safetensors/src/tensor.rs``, enum ``Dtype``), and of
ggml (``ggml-common.h``; ``GGML_QUANT_SIZES`` of the ``gguf`` package).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..errors import RecipeError
from .nearest import guess
from .records import dataclass

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BLOCKS", "CASTS", "CODED", "DTYPES", "FLOATS", "DType", "dtype", "float_dtype", "spellings"]

Kind = Literal["bool", "int", "uint", "float", "complex", "block"]


@dataclass(frozen=True, slots=True, repr=False, eq=False)  # each is there once: as fast as can be compared
class DType:
    """One stored element type.

    Attributes:
        name: safetensors' own spelling, e.g. ``"BF16"``.
        bits: width of one element; 4 and 6 for the packed sub-byte formats; of a block where elements are
            stored in blocks.
        kind: what the bits mean.
        carrier: name of the numpy dtype in which arrays of it travel through the flow. Formats that numpy
            lacks travel as unsigned integers of their width, packed sub-byte formats as bytes.
        ml_dtype: name in ``ml_dtypes`` of the type that a user's array gets, where numpy has none.
        elements: of a block, which is stored as a whole; 1 where each element is stored for itself.
    """

    name: str
    bits: int
    kind: Kind
    carrier: str
    ml_dtype: str | None = None
    elements: int = 1

    @property
    def itemsize(self) -> int:
        """Bytes of one element, and the alignment of a tensor; 1 for sub-byte formats and for blocks."""
        return max(self.bits // 8, 1) if self.elements == 1 else 1

    @property
    def packed(self) -> bool:
        """Whether several elements share a byte, or a block: arrays of it are bytes."""
        return self.bits < 8 or self.elements > 1

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"dtype({self.name!r})"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return dtype, (self.name,)  # each of them is there once

    def numpy(self) -> np.dtype[np.generic]:
        """The dtype of arrays handed to users: ``ml_dtypes`` types where numpy itself has none."""
        import numpy as np

        if self.kind == "bool":
            return np.dtype(np.bool_)
        if self.ml_dtype is None or self.packed:
            return np.dtype(self.carrier)
        import ml_dtypes

        scalar: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, self.ml_dtype))
        return scalar


def _table() -> dict[str, DType]:
    rows: list[tuple[str, int, Kind, str, str | None]] = [
        ("BOOL", 8, "bool", "uint8", None),
        ("F4", 4, "float", "uint8", "float4_e2m1fn"),
        ("F6_E2M3", 6, "float", "uint8", "float6_e2m3fn"),
        ("F6_E3M2", 6, "float", "uint8", "float6_e3m2fn"),
        ("U8", 8, "uint", "uint8", None),
        ("I8", 8, "int", "int8", None),
        ("F8_E5M2", 8, "float", "uint8", "float8_e5m2"),
        ("F8_E4M3", 8, "float", "uint8", "float8_e4m3fn"),
        ("F8_E8M0", 8, "float", "uint8", "float8_e8m0fnu"),
        ("F8_E4M3FNUZ", 8, "float", "uint8", "float8_e4m3fnuz"),
        ("F8_E5M2FNUZ", 8, "float", "uint8", "float8_e5m2fnuz"),
        ("I16", 16, "int", "int16", None),
        ("U16", 16, "uint", "uint16", None),
        ("F16", 16, "float", "float16", None),
        ("BF16", 16, "float", "uint16", "bfloat16"),
        ("I32", 32, "int", "int32", None),
        ("U32", 32, "uint", "uint32", None),
        ("F32", 32, "float", "float32", None),
        ("C64", 64, "complex", "complex64", None),
        ("F64", 64, "float", "float64", None),
        ("I64", 64, "int", "int64", None),
        ("U64", 64, "uint", "uint64", None),
    ]
    return {name: DType(name, bits, kind, carrier, ml) for name, bits, kind, carrier, ml in rows}


DTYPES: dict[str, DType] = _table()
"""Those that a safetensors file can hold, by name."""

BLOCKS: dict[str, DType] = {
    name: DType(name, 8 * nbytes, "block", "uint8", None, elements)
    for name, elements, nbytes in (
        ("Q1_0", 128, 18), ("Q4_0", 32, 18), ("Q4_1", 32, 20), ("Q5_0", 32, 22), ("Q5_1", 32, 24),
        ("Q8_0", 32, 34), ("Q8_1", 32, 40), ("Q2_K", 256, 84), ("Q3_K", 256, 110), ("Q4_K", 256, 144),
        ("Q5_K", 256, 176), ("Q6_K", 256, 210), ("Q8_K", 256, 292), ("IQ1_S", 256, 50), ("IQ1_M", 256, 56),
        ("IQ2_XXS", 256, 66), ("IQ2_XS", 256, 74), ("IQ2_S", 256, 82), ("IQ3_XXS", 256, 98),
        ("IQ3_S", 256, 110), ("IQ4_NL", 32, 18), ("IQ4_XS", 256, 136), ("TQ1_0", 256, 54),
        ("TQ2_0", 256, 66), ("MXFP4", 32, 17), ("NVFP4", 64, 36),
    )
}  # fmt: skip
"""Those of GGUF whose elements are stored in blocks with their scales, by ggml's name."""

FLOATS: tuple[str, ...] = ("F64", "F32", "F16", "BF16")
"""The plain float formats: what a weight is before it is quantized, and what ``cast`` converts between."""

CASTS: tuple[str, ...] = (*FLOATS, "F8_E4M3", "F8_E5M2")
"""What tensors can be cast to."""

CODED = frozenset(
    ("I8", "U8", "I32", "U32", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
) | frozenset(BLOCKS)
"""Dtypes that codes are stored in."""

_SPELLINGS = {
    "float64": "F64", "fp64": "F64", "double": "F64",
    "float32": "F32", "fp32": "F32", "float": "F32",
    "float16": "F16", "fp16": "F16", "half": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int8": "I8", "uint8": "U8",
}  # fmt: skip


def dtype(name: str | DType) -> DType:
    """Look a dtype up by safetensors' or ggml's name (``"BF16"``, any case) or by torch's (``"bfloat16"``).

    Raises:
        KeyError: no such dtype.
    """
    if isinstance(name, DType):
        return name
    lower = name.lower().removeprefix("torch.")
    known = _SPELLINGS.get(lower, name.upper())
    return BLOCKS[known] if known in BLOCKS else DTYPES[known]


def spellings(names: tuple[str, ...]) -> list[str]:
    """How people write those dtypes: by safetensors' names, also in small letters, and by torch's."""
    others = [word for word, name in _SPELLINGS.items() if name in names]
    return [*names, *(name.lower() for name in names), *others]


def float_dtype(what: str, name: object) -> str:
    """The name of a dtype that tensors can be cast to.

    Raises:
        RecipeError: it is none; the message says of ``what``.
    """
    if not isinstance(name, str):
        raise RecipeError(f"{what}: {name!r} is not a text")
    try:
        known = dtype(name).name
    except KeyError:
        known = None
    if known not in CASTS:
        raise RecipeError(
            f"{what}: {name!r} is not a float dtype",
            hint=f"choose from {', '.join(CASTS)}{guess(name, spellings(CASTS))}",
        )
    return known
