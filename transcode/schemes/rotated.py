"""What schemes share whose columns are turned by a regular Hadamard matrix before they are encoded.

Groups of columns are multiplied by the matrix ``H`` of their size, ``W' = W (I x H)``, in float32: outliers
of a column are spread over its group, and scales become smaller. A consumer multiplies its inputs by the same
matrix (Li and others, "ConvRot", arXiv:2512.03673; ``tensor/int8_utils.py`` of comfy_kitchen). The matrix is
its own inverse, so values come back by the same product.
"""

from __future__ import annotations

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.scheme import ROTATIONS
from ..core.spec import Spec
from ..numerics.errors import NonFinite
from .base import Array

__all__ = [
    "ROTATE",
    "TURNED",
    "encode_turned",
    "largest",
    "line_of",
    "rejected",
    "smaller",
    "turn_back",
    "turned",
    "unturned",
]

ROTATE = Constraint(
    "1 for none, or a power of 4 up to 65536", (1, 64, 4), lambda n: type(n) is int and n in ROTATIONS
)
"""What ``rotate`` may be."""


TURNED = Constraint(
    "a power of 4 from 4 to 65536", (64, 16, 4), lambda n: type(n) is int and n > 1 and n in ROTATIONS
)
"""What it may be where columns are always turned."""


def smaller(spec: Spec, size: int) -> tuple[int, str] | None:
    """How many columns of a tensor can be turned together, where these cannot, and what to say of it."""
    if spec.columns % size == 0:
        return None
    fitting = max((one for one in ROTATIONS if 1 < one < size and spec.columns % one == 0), default=None)
    if fitting is None:
        return None
    return fitting, f"rotated by {fitting}: {spec.columns} columns are not a multiple of {size}"


def unturned(spec: Spec, size: int) -> str:
    """Why columns of a tensor are not turned, for the plan."""
    return f"not rotated: {spec.columns} columns are not a multiple of {size}"


def encode_turned(
    bits: Array,
    size: int,
    width: int,
    stored: int,
    given: np.float32,
    codes: Array,
    scales: Array,
    zeros: Array | None,
) -> bool:
    """Fill codes of 8 bits, scales and, if there are, zero points; see :mod:`..numerics.hadamard`."""
    from ..numerics.hadamard import rotated_symmetric, rotated_with_zero, unit_of

    line, view = line_of(bits.shape[1])
    unit = unit_of(size)
    if zeros is None:
        limit = np.float32(127)
        return bool(
            rotated_symmetric(bits, size, unit, line, view, width, stored, given, limit, codes, scales)
        )
    span = np.float32(255)
    return bool(rotated_with_zero(bits, size, unit, line, view, width, stored, span, codes, scales, zeros))


def largest(rows: Array, dtype: DType, size: int) -> float:
    """Largest magnitude of the turned rows, in float32. Raises ``NonFinite``."""
    from ..numerics.hadamard import rotated_largest, unit_of
    from ..numerics.rows import as_bits

    line, view = line_of(rows.shape[1])
    magnitude = float(rotated_largest(as_bits(rows, dtype), size, unit_of(size), line, view))
    if not np.isfinite(magnitude):
        raise rejected(rows, dtype, size)
    return magnitude


def turned(rows: Array, dtype: DType, size: int) -> Array:
    """Rows of a plain float dtype, turned: float32, in memory of their own."""
    from ..numerics.hadamard import rotate, unit_of
    from ..numerics.rows import as_bits

    out = np.empty(rows.shape, np.float32)
    rotate(as_bits(rows, dtype), size, unit_of(size), out)
    return out


def turn_back(values: Array, size: int) -> None:
    """Turn float32 ``[R, K]`` in place; exact where they are integers whose sums are below 2**24."""
    from ..numerics.hadamard import rotate, unit_of
    from ..numerics.rows import as_bits

    rotate(as_bits(values.view(), DTYPES["F32"]), size, unit_of(size), values)


def rejected(rows: Array, dtype: DType, size: int) -> NonFinite:
    """The error that names the first value that is not finite, or too large to be turned."""
    from ..numerics.hadamard import reject_turned

    return reject_turned(rows, dtype, size)


def line_of(columns: int) -> tuple[Array, Array]:
    """Memory for a turned row, and the same as bits."""
    line = np.empty((1, columns), np.float32)
    bits = line.view(np.uint32)
    bits.setflags(write=False)
    return line, bits
