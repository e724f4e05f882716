"""The variants of each scheme that files hold, for telling the one that made a file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..core.scheme import Scheme
from . import SCHEMES, make
from .fp8 import Fp8
from .int4 import Int4
from .int8 import Int8
from .mx import FORMS

__all__ = ["variants"]

_GROUPS = (128, 64, 32, 256, 16, 512, 1024)
"""Group sizes in use, the usual ones first: a ragged last group leaves more than one size possible."""


def variants(
    name: str,
    options: Mapping[str, Any],
    scale: str,
    *,
    groups: Collection[int] = (),
    blocks: Collection[tuple[int, int]] = (),
) -> Iterator[Scheme]:
    """Schemes of that name that differ in dtypes or shapes of their parts, or in what bytes of codes mean.

    Args:
        options: what a convention asks of the scheme.
        scale: dtype of the stored scale.
        groups, blocks: sizes that were used, where that is known; else those in use.
    """
    plain = name in (Int8.name, Int4.name, Fp8.name)
    if name not in SCHEMES or (plain and scale not in ("F32", "BF16", "F16")):
        return
    sizes = sorted(groups) or _GROUPS
    if name == Int8.name:
        yield Int8("tensor", scale_dtype=scale)
        for symmetric in (True, False):
            yield Int8("channel", symmetric=symmetric, scale_dtype=scale)
            for size in sizes:
                yield Int8("group", size, symmetric, scale)
    elif name == Int4.name:
        for symmetric in (True, False):
            for size in (32, 64, 128):
                if not groups or size in groups:
                    yield make(name, group_size=size, symmetric=symmetric, scale_dtype=scale)
    elif name == Fp8.name:
        for form in ("e4m3fn", "e5m2"):
            yield Fp8(form, "tensor", scale_dtype=scale)
            yield Fp8(form, "channel", scale_dtype=scale)
            for side in _GROUPS:
                if not blocks:
                    yield Fp8(form, "block", (side, side), scale)
                yield Fp8(form, "block", (1, side), scale)
            for block in sorted(blocks):
                yield Fp8(form, "block", block, scale)
    else:
        first = make(name, **options)
        yield first
        for form in FORMS.get(name, ()):
            if form != getattr(first, "format", form):
                yield make(name, **{**options, "format": form})
