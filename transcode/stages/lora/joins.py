"""Adapters of the parts of a joined module as one of that, and differences of parts as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...catalog.rule import Rule
from ...core.event import Event
from ...core.expr import Constant
from ...core.rows import Run, rows_of
from ...core.spec import Spec
from ...core.tensor import LazyTensor, plain
from .assembled import Block, assemble
from .portions import Unportioned, on_input
from .sorting import Roles

__all__ = ["alike", "heights_of", "joined", "stacked"]

Members = Mapping[int, Roles]
"""The tensors of the parts that have any, by number."""


def joined(kind: str, members: Members, heights: Sequence[int]) -> Roles:
    """The tensors of one adapter that does to the rows of each part what its own does, and leaves others.

    Args:
        kind: as ``formats/lora/names.yaml`` names it.
        members: of that kind.
        heights: rows of all parts.

    Raises:
        Unportioned: there is none.
    """
    if len({frozenset(roles) for roles in members.values()}) > 1:
        raise Unportioned("is made of other tensors in other parts")
    kinds = {role: {one[role].spec.dtype.name for one in members.values()} for role in _any(members)}
    if any(len(dtypes) > 1 for dtypes in kinds.values()):
        raise Unportioned("has another dtype in other parts")
    if kind not in _KINDS:
        raise Unportioned("turns rows together")
    return _KINDS[kind](members, heights)


def heights_of(rule: Rule, known: Mapping[int, int], columns: int | None) -> list[int]:
    """Rows of all parts of a joined module, of which some are known.

    Args:
        rule: the one that joins it.
        known: rows by part.
        columns: of the weight; None where they are not known.

    Raises:
        Unportioned: those of others do not follow.
    """
    count = len(rule.right)
    part, rows = next(iter(known.items()))
    ratio = rule.ratio or (1,) * count
    times = rule.rows or [one * rows / ratio[part] for one in ratio]
    each = (columns if rule.rows else 1) or 0
    heights = [known.get(one, int(many * each) if many > 0 else 0) for one, many in enumerate(times)]
    countable = columns is not None or not rule.rows
    if not all(heights) or (countable and rule.counts(sum(heights), columns) != heights):
        raise Unportioned("is for some parts of a joined layer, of which others have unknown rows")
    return heights


def stacked(parts: Mapping[int, LazyTensor], heights: Sequence[int]) -> LazyTensor:
    """Tensors of rows, one below the other; zeros where a part has none."""
    first = next(iter(parts.values()))
    tail = first.spec.shape[1:]
    if any(one.spec.shape != (heights[part], *tail) for part, one in parts.items()):
        raise Unportioned("has another shape in other parts")
    runs = []
    for part, height in enumerate(heights):
        spec = Spec(first.spec.dtype, (height, *tail))
        one = parts.get(part) or plain("zeros", spec, Constant(spec, bytes(spec.nbytes)))
        runs.append(Run(one, 0, spec.rows))
    did = Event("convert", f"joined of {len(parts)} of {len(heights)} parts")
    return rows_of("", (sum(heights), *tail), runs, did=did, source=first.source)


def alike(tensors: Sequence[LazyTensor]) -> bool:
    """Whether all have the same facts and values."""
    first = tensors[0]
    return all(
        one.spec == first.spec and one.numpy().tobytes() == first.numpy().tobytes() for one in tensors[1:]
    )


def _any(members: Members) -> Roles:
    return next(iter(members.values()))


def _of(members: Members, role: str) -> dict[int, LazyTensor]:
    return {part: roles[role] for part, roles in members.items()}


def _blocks(members: Members, heights: Sequence[int], up: str, down: str) -> Roles:
    """The products of all parts as one: ups in blocks, downs below each other."""
    if any(len(roles[role].spec.shape) != 2 for roles in members.values() for role in (up, down)):
        raise Unportioned("is of a kernel")
    ups, downs, row, rank = [], [], 0, 0
    for part, height in enumerate(heights):
        if part in members:
            ups.append(Block(members[part][up], 0, height, row, rank))
            downs.append(Block(members[part][down], 0, members[part][down].spec.shape[0], rank))
            rank += members[part][down].spec.shape[0]
        row += height
    columns = downs[0].tensor.spec.columns
    did = f"joined of {len(members)} of {len(heights)} parts"
    return {up: assemble("", (row, rank), ups, did), down: assemble("", (rank, columns), downs, did)}


def _loha(members: Members, heights: Sequence[int]) -> Roles:
    if _any(members).keys() & {"t1", "t2"}:
        raise Unportioned("has cores, of which no one is that of several")
    return _blocks(members, heights, "w1_a", "w1_b") | _blocks(members, heights, "w2_a", "w2_b")


def _lokr(members: Members, heights: Sequence[int]) -> Roles:
    """Products of one second side: the first sides below each other."""
    return _shared(members, heights, "w1" if "w1" in _any(members) else "w1_a")


def _glora(members: Members, heights: Sequence[int]) -> Roles:
    return _shared(members, heights, "b1")


def _shared(members: Members, heights: Sequence[int], rows: str) -> Roles:
    """One factor below each other, where all parts have the same others."""
    first = _any(members)
    others = first.keys() - {rows}
    if len(members) < len(heights) or not all(alike([*_of(members, role).values()]) for role in others):
        raise Unportioned("is the product of other factors in each part")
    tensors = _of(members, rows)
    return {**first, rows: stacked(tensors, [tensors[part].spec.shape[0] for part in range(len(heights))])}


def _ia3(members: Members, heights: Sequence[int]) -> Roles:
    """A value of 0 is a factor of 1 (``lycoris/modules/ia3.py``)."""
    if any(roles.keys() != {"on_input", "values"} or on_input(roles) for roles in members.values()):
        raise Unportioned("scales the inputs of each part otherwise")
    return {**_any(members), "values": stacked(_of(members, "values"), heights)}


def _oft(members: Members, heights: Sequence[int]) -> Roles:
    """A block of zeros turns nothing."""
    shapes = {roles["blocks"].spec.shape for roles in members.values() if roles.keys() == {"blocks"}}
    size = next(iter(shapes))[-1] if shapes else 0
    if len(members) != sum(roles.keys() == {"blocks"} for roles in members.values()) or any(
        len(shape) != 3 or shape[1] != size for shape in shapes
    ):
        raise Unportioned("turns rows of each part together, and not in blocks alone that are alike")
    if any(height % size for height in heights):
        raise Unportioned(f"has blocks of {size} rows, of which parts are no whole number")
    return {"blocks": stacked(_of(members, "blocks"), [height // size for height in heights])}


def _dora(members: Members, heights: Sequence[int]) -> Roles:
    if len(members) < len(heights) or any(roles.keys() != {"scale"} for roles in members.values()):
        raise Unportioned("has not magnitudes of the outputs of all parts")
    return {"scale": stacked(_of(members, "scale"), heights)}


_KINDS: Mapping[str, Callable[[Members, Sequence[int]], Roles]] = {
    "loha": _loha, "lokr": _lokr, "glora": _glora, "ia3": _ia3, "oft": _oft, "dora": _dora,
}  # fmt: skip
