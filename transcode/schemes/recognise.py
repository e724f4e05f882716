"""The variants of each scheme that files hold, for telling the one that made a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..core.scheme import Scheme
from . import SCHEMES, make
from .fp8 import Fp8
from .int4 import Int4
from .int8 import Int8
from .mx import FORMS, Mxfp6, Mxfp8

__all__ = ["variants"]

_GROUPS = (128, 64, 32, 256, 16, 512, 1024)
"""Group sizes in use, the usual ones first: a ragged last group leaves more than one size possible."""


def variants(name: str, options: Mapping[str, Any], scale: str) -> Iterator[Scheme]:
    """Schemes of that name that differ in the dtypes or shapes of their parts.

    Args:
        options: what a convention asks of the scheme.
        scale: dtype of the stored scale.
    """
    plain = name in (Int8.name, Int4.name, Fp8.name)
    if name not in SCHEMES or (plain and scale not in ("F32", "BF16", "F16")):
        return
    if name == Int8.name:
        yield Int8("tensor", scale_dtype=scale)
        for symmetric in (True, False):
            yield Int8("channel", symmetric=symmetric, scale_dtype=scale)
            for size in _GROUPS:
                yield Int8("group", size, symmetric, scale)
    elif name == Int4.name:
        for symmetric in (True, False):
            for size in (32, 64, 128):
                yield make(name, group_size=size, symmetric=symmetric, scale_dtype=scale)
    elif name == Fp8.name:
        for form in ("e4m3fn", "e5m2"):
            yield Fp8(form, "tensor", scale_dtype=scale)
            yield Fp8(form, "channel", scale_dtype=scale)
            for side in _GROUPS:
                yield Fp8(form, "block", (side, side), scale)
                yield Fp8(form, "block", (1, side), scale)
    elif name in (Mxfp6.name, Mxfp8.name) and "format" not in options:
        for form in FORMS[name]:
            yield make(name, format=form, **options)
    else:
        yield make(name, **options)
