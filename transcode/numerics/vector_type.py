"""What numba must know of vectors: their type, and that they are added, subtracted, multiplied and divided.

Imports numba; :mod:`.vectors`, which kernels import, does not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from .vectors import alike

__all__ = ["Vector"]


class Vector(types.Type):  # type: ignore[misc]
    """Numba's type of ``count`` numbers of a dtype side by side."""

    def __init__(self, dtype: Any, count: int) -> None:
        super().__init__(f"Vector({dtype} x {count})")
        self.dtype = dtype
        self.count = count


@register_model(Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        lane = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(lane, kind.count))


def _arithmetic(symbol: Callable[..., Any], step: str) -> None:
    @intrinsic  # type: ignore[untyped-decorator]
    def compute(context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, step)(*alike(builder, args))

        result = a if isinstance(a, Vector) else b
        left, right = (kind if isinstance(kind, Vector) else result.dtype for kind in (a, b))
        return result(left, right), generate

    def typed(a: Any, b: Any) -> Any:
        return (lambda a, b: compute(a, b)) if isinstance(a, Vector) or isinstance(b, Vector) else None

    # Strictly, the annotations of the two would have to be the same.
    overload(symbol, strict=False)(typed)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.truediv, "fdiv")
