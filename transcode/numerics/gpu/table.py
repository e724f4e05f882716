"""The kernels that a GPU has, by the names of those of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .affine import affine, affine_widths
from .floats import scaled
from .grouped import grouped4, grouped6
from .hadamard import rotated_symmetric, rotated_with_zero
from .integer import integers, symmetric, with_zero
from .micro import mx, nv
from .worker import Worker

__all__ = ["KERNELS", "call"]

KERNELS: Mapping[str, Callable[..., Any]] = {
    "symmetric": symmetric,
    "with_zero": with_zero,
    "rotated_symmetric": rotated_symmetric,
    "rotated_with_zero": rotated_with_zero,
    "integers": integers,
    "scaled": scaled,
    "affine": affine,
    "affine_widths": affine_widths,
    "grouped4": grouped4,
    "grouped6": grouped6,
    "mx": mx,
    "nv": nv,
}


def call(worker: Worker, name: str, arguments: tuple[Any, ...]) -> Any:
    """Run the kernel of that name on a worker's device."""
    return KERNELS[name](worker, *arguments)
