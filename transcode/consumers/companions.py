"""What stands beside a quantized tensor: known and dropped with it, or unknown, which stops decoding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod

from ..catalog import GROUP_INDEX, SHAPE, Convention, is_marker
from ..catalog.template import Template
from ..core.tensor import LazyTensor
from ..errors import PlanError
from ..voice import called
from .fit import multiple
from .group import Reading

__all__ = ["Companions"]

_WEIGHT = ".weight"


class Companions:
    """The tensors of a source, looked up by the quantized tensor that they belong to.

    Args:
        table: tensors by name.
        conventions: those that read the source; the names that they know are known. The best first.
        quantized: stored names of codes and their parts, of all tensors.
    """

    def __init__(
        self, table: Mapping[str, LazyTensor], conventions: Sequence[Convention], quantized: Collection[str]
    ) -> None:
        self._table = table
        self._conventions = conventions
        self._quantized = quantized
        self._below: dict[str, list[str]] = defaultdict(list)
        for name in table:
            self._below[name.rpartition(".")[0]].append(name)

    def of(self, reading: Reading) -> tuple[list[str], list[str]]:
        """What goes when a tensor is decoded: scales of its inputs, and its markers.

        Raises:
            PlanError: something beside it is not known, or contradicts its shape.
        """
        name = reading.name
        inputs = self._spelled(name, (one.inputs for one in self._conventions))
        settings = self._spelled(name, ([kept.name for kept in one.settings] for one in self._conventions))
        marks, unknown = [], []
        dropped = []
        for other in self._near(name):
            if other in reading.stored.values() or other == name:
                continue
            if other in inputs:
                dropped.append(other)
            elif other in settings or is_marker(other, self._conventions):
                marks.append(other)
            elif not (other in self._quantized or self._harmless(other)):
                unknown.append(other)
        if unknown:
            raise PlanError(
                f"{unknown[0]!r} stands beside it, and transcode does not know what it does to its values",
                tensor=name,
                hint="decode it with its own library; or take it away with"
                f" {called('drop')} if it does nothing",
            )
        self._check(reading)
        return dropped, marks

    def _spelled(self, name: str, templates: Iterable[Sequence[Template]]) -> set[str]:
        return {
            one.spell(name)
            for some in templates
            for one in some
            if one.placeholder != "stem" or name.endswith(_WEIGHT)
        }

    def cache(self) -> list[str]:
        """Scales of the key and value cache."""
        words = {word for convention in self._conventions for word in convention.cache}
        return [
            name
            for name, tensor in self._table.items()
            if name.rpartition(".")[2] in words
            and tensor.spec.dtype.kind == "float"
            and prod(tensor.spec.shape) == 1
        ]

    def _near(self, name: str) -> Iterable[str]:
        parent, _, leaf = name.rpartition(".")
        if name.endswith(_WEIGHT):
            yield from self._below[parent]
        else:
            yield from (other for other in self._below[parent] if other.startswith(f"{parent}.{leaf}_"))
        yield from (other for other in self._below[name])

    def _harmless(self, name: str) -> bool:
        """A bias, or a scale of the cache: they concern no weight."""
        leaf = name.rpartition(".")[2]
        return leaf.endswith("bias") or any(leaf in convention.cache for convention in self._conventions)

    def shape(self, reading: Reading) -> tuple[int, ...]:
        """The tensor's own: what is stored as such, which is less than that of the codes where it was padded.

        Raises:
            PlanError: the two contradict each other.
        """
        shape = reading.spec.shape
        if SHAPE not in reading.stored:
            return shape
        stated = tuple(int(n) for n in self._table[reading.stored[SHAPE]].numpy().reshape(-1))
        if stated[-2:] == shape[-2:]:
            return shape
        steps = multiple(reading.scheme, self._conventions[0])
        padded = tuple(-(-n // step) * step for n, step in zip(stated, steps, strict=False))
        if not self._conventions[0].pads or len(stated) != 2 or min(stated) < 1 or padded != shape:
            raise PlanError(
                f"has codes for {list(shape[-2:])}, but {reading.stored[SHAPE]!r} says {list(stated)}",
                tensor=reading.name,
                hint="they are packed by another width than 4 bits, or the file is damaged",
            )
        return stated

    def order(self, reading: Reading) -> bool:
        """Whether columns are in another order than their groups, as GPTQ leaves them with ``desc_act``.

        Raises:
            PlanError: what is stored of it puts them in no groups of that size.
        """
        if GROUP_INDEX not in reading.stored:
            return False
        groups = self._table[reading.stored[GROUP_INDEX]].numpy().reshape(-1)
        size = int(getattr(reading.scheme, "group_size", 1))
        columns = reading.spec.columns
        if len(groups) == columns and (groups == [k // size for k in range(columns)]).all():
            return False
        counts: dict[int, int] = defaultdict(int)
        for group in groups.tolist():
            counts[group] += 1
        if len(groups) != columns or counts != dict.fromkeys(range(columns // size), size):
            raise PlanError(
                f"{reading.stored[GROUP_INDEX]!r} does not put {columns} columns into groups of {size}",
                tensor=reading.name,
                hint="decode it with the program that made it",
            )
        return True

    def _check(self, reading: Reading) -> None:
        shape = self.shape(reading)
        rows = shape[-2] if len(shape) > 1 else 1
        bias = self._table.get(f"{reading.name.removesuffix(_WEIGHT)}.bias")
        if bias is not None and len(reading.spec.shape) == 2 and bias.spec.shape not in ((rows,), (1, rows)):
            raise PlanError(
                f"has {rows} rows, its bias {list(bias.spec.shape)}: it was padded, or is not what it seems",
                tensor=reading.name,
                hint="decode it with the program that made it",
            )
