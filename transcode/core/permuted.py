"""Elements of a tensor in another order, as a tensor of its own: axes of a grid have changed places.

One expression for rows that are permuted by a formula, for parts whose rows alternate, and for transposes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import lcm, prod

from ..errors import PlanError
from .context import Context
from .event import Event
from .expr import Expr, Piece
from .extent import Extent
from .records import dataclass
from .rows import read_rows
from .spec import Spec
from .tensor import LazyTensor, plain

__all__ = ["Permuted", "Reshaped", "permuted", "reshaped"]

_NATIVE = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}


@dataclass(frozen=True, slots=True)
class Permuted(Expr):
    """The elements of a plain tensor, seen as a grid whose axes are put in another order.

    Attributes:
        spec: of the result; its elements are those of the tensor.
        tensor: what is permuted.
        lengths: of the axes of the grid, of the tensor's elements in row-major order.
        order: the axes in their new order, as numpy's ``transpose`` takes it.
        block: elements that are permuted among themselves: whole rows of both.
    """

    spec: Spec
    tensor: LazyTensor
    lengths: tuple[int, ...]
    order: tuple[int, ...]
    block: int

    def room(self) -> float:
        """That of the tensor, and the copy in which elements have changed places."""
        return 1 + self.tensor.value.room()

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        import numpy as np  # commands that look at facts alone do without

        spec, source = self.spec, self.tensor.spec
        begin, end = start * spec.columns, stop * spec.columns
        first, last = _moved(self.order)
        data = read_rows(self.tensor, begin // source.columns, end // source.columns, context)
        raw = data.reshape(-1).view(np.uint8)
        inner = prod(self.lengths[last:]) * source.dtype.bits // (8 * source.dtype.elements)
        kind = np.dtype(_NATIVE.get(inner, f"V{inner}"))
        each = prod(self.lengths[first:])
        grid = raw.view(kind).reshape((end - begin) // each, *self.lengths[first:last])
        out = context.take((raw.nbytes,), np.uint8)
        moved = grid.transpose(0, *(1 + axis - first for axis in self.order[first:last]))
        out.view(kind).reshape(moved.shape)[...] = moved
        rows = out.view(spec.dtype.carrier)
        yield Piece(
            "values",
            spec.row_offset(start),
            rows if spec.dtype.packed else rows.reshape(stop - start, -1),
        )


@dataclass(frozen=True, slots=True)
class Reshaped(Expr):
    """The elements of a plain tensor in the same order, in rows of another length.

    Attributes:
        spec: of the result.
        tensor: whose elements they are.
    """

    spec: Spec
    tensor: LazyTensor

    def extents(self) -> Mapping[str, tuple[Extent, ...]]:
        """Those of the tensor: the bytes are the same."""
        return self.tensor.value.extents()

    def flat(self) -> Expr | None:
        """That of the tensor: the elements are the same."""
        return self.tensor.value.flat()

    def room(self) -> float:
        """That of the tensor."""
        return self.tensor.value.room()

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        spec, source = self.spec, self.tensor.spec
        begin, end = start * spec.columns // source.columns, stop * spec.columns // source.columns
        data = read_rows(self.tensor, begin, end, context)
        packed = spec.dtype.packed
        yield Piece("values", spec.row_offset(start), data if packed else data.reshape(stop - start, -1))


def _moved(order: Sequence[int]) -> tuple[int, int]:
    """From where to where axes change places: those before and behind stay."""
    places = [place for place, axis in enumerate(order) if place != axis]
    return places[0], places[-1] + 1


def permuted(
    tensor: LazyTensor,
    lengths: Sequence[int],
    order: Sequence[int],
    shape: Sequence[int],
    *,
    did: Event | None = None,
) -> LazyTensor:
    """A plain tensor whose elements are those of another in another order; the tensor where none moves.

    Args:
        tensor: it.
        lengths: of the axes of the grid that its elements are, in row-major order.
        order: the axes in their new order.
        shape: of the result.
        did: what is done here, for the plan.

    Raises:
        PlanError: it is quantized, the grid has not as many elements, or what moves is no whole number of
            bytes.
    """
    if not tensor.plain:
        raise PlanError("is quantized, so its elements cannot be moved", tensor=tensor.name)
    if (before := _once(tensor, lengths, order)) is not None:
        inner, lengths, order = before
        return permuted(inner.evolve(name=tensor.name, fate=tensor.fate), lengths, order, shape, did=did)
    spec = Spec(tensor.spec.dtype, tuple(shape))
    if prod(lengths) != tensor.spec.numel or spec.numel != tensor.spec.numel:
        raise PlanError(
            f"{list(tensor.spec.shape)} is no grid of {list(lengths)}, nor of shape {list(shape)}",
            tensor=tensor.name,
        )
    axes = [axis for axis in range(len(lengths)) if lengths[axis] > 1]  # an axis of one moves nothing
    kept = [axis for axis in order if lengths[axis] > 1]
    order = tuple(axes.index(axis) for axis in kept)
    lengths = tuple(lengths[axis] for axis in axes)
    if order == tuple(range(len(order))) or not spec.numel:
        return reshaped(tensor, shape, did=did)
    first, last = _moved(order)
    bits = prod(lengths[last:]) * spec.dtype.bits
    if bits % (8 * spec.dtype.elements):
        raise PlanError(
            f"{prod(lengths[last:])} elements of {spec.dtype} do not fill whole bytes, so they cannot move",
            tensor=tensor.name,
        )
    block = lcm(prod(lengths[first:]), spec.columns, tensor.spec.columns)
    block = lcm(block, spec.columns * spec.grain, tensor.spec.columns * tensor.grain)
    if spec.numel % block:
        block = spec.numel
    value = Permuted(spec, tensor, lengths, order, block)
    moved = plain(tensor.name, spec, value, source=tensor.source, fate=tensor.fate, needs=tensor.needs)
    return moved.evolve(did=did, grain=max(block // spec.columns, 1), cost=tensor.cost)


def _once(
    tensor: LazyTensor, lengths: Sequence[int], order: Sequence[int]
) -> tuple[LazyTensor, list[int], list[int]] | None:
    """What was permuted already, and the grid and the order that do both at once; None where nothing was, or
    axes of the one reach over several of the other.
    """
    value = tensor.value
    while isinstance(value, Reshaped):
        value = value.tensor.value
    if not isinstance(value, Permuted):
        return None
    # The axes between the two, cut so that both have them whole: the length of each, and whose it is.
    inner, outer = [*value.order], [axis for axis in range(len(lengths)) if lengths[axis] > 1]
    fine: list[tuple[int, int, int]] = []
    rest_in = rest_out = 1
    while inner or outer:
        rest_in = rest_in if rest_in > 1 else value.lengths[inner[0]]
        rest_out = rest_out if rest_out > 1 else lengths[outer[0]]
        small, large = min(rest_in, rest_out), max(rest_in, rest_out)
        if large % small:
            return None
        fine.append((small, inner[0], outer[0]))
        rest_in, rest_out = rest_in // small, rest_out // small
        if rest_in == 1:
            inner.pop(0)
        if rest_out == 1:
            outer.pop(0)
    first = sorted(range(len(fine)), key=lambda number: fine[number][1])  # stable: as the tensor has them
    place = {number: at for at, number in enumerate(first)}
    then = [number for axis in order for number in range(len(fine)) if fine[number][2] == axis]
    return value.tensor, [fine[number][0] for number in first], [place[number] for number in then]


def reshaped(tensor: LazyTensor, shape: Sequence[int], *, did: Event | None = None) -> LazyTensor:
    """A plain tensor with the same elements in the same order, in another shape.

    Raises:
        PlanError: it is quantized, or the shape has not as many elements.
    """
    shape = tuple(shape)
    if shape == tensor.spec.shape:
        return tensor if did is None else tensor.evolve(did=did)
    spec = Spec(tensor.spec.dtype, shape)
    if not tensor.plain or spec.numel != tensor.spec.numel:
        raise PlanError(f"{tensor.spec} cannot be seen as {list(shape)}", tensor=tensor.name)
    value = Reshaped(spec, tensor)
    moved = plain(tensor.name, spec, value, source=tensor.source, fate=tensor.fate, needs=tensor.needs)
    least = lcm(spec.columns * spec.grain, tensor.spec.columns * tensor.grain) if spec.numel else 1
    grain = min(max(least // max(spec.columns, 1), 1), max(spec.rows, 1))
    return moved.evolve(did=did, grain=grain, cost=tensor.cost)
