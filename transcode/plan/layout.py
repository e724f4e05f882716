"""How the output is cut into files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ..catalog.components import OTHER, Components
from ..core.output import Stored, Unit
from ..core.tensor import LazyTensor
from ..errors import PlanError

__all__ = ["Cut", "apart", "by_block", "check_names", "chunked", "components", "single_file"]


Cut = list[tuple[str, list[Unit]]]
"""File names, each with what goes into it."""


def single_file(units: Sequence[Unit], name: str) -> Cut:
    """Everything in one file."""
    return [(name, list(units))]


def by_block(units: Sequence[Unit], block: str, rest: str) -> Cut:
    """One file for each block, one for the rest.

    Args:
        block: name of a block's file, with ``{i}``.
        rest: name of the file of all that is outside blocks.
    """
    blocks: dict[int, list[Unit]] = {}
    others: list[Unit] = []
    for unit in units:
        (others if unit.block is None else blocks.setdefault(unit.block, [])).append(unit)
    if not blocks:
        raise PlanError("layout by_block: no tensor belongs to a block", hint="use single_file or chunked")
    cut = [(block.format(i=i), blocks[i]) for i in sorted(blocks)]
    return [*cut, (rest, others)] if others else cut


def apart(units: Iterable[Unit], file_of: Callable[[str], str]) -> Cut:
    """Files that a consumer knows by name: ``file_of`` tells from a stored name into which one it goes."""
    cut: dict[str, list[Unit]] = {}
    for unit in units:
        cut.setdefault(file_of(unit.stored[0].name), []).append(unit)
    return list(cut.items())


def components(units: Iterable[Unit], held: Components) -> Cut:
    """The models of an all-in-one file, each in a subfolder, under names without its prefix.

    Args:
        held: the components that names of stored parts tell.

    Raises:
        PlanError: there are no two.
    """
    if not held.several:
        named = ", ".join(one.folder for one in held.all if one.name != OTHER) or "no component that is known"
        raise PlanError(
            f"layout components: it holds {named}", hint="it is for files that hold several models"
        )
    cut: dict[str, list[Unit]] = {one.file: [] for one in held.all}
    for unit in units:
        component = held.of(unit.stored[0].name)
        assert component is not None
        stored = tuple(replace(part, name=part.name.removeprefix(component.prefix)) for part in unit.stored)
        cut[component.file].append(replace(unit, stored=stored))
    return list(cut.items())


def chunked(
    units: Iterable[Unit],
    pattern: str,
    alone: str,
    *,
    max_bytes: int | None = None,
    max_tensors: int | None = None,
) -> Cut:
    """Greedy runs in the order of the flow; a unit larger than the limit gets a file of its own.

    Args:
        pattern: file name with ``{i}`` (from 1), ``{j}`` (from 0) and ``{n}`` (how many files).
        alone: name when everything fits into one file.
        max_bytes: most bytes of tensors in a file.
        max_tensors: most stored tensors in a file.
    """
    chunks: list[list[Unit]] = []
    nbytes = count = 0
    for unit in units:
        more = unit.nbytes
        full = (max_bytes is not None and nbytes + more > max_bytes) or (
            max_tensors is not None and count + len(unit.stored) > max_tensors
        )
        if full or not chunks:
            chunks.append([])
            nbytes = count = 0
        chunks[-1].append(unit)
        nbytes += more
        count += len(unit.stored)
    if len(chunks) <= 1:
        return [(alone, chunks[0] if chunks else [])]
    return [(pattern.format(i=j + 1, j=j, n=len(chunks)), chunk) for j, chunk in enumerate(chunks)]


def check_names(cut: Cut, tensors: Sequence[LazyTensor]) -> None:
    """Refuse two parts of one name, across all files.

    Args:
        tensors: of the flow, by the numbers that units have.

    Raises:
        PlanError: there are two.
    """
    names = [stored.name for _, units in cut for unit in units for stored in unit.stored]
    if len(set(names)) == len(names):
        return
    del names
    owners: dict[str, int] = {}
    for file, units in cut:
        if "/" in file:
            owners = {}  # a model for itself, in a folder of its own
        for unit in units:
            for stored in unit.stored:
                other = owners.setdefault(stored.name, unit.tensor)
                if other != unit.tensor or _twice(stored.name, unit.stored):
                    first, second = tensors[other].source, tensors[unit.tensor].source
                    raise PlanError(
                        f"{first!r} and {second!r} would both be stored under this name",
                        tensor=stored.name,
                        hint="change the rename rules, or drop one of them",
                    )


def _twice(name: str, stored: Sequence[Stored]) -> bool:
    return sum(part.name == name for part in stored) > 1
