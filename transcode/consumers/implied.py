"""Parts that a consumer asks for and no scheme makes, as they say nothing that is not known already.

GPTQ wants zero points of codes that have none, and of each column the group that it belongs to; Marlin's
kernel zeros to count in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..catalog import GROUP_INDEX, SHAPE, WORKSPACE, ZERO_POINT
from ..core.dtypes import DTYPES
from ..core.records import dataclass
from ..core.scheme import Encoding
from ..core.spec import Part, Spec

if TYPE_CHECKING:
    from ..core.types import Array

__all__ = ["Implied", "implied"]


@dataclass(frozen=True, slots=True)
class Implied:
    """Such a part, before any codec.

    Attributes:
        part: its role and facts. ``shape`` is I64 ``[axes]``; ``zero_point`` I8 as the scales are,
            ``[.., N, G]``, all 0; ``group_index`` I32 ``[K]``, ``k // group_size``; ``workspace`` I32
            ``[N / 128 * 16]``, all 0.
        of: what it is made of: the shape, nothing, the size of a group.
    """

    part: Part
    of: tuple[int, ...] = ()

    def array(self) -> Array:
        """Its content."""
        import numpy as np

        spec = self.part.spec
        if self.part.role == SHAPE:
            return np.array(self.of, np.int64)
        if self.part.role == GROUP_INDEX:
            return np.arange(spec.shape[0], dtype=np.int32) // np.int32(self.of[0])
        return np.zeros(spec.shape, spec.dtype.carrier)


def implied(role: str, scheme: Encoding, spec: Spec, shape: tuple[int, ...]) -> Implied:
    """What a part of that role holds.

    Args:
        role: ``shape``, ``zero_point``, ``group_index`` or ``workspace``.
        scheme: with groups of columns, of which the last two tell.
        spec: facts of the tensor.
        shape: that of the tensor before it was padded.
    """
    if role == SHAPE:
        return Implied(Part(SHAPE, Spec(DTYPES["I64"], (len(spec.shape),))), shape)
    if role == GROUP_INDEX:
        size: Any = getattr(scheme, "group_size", spec.columns)
        return Implied(Part(GROUP_INDEX, Spec(DTYPES["I32"], (spec.columns,))), (size,))
    if role == WORKSPACE:  # of ``Layer`` in marlin/__init__.py: 128 rows to a block, 16 at a time
        return Implied(Part(WORKSPACE, Spec(DTYPES["I32"], (spec.rows // 128 * 16,))))
    scales = next(part.spec.shape for part in scheme.parts(spec) if part.role == "scale")
    return Implied(Part(ZERO_POINT, Spec(DTYPES["I8"], scales)))
