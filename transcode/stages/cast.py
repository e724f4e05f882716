"""Cast tensors to another float dtype."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import lcm
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import catalog
from ..consumers.stored import Stored, plain_fp8, stored_quantized
from ..core.context import Context
from ..core.dtypes import CASTS, DType, dtype
from ..core.dtypes import float_dtype as name_of
from ..core.event import Event
from ..core.expr import Expr, Piece
from ..core.flow import Transform
from ..core.patterns import Patterns
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.tensor import LazyTensor, plain
from ..errors import DataError, PlanError
from ..voice import called
from .options import CastOptions

__all__ = ["Cast", "Casting", "cast_tensor", "cast_values", "float_dtype"]


def float_dtype(name: str) -> DType:
    """A dtype that tensors can be cast to. Raises RecipeError."""
    return dtype(name_of("cast", name))


@dataclass(frozen=True)
class Cast(CastOptions, Transform):
    """Cast float tensors.

    Floats (F64, F32, F16, BF16, and FP8 that no scale belongs to) are cast; integers, booleans and packed
    formats stay. So do the codes and scales of quantized tensors: neither means anything without the other.
    """

    retypes: ClassVar[bool] = True

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Rewrite dtypes; values are cast tile by tile when they are read.

        Raises:
            PlanError: nothing can be cast, or what ``only`` names is quantized.
        """
        target = float_dtype(self.to)
        patterns = Patterns(self.only)
        tensors = list(tensors)
        stored = stored_quantized(tensors)
        codes = {*stored.tensors, *stored.foreign}
        bare = [
            tensor
            for tensor in plain_fp8(tensors, stored)
            if tensor.spec.dtype != target and self._takes(tensor, patterns)
        ]
        if bare:
            from ..consumers.orphans import refuse_scaled

            refuse_scaled(bare, tensors, stored, planning)
        kept: list[LazyTensor] = []
        able = done = 0
        eights = any(tensor.spec.dtype.name.startswith("F8") for tensor in tensors)
        conventions = catalog.every_convention() if eights else []
        for tensor in tensors:
            match = patterns.first(tensor.name)
            kind = tensor.spec.dtype.name
            if not self._takes(tensor, patterns):
                yield tensor
            elif tensor.name in planning.settled:
                able += 1
                yield tensor.evolve(did=Event("keep", "its reader asks for this dtype, cast does not apply"))
            elif not tensor.plain:
                yield tensor.evolve(did=Event("keep", "quantized already, cast does not apply"))
            elif tensor.name in stored.parts:
                kept.append(tensor)
                if match is not None and tensor.name in codes:
                    raise _quantized(tensor, stored, planning)
                yield tensor.evolve(did=Event("keep", "part of a quantized tensor, cast does not apply"))
            elif kind.startswith("F8") and catalog.is_marker(tensor.name, conventions):
                yield tensor.evolve(did=Event("keep", "a marker, cast does not apply"))
            elif kind not in CASTS:
                yield tensor.evolve(did=Event("keep", f"{kind} is not a float that can be cast"))
            else:
                able += 1
                done += kind != target.name or any(event.kind == "cast" for event in tensor.fate)
                yield cast_tensor(tensor, target, saturate=self.saturate)
        planning.unmatched("cast", patterns.unused(), [tensor.name for tensor in tensors])
        held = [tensor for tensor in kept if tensor.name in codes]
        if held and not able:
            raise _quantized(held[0], stored, planning)
        if held:
            planning.warn(
                f"cast: {len(held)} tensors are quantized ({stored.described(planning)}) and stay as they are"
                f" ({held[0].name} ...); {called('dequantize', target.name)} decodes them"
            )
        if not done and not self.dtypes:
            planning.warn(f"cast: no tensor is changed, all that could be cast are {target.name}")

    def _takes(self, tensor: LazyTensor, patterns: Patterns) -> bool:
        if self.only and patterns.first(tensor.name) is None:
            return False
        return not self.dtypes or tensor.spec.dtype.name in self.dtypes


def _quantized(tensor: LazyTensor, stored: Stored, planning: Planning) -> PlanError:
    held = tensor.spec.dtype.name
    return PlanError(
        f"cannot be cast, its {held} are codes to which a scale belongs ({stored.described(planning)})",
        tensor=tensor.name,
        hint=f"decode it instead: {called('dequantize', 'bf16')}",
    )


def cast_tensor(tensor: LazyTensor, to: DType, *, saturate: bool = False, why: str = "") -> LazyTensor:
    """A plain tensor whose rows are cast as they are read; the tensor itself where nothing changes."""
    source = tensor.spec.dtype
    if source == to:
        return tensor
    spec = Spec(to, tensor.spec.shape)
    value = Casting(tensor, to, saturate)
    made = plain(tensor.name, spec, value, source=tensor.source, needs=tensor.needs, fate=tensor.fate)
    return made.evolve(
        cost=tensor.cost,
        grain=lcm(tensor.grain, spec.grain),
        did=Event("cast", f"{source.name} -> {to.name}{why and ', ' + why}"),
    )


@dataclass(frozen=True, slots=True)
class Casting(Expr):
    """A plain tensor in another dtype.

    Attributes:
        tensor: the tensor, or its elements where rows are cut.
        to: the dtype.
        saturate: see :class:`Cast`.
        columns: of a row, where rows are cut.
    """

    tensor: LazyTensor
    to: DType
    saturate: bool
    columns: int | None = None

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        source, to = self.tensor.spec.dtype.name, self.to.name
        return None if to in _WIDER.get(source, ()) else f"{source} is cast to {to}"

    def flat(self) -> Casting | None:
        """Nothing of a row concerns its elements."""
        elements = self.tensor.cut(0)
        if elements is self.tensor:
            return None
        return Casting(elements, self.to, self.saturate, self.tensor.spec.columns)

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        tensor = self.tensor
        rows = tensor.matrix(start, stop, context)
        if self.columns is not None:
            rows = rows.reshape(1, -1)
        out = cast_values(
            rows, tensor.spec.dtype, self.to, context, tensor.source or tensor.name, start,
            saturate=self.saturate, columns=self.columns,
        )  # fmt: skip
        yield Piece("values", Spec(self.to, tensor.spec.shape).row_offset(start), out)


_WIDER = {
    "F8_E4M3": ("F16", "BF16", "F32", "F64"),
    "F8_E5M2": ("F16", "BF16", "F32", "F64"),
    "F16": ("F32", "F64"),
    "BF16": ("F32", "F64"),
    "F32": ("F64",),
}
"""Dtypes that hold all values of another."""


def cast_values(
    rows: NDArray[Any],
    source: DType,
    to: DType,
    scratch: Scratch,
    name: str,
    start: int,
    *,
    saturate: bool = False,
    columns: int | None = None,
) -> NDArray[Any]:
    """Rows cast to another dtype, in the worker's memory.

    Args:
        rows: ``[r, columns]`` in the carrier dtype of ``source``; they begin at row ``start`` of the tensor.
        name: of the tensor, for errors.
        columns: where the rows of the tensor are cut: how many columns they have. Then ``rows`` are some
            elements ``[1, n]``, of which the first is number ``start``.

    Raises:
        DataError: a finite value is too large for ``to``, unless it is to saturate.
    """
    from ..numerics import Overflow
    from ..numerics.cast import cast

    if source == to:
        return rows
    out = scratch.take(rows.shape, np.dtype(to.carrier))
    try:
        cast(rows, source, to, out, saturate=saturate)
    except Overflow as error:
        row, column = start + error.row, error.column
        if columns is not None:
            row, column = divmod(start + error.column, columns)
        raise DataError(
            f"{error.value!r} at row {row}, column {column} does not fit {to.name}",
            tensor=name,
            hint="cast to BF16, or saturate",
        ) from None
    return out
