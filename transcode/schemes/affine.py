"""affine: codes of few bits under a scale and an offset, both floats, to a group of columns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from .base import SCALE_DTYPES, SEARCH, Array, Fitted, encode_one, fitting, narrowed, stored_scale, widened
from .scaled import KEPT

__all__ = ["SIZES", "Affine", "fitted", "seconds"]

SIZES = (32, 64, 128)
"""Columns of a group in use."""


@dataclass(frozen=True)
class Affine(Fitted):
    """Unsigned codes: ``value = code * scale + offset`` (``affine`` of MLX's ``mx.quantize``, which calls the
    offset a bias).

    Codes of a row are one stream of bits, the lowest first: eight of them are ``bits`` bytes. Scale and
    offset are found as those of :class:`.awq_w4a16.AwqW4A16`.

    Args:
        bits: of a code: 2, 3, 4, 5, 6 or 8.
        group_size: columns that share a scale and an offset: a multiple of 8, 32, 64 or 128 for most readers.
        scale_dtype: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``; source means F32 for F16 and F64
            sources.
        optimize: ``"mse"`` fits from nine scales and offsets of a group, and keeps the best.
    """

    name: ClassVar[str] = "affine"
    summary: ClassVar[str] = "2 to 8-bit codes, a scale and an offset in floats to a group of columns"
    observes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "bits": Constraint.among(2, 3, 4, 5, 6, 8),
        "group_size": Constraint(
            "a multiple of 8 columns", SIZES[:2], lambda n: type(n) is int and n > 0 and not n % 8
        ),
        "scale_dtype": SCALE_DTYPES,
        "optimize": SEARCH,
    }

    bits: int = 4
    group_size: int = 64
    scale_dtype: str = "source"
    optimize: str = "none"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Affine]:
        """Each width and group size."""
        if hints.scale not in KEPT:
            return
        for bits in cls.options["bits"].cases:
            for size in sorted(hints.groups) or SIZES:
                if cls.options["group_size"].holds(size):
                    yield cls(bits, size, hints.scale)

    @property
    def search_seconds(self) -> float:
        """See :func:`seconds`."""
        return seconds(self.optimize)

    def meaning(self, spec: Spec) -> Hashable:
        """Width and groups."""
        return self.name, self.bits, self.group_size

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole groups of columns."""
        return 1, self.group_size

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[.., N, K * bits / 8]``, scales and offsets ``[.., N, K / group_size]``."""
        *outer, columns = spec.shape
        kept = Spec(stored_scale(self.scale_dtype, spec.dtype), (*outer, columns // self.group_size))
        codes = Spec(DTYPES["U8"], (*outer, columns * self.bits // 8))
        return Part("codes", codes), Part("scale", kept), Part("offset", kept)

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        encode_one(self.encode, dtype, self.group_size)

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: Any, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`."""
        kept = stored_scale(self.scale_dtype, spec.dtype)
        codes, scales, offsets = fitted(rows, spec, self, kept, scratch, weights)
        at = start * (spec.columns // self.group_size) * kept.itemsize
        yield Piece("codes", start * codes.shape[1], codes)
        yield Piece("scale", at, narrowed(scales, kept, scratch))
        yield Piece("offset", at, narrowed(offsets, kept, scratch))

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`: product and sum, each rounded to float32."""
        kept = stored_scale(self.scale_dtype, spec.dtype)
        scales, offsets = (
            widened(np.asarray(parts[role]), kept).reshape(spec.rows, -1, 1)[start:stop]
            for role in ("scale", "offset")
        )
        stored = np.ascontiguousarray(parts["codes"]).view(np.uint8).reshape(-1, self.bits)
        words = np.zeros(len(stored), np.uint64)
        for place in range(self.bits):
            words |= stored[:, place].astype(np.uint64) << np.uint64(8 * place)
        eights = out.reshape(-1, 8)
        for place in range(8):
            eights[:, place] = words >> np.uint64(self.bits * place) & np.uint64(2**self.bits - 1)
        groups = out.reshape(stop - start, -1, self.group_size)
        groups *= scales
        groups += offsets


def seconds(optimize: str) -> float:
    """What :func:`fitted` takes of a processor for the values of one GB, measured."""
    return 80.0 if optimize == "mse" else 8.0


def fitted(
    rows: Array, spec: Spec, scheme: Any, kept: DType, scratch: Scratch, weights: Array | None,
    middle: int = 0,
) -> tuple[Array, NDArray[np.float32], NDArray[np.float32]]:  # fmt: skip
    """Codes of rows, U8 ``[r, K * bits / 8]``, and the scale and offset of each group, float32 ``[groups]``.

    Args:
        rows, spec, scratch, weights: as :meth:`.core.scheme.Scheme.encode` takes them.
        scheme: says ``bits``, ``group_size`` and ``optimize``.
        kept: dtype that scales and offsets are stored in, whose values they hold.
        middle: the code that stands for the offset.

    Raises:
        NonFinite, Overflow: a value that no code stands for.
    """
    from ..numerics.affine_widths import affine_widths
    from ..numerics.lanes import STORED
    from ..numerics.starts import SEARCHED

    line = scratch.take((2 * scheme.group_size,), np.float32)
    starts = SEARCHED if scheme.optimize == "mse" else 1

    def fit(bits: Array, heavy: Array, codes: Array, scales: Array, offsets: Array) -> bool:
        return bool(
            affine_widths(
                bits, scheme.group_size, scheme.bits, np.float32(middle), STORED[kept.name], starts, heavy,
                line, codes, scales, offsets,
            )
        )  # fmt: skip

    return fitted_by(fit, rows, spec, scheme, kept, scratch, weights)


def fitted_by(
    fit: Callable[[Array, Array, Array, Array, Array], bool], rows: Array, spec: Spec, scheme: Any,
    kept: DType, scratch: Scratch, weights: Array | None,
) -> tuple[Array, NDArray[np.float32], NDArray[np.float32]]:  # fmt: skip
    """As :func:`fitted`, by a kernel of the caller's.

    Args:
        fit: takes bits of the values, weights of columns, and room for codes, scales and offsets; returns
            whether all values were finite.
    """
    from ..numerics.rows import as_bits, reject
    from ..numerics.weighted import balanced

    bits = as_bits(rows, spec.dtype, scratch).reshape(-1)
    codes = scratch.take((len(rows), spec.columns * scheme.bits // 8), np.uint8)
    count = len(bits) // scheme.group_size
    scales, offsets = (scratch.take((count,), np.float32) for _ in range(2))
    heavy = np.ones(1, np.float32) if weights is None else balanced(weights)
    heavy.setflags(write=False)
    if not fit(bits, heavy, codes.reshape(-1), scales, offsets):
        raise reject(rows, spec.dtype)
    fitting(rows, spec.dtype, scales, kept, (2**scheme.bits - 1) / 2)
    fitting(rows, spec.dtype, np.abs(offsets), kept, 1)
    return codes, scales, offsets
