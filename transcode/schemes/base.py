"""What the schemes share: which tensors they take, their options, and how scales are kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, FLOATS, DType
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..errors import RecipeError
from ..numerics.minifloat import FORMATS, PLAIN, to_e8m0
from .grid import Grid

__all__ = [
    "GROUPS",
    "SCALE_DTYPES",
    "SEARCH",
    "Array",
    "Base",
    "Fitted",
    "encode_one",
    "fitting",
    "narrowed",
    "stored_scale",
    "widened",
]

Array = NDArray[Any]

SCALE_DTYPES = Constraint.among("source", "F32", "BF16", "F16")
"""What ``scale_dtype`` may be."""

SEARCH = Constraint.among("none", "mse")
"""What ``optimize`` may be."""

GROUPS = (128, 64, 32, 256, 16, 512, 1024)
"""Group sizes in use, the usual ones first: a ragged last group leaves more than one size possible."""


class Base:
    """What every scheme does alike; schemes are frozen dataclasses, their fields the options of a recipe.

    Attributes:
        options: legal values of each option.
        only_with: options that do nothing but with one value of another: that other option, and the value.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Constraint]]
    only_with: ClassVar[Mapping[str, tuple[str, Any]]] = {}
    unseen: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        for option, legal in self.options.items():
            value = getattr(self, option)
            if not legal.holds(value):
                raise RecipeError(f"{self.name}: {option} cannot be {value!r}", hint=legal.advice)

    def config(self) -> dict[str, Any]:
        """Options that differ from their defaults: JSON, and the constructor's keywords."""
        options: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                options[field.name] = list(value) if isinstance(value, tuple) else value
        return options

    def idle(self, given: Collection[str]) -> Iterator[tuple[str, str, Any]]:
        """See :meth:`.core.scheme.Scheme.idle`."""
        for option, (other, value) in self.only_with.items():
            if option in given and getattr(self, other) != value:
                yield option, other, value

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Self]:
        """See :meth:`.core.scheme.Scheme.variants`: with these options, in each of its formats."""
        first = cls(**options)
        yield first
        for form in cls.options["format"].cases if "format" in cls.options else ():
            if form != getattr(first, "format", form):
                yield cls(**{**options, "format": form})

    @property
    def search_seconds(self) -> float:
        """Next to nothing."""
        return 0.0

    @property
    def light(self) -> bool:
        """Where nothing is searched."""
        return self.without_search is None

    @property
    def weighs(self) -> bool:
        """No."""
        return False

    @property
    def needs_weights(self) -> bool:
        """No."""
        return False

    @property
    def without_search(self) -> Self | None:
        """With ``optimize="none"``, where that is an option and another value is chosen."""
        if getattr(self, "optimize", "none") == "none":
            return None
        return replace(self, optimize="none")  # type: ignore[type-var]  # all are dataclasses

    def meaning(self, spec: Spec) -> Hashable:
        """Name and format: what else may be chosen concerns encoding alone."""
        return self.name, getattr(self, "format", None)

    def grid(self, spec: Spec) -> Grid | None:
        """The values of codes and the blocks of scales of such a tensor, where that is all there is to
        decoding it; else None.
        """
        return None

    @property
    def multiple(self) -> tuple[int, int]:
        """Any number of rows and columns."""
        return 1, 1

    def grain(self, spec: Spec) -> int:
        """One row."""
        return 1

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

    def instead(self, spec: Spec) -> tuple[Self, str] | None:
        """Nothing."""
        return None

    def undecodable(self, spec: Spec) -> str | None:
        """What cannot be encoded."""
        return self.refuses(spec)

    def observe(self, rows: Array, dtype: DType) -> Any:
        """Largest magnitude among rows, in float32. Raises ``NonFinite``."""
        from ..numerics.rows import peak

        return peak(rows, dtype)

    def merge(self, one: Any, other: Any) -> Any:
        """The larger one."""
        return max(one, other)


class Fitted(Base):
    """A scheme whose scales are found by least squares, whatever is chosen: never as fast as a file is
    written, and always by weights of columns, where there are some.
    """

    @property
    def light(self) -> bool:
        """No."""
        return False

    @property
    def weighs(self) -> bool:
        """Yes, in the sums of least squares."""
        return True


def stored_scale(option: str, source: DType) -> DType:
    """The dtype of a scale: ``source`` means the tensor's own, but F32 for F64 and for F16.

    F16 has too few exponents for scales: those of rows of small values would underflow.
    """
    if option == "source":
        return source if source.name in ("BF16", "F32") else DTYPES["F32"]
    return DTYPES[option]


def encode_one(encode: Callable[..., Iterator[Any]], dtype: DType, columns: int) -> None:
    """Encode a row of zeros, which compiles what encoding needs of a scheme that looks at nothing before."""
    spec = Spec(dtype, (1, columns))
    for _ in encode(np.zeros(spec.shape, dtype.carrier), spec, 0, None, Scratch()):
        pass


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
    if dtype.name == "F8_E8M0":
        return to_e8m0(scales)
    if dtype.name == "BF16":
        np.right_shift(scales.view(np.uint32), 16, out=out, casting="unsafe")
    else:
        np.copyto(out, scales, casting="same_kind")
    return out


def widened(scales: Array, dtype: DType) -> NDArray[np.float32]:
    """Stored scales as float32; exact for BF16, F16, F32 and E8M0."""
    if dtype.name == "F8_E8M0":
        powers: NDArray[np.float32] = FORMATS["e8m0fnu"].values()[scales.view(np.uint8)]
        return powers
    if dtype.name == "BF16":
        return (scales.astype(np.uint32) << 16).view(np.float32)
    return scales.astype(np.float32, copy=False)
