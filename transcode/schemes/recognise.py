"""Tell the scheme of a stored tensor from the dtypes and shapes of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..core.dtypes import DTYPES
from ..core.scheme import Scheme
from ..core.spec import Part, Spec
from .fp8 import Fp8
from .int8 import Int8

__all__ = ["recognise"]

_GROUPS = (128, 64, 32, 256, 16, 512, 1024)
"""Group sizes in use, the usual ones first: a ragged last group leaves more than one size possible."""

_FP8 = {"F8_E4M3": "e4m3fn", "F8_E5M2": "e5m2"}


def recognise(parts: Mapping[str, Spec]) -> tuple[Scheme, Spec] | None:
    """The scheme that stores such parts, and the facts of the tensor that they stand for.

    Args:
        parts: role -> facts of each stored part, ``codes`` and ``scale`` among them.

    Returns:
        The scheme with its options, and the tensor's facts as float32, in which it is decoded; None when no
        scheme stores such parts.
    """
    if "codes" not in parts or "scale" not in parts:
        return None
    codes, scale = parts["codes"], parts["scale"]
    spec = Spec(DTYPES["F32"], codes.shape)
    for scheme in _candidates(codes, scale, symmetric="zero_point" not in parts):
        if scheme.refuses(spec) is None and _fits(scheme.parts(spec), parts):
            return scheme, spec
    return None


def _fits(made: tuple[Part, ...], found: Mapping[str, Spec]) -> bool:
    return {part.role: part.spec for part in made} == dict(found)


def _candidates(codes: Spec, scale: Spec, *, symmetric: bool) -> Iterator[Scheme]:
    stored = scale.dtype.name
    if stored not in ("F32", "BF16", "F16"):
        return
    if codes.dtype.name == "I8":
        if symmetric:
            yield Int8("tensor", scale_dtype=stored)
        yield Int8("channel", symmetric=symmetric, scale_dtype=stored)
        for size in _GROUPS:
            yield Int8("group", size, symmetric, stored)
    elif codes.dtype.name in _FP8 and symmetric:
        form = _FP8[codes.dtype.name]
        yield Fp8(form, "tensor", scale_dtype=stored)
        yield Fp8(form, "channel", scale_dtype=stored)
        for side in _GROUPS:
            yield Fp8(form, "block", (side, side), stored)
            yield Fp8(form, "block", (1, side), stored)
