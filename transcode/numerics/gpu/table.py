"""The kernels that a GPU has, by the names of those of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .floats import scaled
from .integer import integers, symmetric, with_zero
from .micro import mx, nv

__all__ = ["KERNELS"]

KERNELS: Mapping[str, Callable[..., Any]] = {
    "symmetric": symmetric,
    "with_zero": with_zero,
    "integers": integers,
    "scaled": scaled,
    "mx": mx,
    "nv": nv,
}
