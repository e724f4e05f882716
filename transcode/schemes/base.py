"""What the schemes share: which tensors they take, their options, and how scales are kept."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.dtypes import DTYPES, FLOATS, DType
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..errors import RecipeError
from ..numerics.minifloat import PLAIN

__all__ = ["SCALE_DTYPES", "Array", "Base", "choose", "fitting", "narrowed", "stored_scale", "widened"]

Array = NDArray[Any]

SCALE_DTYPES = ("source", "F32", "BF16", "F16")
"""What ``scale_dtype`` may be."""


class Base:
    """What every scheme does alike; schemes are frozen dataclasses, their fields the options of a recipe."""

    def config(self) -> dict[str, Any]:
        """Options that differ from their defaults: JSON, and the constructor's keywords."""
        found: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found

    @property
    def multiple(self) -> tuple[int, int]:
        """Any number of rows and columns."""
        return 1, 1

    def refuses(self, spec: Spec) -> str | None:
        """Why a tensor is not a matrix, or a stack of matrices, of plain floats and of a fitting shape."""
        if spec.dtype.name not in FLOATS:
            return f"{spec.dtype.name} is not one of {', '.join(FLOATS)}"
        if not 2 <= len(spec.shape) <= 3:
            return f"{len(spec.shape)}-D, neither a matrix nor a stack of matrices"
        if spec.numel == 0:
            return f"shape {list(spec.shape)} is empty"
        for length, multiple, what in zip(spec.shape[-2:], self.multiple, ("rows", "columns"), strict=True):
            if length % multiple:
                return f"{length} {what} are not a multiple of {multiple}"
        return None

    def observe(self, rows: Array, dtype: DType) -> float:
        """Largest magnitude among rows, in float32. Raises ``NonFinite``."""
        from ..numerics.rows import peak

        return peak(rows, dtype)


def choose(scheme: str, option: str, value: object, allowed: tuple[Any, ...]) -> None:
    """Raise RecipeError unless an option has one of its values."""
    # 1 == True: the type is compared too.
    if not any(type(value) is type(one) and value == one for one in allowed):
        said = ", ".join(str(one).lower() if isinstance(one, bool) else str(one) for one in allowed)
        raise RecipeError(f"{scheme}: {option} cannot be {value!r}", hint=f"choose from {said}")


def stored_scale(option: str, source: DType) -> DType:
    """The dtype of a scale: ``source`` means the tensor's own, but F32 for F64 and for F16.

    F16 has too few exponents for scales: those of rows of small values would underflow.
    """
    if option == "source":
        return source if source.name in ("BF16", "F32") else DTYPES["F32"]
    return DTYPES[option]


def fitting(rows: Array, source: DType, scales: Array, kept: DType, top: float) -> None:
    """Raise ``Overflow`` where F16 cannot hold the scale that a value needs, which would clip it unseen.

    Args:
        rows: what was encoded, in the carrier of ``source``.
        scales: float32, as stored; the kernels let what is too large be the largest.
        kept: dtype of the stored scales.
        top: largest code.
    """
    from ..numerics import Overflow
    from ..numerics.rows import as_float64

    if kept.name != "F16" or not (scales == _HALF).any():
        return
    for index in range(len(rows)):
        exact = as_float64(rows[index], source)
        bad = np.abs(exact) >= _NO_HALF * top
        if bad.any():
            column = int(np.argmax(bad))
            raise Overflow(index, column, float(exact[column]))


_HALF, _NO_HALF = PLAIN["F16"].max, PLAIN["F16"].limit
"""Largest F16, and the least value that rounds to more."""


def narrowed(scales: Array, dtype: DType, scratch: Scratch) -> Array:
    """Float32 that hold values of ``dtype``, in its carrier; exact."""
    if dtype.name == "F32":
        return scales
    out = scratch.take(scales.shape, dtype.carrier)
    if dtype.name == "BF16":
        np.right_shift(scales.view(np.uint32), 16, out=out, casting="unsafe")
    else:
        np.copyto(out, scales, casting="same_kind")
    return out


def widened(scales: Array, dtype: DType) -> NDArray[np.float32]:
    """Stored scales as float32; exact for BF16, F16 and F32."""
    if dtype.name == "BF16":
        return (scales.astype(np.uint32) << 16).view(np.float32)
    return scales.astype(np.float32, copy=False)
