"""The dtypes of stored tensors, under safetensors' names.

Names and widths are those of the reference serializer (``safetensors/src/tensor.rs``, enum ``Dtype``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import RecipeError
from .nearest import guess

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CASTS", "CODED", "DTYPES", "FLOATS", "DType", "dtype", "float_dtype", "spellings"]

Kind = Literal["bool", "int", "uint", "float", "complex"]


@dataclass(frozen=True, slots=True, repr=False)
class DType:
    """One stored element type.

    Attributes:
        name: safetensors' own spelling, e.g. ``"BF16"``.
        bits: width of one element; 4 and 6 for the packed sub-byte formats.
        kind: what the bits mean.
        carrier: name of the numpy dtype in which arrays of it travel through the flow. Formats that numpy
            lacks travel as unsigned integers of their width, packed sub-byte formats as bytes.
        ml_dtype: name in ``ml_dtypes`` of the type that a user's array gets, where numpy has none.
    """

    name: str
    bits: int
    kind: Kind
    carrier: str
    ml_dtype: str | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of one element, and the alignment of a tensor; 1 for sub-byte formats."""
        return max(self.bits // 8, 1)

    @property
    def packed(self) -> bool:
        """Whether several elements share a byte."""
        return self.bits < 8

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

FLOATS: tuple[str, ...] = ("F64", "F32", "F16", "BF16")
"""The plain float formats: what a weight is before it is quantized, and what ``cast`` converts between."""

CASTS: tuple[str, ...] = (*FLOATS, "F8_E4M3", "F8_E5M2")
"""What tensors can be cast to."""

CODED = frozenset(
    ("I8", "U8", "I32", "U32", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
)
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
    """Look a dtype up by safetensors' name (``"BF16"``, any case) or by torch's (``"bfloat16"``).

    Raises:
        KeyError: no such dtype.
    """
    if isinstance(name, DType):
        return name
    lower = name.lower().removeprefix("torch.")
    return DTYPES[_SPELLINGS.get(lower, name.upper())]


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
