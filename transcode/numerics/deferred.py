"""The compiler's modules, imported when something of them is wanted: a kernel that is kept needs none."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["arrayobj", "cgutils", "compiler", "ir", "types", "vector_type"]


class _Deferred:
    """Stands for a module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


ir: Any = _Deferred("llvmlite.ir")
types: Any = _Deferred("numba.core.types")
cgutils: Any = _Deferred("numba.core.cgutils")
arrayobj: Any = _Deferred("numba.np.arrayobj")
compiler: Any = _Deferred("transcode.numerics.compiler")
vector_type: Any = _Deferred("transcode.numerics.vector_type")
