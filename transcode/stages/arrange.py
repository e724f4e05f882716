"""How elements of some tensors lie in one that stacks, interleaves, permutes, turns or reshapes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from ..catalog.rule import Rule, lengths_of
from ..core.event import Event
from ..core.permuted import permuted, reshaped
from ..core.records import dataclass
from ..core.rows import Run, rows_of
from ..core.tensor import LazyTensor
from ..errors import PlanError
from .shift import shifted

__all__ = ["Arrangement", "arrangement"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A rule between tensors of known shapes.

    Attributes:
        rule: it.
        shape: of the left one.
        shapes: of the right ones: those of the first of a stack, those of the second ...
        lengths: of the axes of the grid of all of the right ones' elements, one after the other.
        order: these axes as the left one has them.
    """

    rule: Rule
    shape: Shape
    shapes: tuple[Shape, ...]
    lengths: Shape
    order: tuple[int, ...]

    @property
    def rows_alone(self) -> bool:
        """Whether whole rows of one matrix are all that moves."""
        rule = self.rule
        elements = rule.grid is not None and rule.grid.elements
        return not (rule.add or rule.stacks or any(rule.shapes) or elements)

    def rows_in_order(self) -> list[int]:
        """Which of the right side's rows each row of the left one is, where :attr:`rows_alone`."""
        import numpy as np

        lengths = self.lengths[:-1]
        grid = np.arange(prod(lengths)).reshape(lengths)
        rows: list[int] = grid.transpose(self.order[:-1]).reshape(-1).tolist()
        return rows

    @staticmethod
    def right_shape(rule: Rule, shape: Shape, facts: Mapping[str, object], name: str) -> Shape:
        """That of all rows of the right side, of the shape of the left one (of one of a stack).

        Raises:
            PlanError: what the rule asks of the model is not known, or the shape is not such.
        """
        if not shape:
            raise PlanError("has too few dimensions", tensor=name, hint="is it of this family?")
        if len(shape) == 1 and len(rule.shapes[0]) != 1:
            return shape
        turns = rule.grid is not None and rule.grid.turns
        rows = shape[-1] if turns else shape[0]
        columns = prod(shape) // rows if rows else 0
        if rule.shapes[1]:
            return _lengths(rule.shapes[1], prod(shape), rows, columns, facts, name)
        return (rows, columns) if turns else shape

    def joined(self, name: str, tensors: Sequence[LazyTensor], did: Event) -> LazyTensor:
        """The left tensor of plain right ones.

        Raises:
            PlanError: they have several dtypes, or elements that do not fill whole bytes move.
        """
        flat = [reshaped(one, _flat(shape)) for one, shape in zip(tensors, self.shapes, strict=True)]
        rows = sum(one.spec.rows for one in flat)
        joined = flat[0]
        if len(flat) > 1:
            shape = (rows, *_flat(self.shapes[0])[1:])
            joined = rows_of(name, shape, [Run(one, 0, one.spec.rows) for one in flat], did=did)
        else:
            joined = joined.evolve(did=did)
        left = permuted(joined, self.lengths, self.order, self.shape)
        return (shifted(left, self.rule.add) if self.rule.add else left).evolve(name=name)

    def parts(self, names: Sequence[str], tensor: LazyTensor, did: Event) -> Iterator[LazyTensor]:
        """The right tensors of a plain left one, under these names.

        Raises:
            PlanError: elements that do not fill whole bytes move.
        """
        left = shifted(tensor, -self.rule.add) if self.rule.add else tensor
        lengths = [self.lengths[axis] for axis in self.order]
        back = [self.order.index(axis) for axis in range(len(self.order))]
        first = _flat(self.shapes[0])
        rows = sum(shape[0] for shape in self.shapes)
        joined = permuted(left, lengths, back, (rows, *first[1:]))
        begin = 0
        for name, shape in zip(names, self.shapes, strict=True):
            part = joined
            if len(self.shapes) > 1:
                part = rows_of(name, _flat(shape), [Run(joined, begin, shape[0])], did=did)
            else:
                part = part.evolve(did=did)
            begin += shape[0]
            yield reshaped(part, shape).evolve(name=name)


def arrangement(
    rule: Rule, parts: Sequence[Shape], depth: int, facts: Mapping[str, object], name: str
) -> Arrangement:
    """A rule between tensors of these shapes.

    Args:
        rule: it.
        parts: shapes of the right tensors, of one of a stack.
        depth: how many are stacked; 1 where the rule stacks none.
        facts: keys of the model's config.json.
        name: of a tensor, for errors.

    Raises:
        PlanError: what the rule asks of the model is not known, or the shapes are not such.
    """
    rows, tail = sum(shape[0] for shape in parts), parts[0][1:]
    columns = prod(tail)
    weight, grid = bool(tail) or len(rule.shapes[1]) == 1, rule.grid
    if weight and rule.shapes[1]:
        stated = _lengths(rule.shapes[1], rows * columns, rows, columns, facts, name)
        if stated != (rows, *tail):
            raise PlanError(
                f"{[rows, *tail]} is not the {list(stated)} that it has in this family", tensor=name,
                hint="is it of this family?",
            )  # fmt: skip
    left: Shape = (rows, *tail)
    if weight and rule.shapes[0]:
        left = _lengths(rule.shapes[0], rows * columns, rows, columns, facts, name)
    elif weight and grid is not None and grid.turns:
        left = (columns, rows)
    lengths: Shape = (rows, columns)
    order: tuple[int, ...] = (0, 1)
    if grid is not None and (weight or not grid.elements):
        total = rows * columns if grid.elements else rows
        axes = _lengths(grid.lengths, total, rows, columns, facts, name)
        lengths = axes if grid.elements else (*axes, columns)
        order = grid.order if grid.elements else (*grid.order, len(axes))
    return Arrangement(
        rule,
        (depth, *left) if rule.stacks else left,
        tuple(parts) * depth,
        (depth, *lengths),
        (0, *(1 + axis for axis in order)),
    )


def _flat(shape: Shape) -> Shape:
    """Rows as they are, all behind them as one."""
    return shape if len(shape) < 2 else (shape[0], prod(shape[1:]))


def _lengths(
    texts: Sequence[str], total: int, rows: int, columns: int, facts: Mapping[str, object], name: str
) -> Shape:
    try:
        lengths = lengths_of(texts, total, {**facts, "rows": rows, "columns": columns})
    except (ArithmeticError, LookupError, TypeError) as error:
        raise PlanError(
            f"how its elements lie depends on {error} of the model's config.json, which is not there",
            tensor=name,
            hint="convert the folder that has it",
        ) from None
    if lengths is None:
        raise PlanError(
            f"has {rows} rows of {columns}, which are no {' x '.join(texts)}", tensor=name,
            hint="is it of this family, and is config.json that of these tensors?",
        )  # fmt: skip
    return tuple(lengths)
