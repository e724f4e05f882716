"""What SDNQ makes of matrices whose largest singular values it keeps apart: codes of the rest, and a product.

``value = scheme(codes, scale ...) + lora_up @ lora_down``: the codes stand for what the product of two narrow
matrices leaves over (``apply_svdquant`` and ``dequantize_symmetric`` of sdnq 0.2.8; ``use_svd``). These are
only decoded: a singular value decomposition needs the whole matrix at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from ..core.dtypes import DTYPES
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.spec import Part, Spec
from .affine import Affine
from .base import Array, Base, widened
from .fp8 import Fp8
from .grid import Grid
from .int4 import Int4
from .int8 import Int8
from .rounding import ROUNDED
from .scaled import KEPT

__all__ = ["AffineSvd", "Branch", "Fp8Svd", "Int4Svd", "Int8Svd", "add_branch"]


def add_branch(up: Array, down: Array, out: Array) -> None:
    """``out += up @ down`` in float32, by one chain of fused multiply-adds for each element.

    Args:
        up: float32 ``[R, rank]``.
        down: float32 ``[rank, K]``.
        out: float32 ``[R, K]``, changed.
    """
    from ..numerics.lora import BAND, RANKS, add_product, padded

    (count, rank), columns = up.shape, down.shape[1]
    rows, steps = padded(count), padded(rank, RANKS)
    wide = np.zeros((rows, steps), np.float32)
    wide[:count, :rank] = up
    low = np.zeros((steps, columns), np.float32)
    low[:rank] = down
    whole = count // BAND * BAND
    if whole:
        add_product(wide[:whole], low, np.float32(1), out[:whole])
    if rows > whole:  # the last rows do not fill a band
        rest = np.zeros((BAND, columns), np.float32)
        rest[: count - whole] = out[whole:]
        add_product(wide[whole:], low, np.float32(1), rest)
        out[whole:] = rest[: count - whole]


@dataclass(frozen=True)
class Branch(Base):
    """A scheme with a branch of low rank beside it.

    What codes and scales stand for is rounded to the dtype of the branch, and so is the sum.

    Attributes:
        rounds: whether that is so.

    Args:
        rank: columns of ``lora_up``.
        branch_dtype: ``"F32"``, ``"BF16"`` or ``"F16"``, that of both of its matrices.
    """

    rounds: ClassVar[bool] = True

    rank: int = 0
    branch_dtype: str = "F32"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Self]:
        """Those of the scheme, with the branch that the file has."""
        if hints.rank and hints.branch in KEPT:
            for one in super().variants(options, hints):
                yield replace(one, rank=hints.rank, branch_dtype=hints.branch)

    def meaning(self, spec: Spec) -> Hashable:
        """That of the scheme, and that there is a branch."""
        return super().meaning(spec), self.rank

    def grid(self, spec: Spec) -> Grid | None:
        """None: values are sums."""
        return None

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """Those of the scheme, ``lora_down`` ``[rank, K]`` and ``lora_up`` ``[N, rank]``."""
        kept, (rows, columns) = DTYPES[self.branch_dtype], spec.shape[-2:]
        own: tuple[Part, ...] = super().parts(spec)  # type: ignore[misc]  # of the scheme, which stands behind it
        return (
            *own,
            Part("lora_down", Spec(kept, (self.rank, columns))),
            Part("lora_up", Spec(kept, (rows, self.rank))),
        )

    def before_branch(self, parts: Mapping[str, Array], out: Array) -> None:
        """What is done to values before the branch is added: nothing."""

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`."""
        super().decode(parts, spec, start, stop, out)  # type: ignore[misc]  # likewise
        kept = DTYPES[self.branch_dtype]
        rounded = ROUNDED[self.branch_dtype if self.rounds else "F32"]
        up, down = (
            widened(np.asarray(parts[role]), kept).reshape(shape)
            for role, shape in (("lora_up", (-1, self.rank)), ("lora_down", (self.rank, -1)))
        )
        self.before_branch(parts, out)
        out[:] = rounded(out)
        add_branch(up[start:stop], down, out)
        out[:] = rounded(out)


@dataclass(frozen=True)
class Int8Svd(Branch, Int8):
    """int8 beside a branch."""

    name: ClassVar[str] = "int8_svd"
    summary: ClassVar[str] = "int8 of what a branch of low rank leaves over"


@dataclass(frozen=True)
class Fp8Svd(Branch, Fp8):
    """fp8 beside a branch."""

    name: ClassVar[str] = "fp8_svd"
    summary: ClassVar[str] = "fp8 of what a branch of low rank leaves over"


@dataclass(frozen=True)
class Int4Svd(Branch, Int4):
    """int4 beside a branch."""

    name: ClassVar[str] = "int4_svd"
    summary: ClassVar[str] = "int4 of what a branch of low rank leaves over"


@dataclass(frozen=True)
class AffineSvd(Branch, Affine):
    """affine beside a branch."""

    name: ClassVar[str] = "affine_svd"
    summary: ClassVar[str] = "affine of what a branch of low rank leaves over"
