"""Tensors that another spelling has together, apart, or in another order: as views, without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..catalog.rule import MEMBER, Rule
from ..catalog.spelling import Direction, Hit, fill
from ..core.event import Event
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import PlanError
from .arrange import Arrangement, arrangement
from .restacked import put_values, values_of
from .stored_rows import OTHERWISE, WEIGHT, Item, Taken, alike, put

__all__ = ["Structure"]


class Structure:
    """The tensors of one spelling that are not those of another element for element.

    Args:
        direction: from one to the other.
        items: by name, all that there are.
        facts: keys of the model's config.json, of which rules may speak.
    """

    def __init__(
        self, direction: Direction, items: Mapping[str, Item], facts: Mapping[str, object] | None = None
    ) -> None:
        self._forward = direction.forward
        self._items = items
        self._facts = facts or {}
        self._joins: dict[str, dict[tuple[int, int], Item]] = {}
        for item in items.values():
            hit = direction.find(item.name)
            if hit is not None and self._joining(hit):
                self._joins.setdefault(hit.others[0], {})[hit.member, hit.part] = item

    def of(self, item: Item, hit: Hit, planning: Planning) -> Iterator[LazyTensor]:
        """What becomes of a tensor: nothing, where it goes into one that an earlier one began.

        Raises:
            PlanError: its shape does not have such rows, another part is missing or does not fit, they are
                quantized in a way in which they cannot be moved, or what a rule asks of the model's
                configuration is not known.
        """
        self._check_rows(item, hit)
        if self._joining(hit):
            members = self._joins[hit.others[0]]
            if item is next(iter(members.values())):
                yield from self._joined(hit, [members[key] for key in sorted(members)], planning)
        elif item.whole:
            if hit.rule.stacks:
                raise PlanError("is one value, not one for each of a stack", tensor=item.tensor.name)
            for name in hit.others:
                yield _renamed(item, name)
        elif hit.rule.swapped:
            yield from self._swapped(hit, item)
        elif hit.rule.by_rows:
            yield from self._split(hit, item)
        elif self._forward:
            yield from self._apart(hit, item)
        else:
            yield from self._arranged(hit, [item])

    def whole(self, hit: Hit) -> bool:
        """Whether all that is to be joined is there."""
        if not self._joining(hit):
            return True
        there = self._joins[hit.others[0]]
        return len(there) == len(hit.rule.right) * self._depth(there, hit)

    def lacking(self, hit: Hit) -> str:
        """Which parts of what is to be joined are not there, in words."""
        there = self._joins[hit.others[0]]
        depth = self._depth(there, hit)
        names = (
            _named(fill(str(part), hit.numbers, hit.rest), member)
            for member in range(depth)
            for number, part in enumerate(hit.rule.right)
            if (member, number) not in there
        )
        few = [name for name, _ in zip(names, range(4), strict=False)]
        return " and ".join(few[:3]) + (" and more" if len(few) > 3 else "")

    def _check_rows(self, item: Item, hit: Hit) -> None:
        """Refuse what stands beside a weight and is not of its rows, which are what is known to move."""
        if item.whole or hit.rest in ("", WEIGHT) or not hit.rule.keeps_rows:
            return
        weight = self._items.get(item.name.removesuffix(hit.rest) + WEIGHT)
        if weight is not None and len(weight.shape) > 1 and weight.shape[0] != item.shape[0]:
            raise PlanError(
                f"{list(item.shape)} has not the {weight.shape[0]} rows of {weight.tensor.name}, with which"
                " it would move",
                tensor=item.tensor.name,
                hint="is it of this family?",
            )

    @staticmethod
    def _depth(there: Mapping[tuple[int, int], Item], hit: Hit) -> int:
        """How many are stacked."""
        return 1 + max(member for member, _ in there) if hit.rule.stacks else 1

    def _joining(self, hit: Hit) -> bool:
        return not self._forward and (len(hit.rule.right) > 1 or hit.rule.stacks)

    def _joined(self, hit: Hit, items: Sequence[Item], planning: Planning) -> Iterator[LazyTensor]:
        name, rule = hit.others[0], hit.rule
        first = items[0]
        if len({item.reading is None for item in items}) > 1:
            raise PlanError(
                f"is joined of tensors of which some are quantized: {_few(items)}",
                tensor=name,
                hint=OTHERWISE,
            )
        if all(item.whole for item in items) and not rule.stacks:
            alike([item.tensor for item in items], name)
            yield _renamed(first, name)
            return
        for item in items:
            if not item.shape or 0 in item.shape:
                raise PlanError(
                    f"{list(item.shape)} has no rows that could be joined",
                    tensor=item.tensor.name,
                    hint="is the file complete?",
                )
            if item.shape[1:] != first.shape[1:]:
                raise PlanError(
                    f"{list(item.shape)} cannot be joined to {list(first.shape)} of {first.tensor.name}",
                    tensor=item.tensor.name,
                )
        parts = len(rule.right)
        known = (self._columns(item, hit.rest) for item in items)
        columns = next((columns for columns in known if columns is not None), None)
        for at in range(0, len(items), parts):
            rows = [item.shape[0] for item in items[at : at + parts]]
            if rule.counts(sum(rows), columns) != rows:
                raise PlanError(
                    f"of {', '.join(map(str, rows))} rows could not be taken apart again",
                    tensor=name,
                    hint=f"{_kinds(rule)} of this family have others",
                )
            if rows != [item.shape[0] for item in items[:parts]]:
                raise PlanError(
                    f"{list(items[at].shape)} is not the {list(first.shape)} of {first.tensor.name}, so they"
                    " cannot be stacked",
                    tensor=items[at].tensor.name,
                )
        for item in items[1:]:
            gone = [item.tensor] if item.parts is None else [one.tensor for one in item.parts.values()]
            for tensor in (*gone, *item.beside):
                planning.drop(tensor, Event("absorb", f"it went into {name}"))
        if not rule.by_rows:
            yield from self._arranged(hit, items)
            return
        taken = [Taken(item, 0, item.shape[0]) for item in items]
        yield from put(name, taken, Event("convert", f"rows of {_few(items)}", "join"))

    def _arranged(self, hit: Hit, items: Sequence[Item]) -> Iterator[LazyTensor]:
        """The left tensor of all that go into it, in the order in which they do."""
        name, first = hit.others[0], items[0]
        parts = [item.shape for item in items[: len(hit.rule.right)]]
        whole = arrangement(hit.rule, parts, len(items) // len(parts), self._facts, first.tensor.name)
        did = Event("convert", f"{hit.rule.kind} of {_few(items)}", "join" if len(items) > 1 else "rearrange")
        if first.reading is not None and whole.rows_alone:
            yield from self._by_rows(hit, items, whole, did)
            return
        joined = whole.joined(name, [values_of(item) for item in items], did)
        yield from (joined,) if first.reading is None else put_values(name, joined, items, did)

    def _apart(self, hit: Hit, item: Item) -> Iterator[LazyTensor]:
        """The right tensors of a left one that is more than their rows one after the other."""
        rule, label = hit.rule, item.tensor.name
        depth, inner = (item.shape[0], item.shape[1:]) if rule.stacks else (1, item.shape)
        shape = Arrangement.right_shape(rule, inner, self._facts, label)
        counts = [shape[0]]
        if len(rule.right) > 1:
            columns = shape[1] if len(shape) > 1 else self._columns(item, hit.rest)
            split = rule.counts(shape[0], columns)
            if split is None:
                raise _no_join(rule, item)
            counts = split
        parts = [(count, *shape[1:]) for count in counts]
        whole = arrangement(rule, parts, depth, self._facts, label)
        if whole.shape != item.shape:
            raise PlanError(
                f"{list(item.shape)} is not the {list(whole.shape)} of a {rule.kind} of {_kinds(rule)}",
                tensor=label,
                hint="is it of this family?",
            )
        did = Event(
            "convert", f"{rule.kind} apart: {item.name}", "split" if len(parts) * depth > 1 else "rearrange"
        )
        names = [_named(name, member) for member in range(depth) for name in hit.others]
        if item.reading is not None and whole.rows_alone:
            yield from self._rows_apart(names, item, whole, did)
            return
        for made in whole.parts(names, values_of(item), did):
            yield from (made,) if item.reading is None else put_values(made.name, made, [item], did)

    def _by_rows(
        self, hit: Hit, items: Sequence[Item], whole: Arrangement, did: Event
    ) -> Iterator[LazyTensor]:
        """As :meth:`_arranged`, of tensors that are quantized: whole rows move."""
        order = whole.rows_in_order()
        owners = [(item, row) for item in items for row in range(item.shape[0])]
        taken: list[Taken] = []
        for row in order:
            item, at = owners[row]
            last = taken[-1] if taken else None
            if last is not None and last.item is item and last.begin + last.rows == at:
                taken[-1] = Taken(item, last.begin, last.rows + 1)
            else:
                taken.append(Taken(item, at, 1))
        yield from put(hit.others[0], taken, did)

    def _rows_apart(
        self, names: Sequence[str], item: Item, whole: Arrangement, did: Event
    ) -> Iterator[LazyTensor]:
        """As :meth:`_apart`, of a tensor that is quantized: whole rows move."""
        order = whole.rows_in_order()
        back = [0] * len(order)
        for row, of in enumerate(order):
            back[of] = row
        at = 0
        for name, shape in zip(names, whole.shapes, strict=True):
            taken: list[Taken] = []
            for row in back[at : at + shape[0]]:
                if taken and taken[-1].begin + taken[-1].rows == row:
                    taken[-1] = Taken(item, taken[-1].begin, taken[-1].rows + 1)
                else:
                    taken.append(Taken(item, row, 1))
            at += shape[0]
            yield from put(name, taken, did)

    def _swapped(self, hit: Hit, item: Item) -> Iterator[LazyTensor]:
        name, rows = hit.others[0], item.shape[0]
        if not hit.rule.swaps(rows, self._columns(item, hit.rest)):
            yield from put(name, [Taken(item, 0, rows)], Event("rename", f"{item.name} -> {name}"))
            return
        if rows % 2:
            raise PlanError(f"{list(item.shape)} has no two halves", tensor=item.tensor.name)
        half = rows // 2
        taken = [Taken(item, half, half), Taken(item, 0, half)]
        yield from put(
            name, taken, Event("convert", f"{item.name}, its halves in the other order", "rearrange")
        )

    def _split(self, hit: Hit, item: Item) -> Iterator[LazyTensor]:
        counts = hit.rule.counts(item.shape[0], self._columns(item, hit.rest))
        if counts is None:
            raise _no_join(hit.rule, item)
        begin = 0
        for name, count in zip(hit.others, counts, strict=True):
            did = Event("convert", f"rows {begin} to {begin + count - 1} of {item.name}", "split")
            yield from put(name, [Taken(item, begin, count)], did)
            begin += count

    def _columns(self, item: Item, rest: str) -> int | None:
        """Columns of its weight, be it this tensor or, for a bias, its neighbour."""
        if len(item.shape) > 1:
            return item.shape[1]
        beside = self._items.get(item.name.removesuffix(rest) + WEIGHT)
        return beside.shape[1] if beside is not None and len(beside.shape) > 1 else None


def _no_join(rule: Rule, item: Item) -> PlanError:
    return PlanError(
        f"{list(item.shape)} is not joined of {_kinds(rule)}",
        tensor=item.tensor.name,
        hint="is it of this family?",
    )


def _kinds(rule: Rule) -> str:
    return ", ".join(str(part).removesuffix(WEIGHT).rpartition(".")[2] for part in rule.right)


def _few(items: Sequence[Item]) -> str:
    more = f" and {len(items) - 4} more" if len(items) > 4 else ""
    return ", ".join(item.name for item in items[:4]) + more


def _named(name: str, member: int) -> str:
    """The name of one of a stack."""
    return ".".join(str(member) if word == MEMBER else word for word in name.split("."))


def _renamed(item: Item, name: str) -> LazyTensor:
    return item.tensor.evolve(name=name, did=Event("rename", f"{item.tensor.name} -> {name}"))
