"""``transcode inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import command, debug_option
from .say import echo, echo_json, notice

if TYPE_CHECKING:
    from ..consumers.inspection import Inspected, Logical
    from .folding import Row

__all__ = ["inspect"]

_TITLE = 11
_SIDES = 6
_PARTS = 24


@command(
    epilog="\b\nExamples:\n  transcode inspect model.safetensors\n  transcode inspect DIR 'blocks.0' --json\n"
)
@click.argument("path", type=click.Path())
@click.argument("patterns", nargs=-1, metavar="[PATTERN...]")
@click.option("--root-key", help="Which dictionary of a PyTorch file holds the tensors.")
@click.option("-a", "--all", "everything", is_flag=True, help="One line for every tensor, no grouping.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def inspect(
    path: str, patterns: tuple[str, ...], root_key: str | None, everything: bool, as_json: bool
) -> None:
    """Show what the checkpoint PATH is and holds: reads headers, no tensor.

    PATTERNs select tensors: globs over whole name components, or re:REGEX.
    """
    from ..consumers import inspection
    from ..containers.source import open_source
    from ..stages.select import Patterns

    with open_source(path, root_key=root_key) as source:
        selector = Patterns(patterns)
        inspected = inspection.inspect(source)
        chosen = {t.name for t in source.tensors if not patterns or selector.first(t.name) is not None}
    for pattern in selector.unused():
        notice(f"warning: {pattern!r} matches no tensor")
    if as_json:
        echo_json(_json(inspected, chosen))
        return
    _summary(inspected, chosen)
    logical = [one for one in inspected.tensors if any(part.name in chosen for part in one.parts.values())]
    echo()
    if everything:
        _every(logical, chosen)
    else:
        _folded(logical)


def _json(inspected: Inspected, chosen: set[str]) -> dict[str, Any]:
    source, quantized = inspected.source, inspected.quantized
    tensors = [tensor for tensor in source.tensors if tensor.name in chosen]
    return {
        "path": str(source.path),
        "family": None if inspected.family is None else inspected.family.name,
        "kinds": list(inspected.kinds),
        "quantized": None
        if quantized is None
        else {
            "tensors": quantized.tensors,
            "as": list(quantized.ways),
            "conventions": list(quantized.conventions),
            "said_by": list(quantized.by),
        },
        "made": None if inspected.made is None else dict(inspected.made),
        "files": [
            {"path": str(file.path), "size": file.size, "tensors": file.tensors} for file in source.files
        ],
        "metadata": dict(source.metadata),
        "side_files": [str(side) for side in source.side_files],
        "notes": list(source.notes),
        "bytes": sum(tensor.spec.nbytes for tensor in tensors),
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.spec.dtype.name,
                "shape": list(tensor.spec.shape),
                "nbytes": tensor.spec.nbytes,
            }
            for tensor in tensors
        ],
    }


def _summary(inspected: Inspected, chosen: set[str]) -> None:
    """What it is, on a few lines."""
    from .table import DEFAULT_WIDTH, count, ended, size, width

    source, family = inspected.source, inspected.family
    _line("path", str(source.path), whole=True)
    _line("family", "unknown" if family is None else f"{family.name}: {family.title}")
    if inspected.kinds:
        _line("is", ", ".join(inspected.kinds))
    if (quantized := inspected.quantized) is not None:
        ways = f" as {', '.join(quantized.ways)}" if quantized.ways else ""
        whose = f", for {' or '.join(quantized.conventions)}" if quantized.conventions else ""
        _line("quantized", f"{count(quantized.tensors, 'tensor')}{ways}{whose}")
        for statement in quantized.by:
            _line("", statement)
    if (record := inspected.made) is not None:
        steps = " | ".join(record["steps"]) or f"written for {record.get('convention', 'nobody')}"
        _line("made by", f"transcode {record.get('version', '')}: {steps}")
    tensors = [tensor for tensor in source.tensors if tensor.name in chosen]
    part = "" if len(tensors) == len(source.tensors) else f" of {len(source.tensors)}"
    nbytes = sum(tensor.spec.nbytes for tensor in tensors)
    _line("tensors", f"{len(tensors)}{part}, {size(nbytes)} ({nbytes} bytes)")
    dtypes: dict[str, tuple[int, int]] = {}
    for tensor in tensors:
        number, held = dtypes.get(tensor.spec.dtype.name, (0, 0))
        dtypes[tensor.spec.dtype.name] = (number + 1, held + tensor.spec.nbytes)
    by_size = sorted(dtypes.items(), key=lambda item: -item[1][1])
    _line(
        "dtypes", ", ".join(f"{name} {size(held)} ({number})" for name, (number, held) in by_size) or "none"
    )
    sizes = [file.size for file in source.files]
    if len(sizes) == 1:
        _line("file", f"{source.files[0].path.name}, {size(sizes[0])}")
    else:
        _line("shards", f"{len(sizes)}, {size(min(sizes))} to {size(max(sizes))} each, {size(sum(sizes))}")
        _line("", f"{source.files[0].path.name} ...")
    sides = [side.name for side in source.side_files]
    if sides:
        more = f" and {len(sides) - _SIDES} more" if len(sides) > _SIDES else ""
        _line("beside", f"{', '.join(sides[:_SIDES])}{more}")
    for key, value in source.metadata.items():
        _line("metadata", ended(f"{key} = {value}", (width() or DEFAULT_WIDTH) - _TITLE), whole=True)
    for note in source.notes:
        _line("note", note)


def _line(title: str, text: str, *, whole: bool = False) -> None:
    from .table import lines, width

    for line in lines(text, f"{title:<{_TITLE}}", None if whole else width()):
        echo(line)


def _parts(one: Logical, *, short: bool) -> str:
    """What is stored: ``I8 + BF16 scale``; short: ``I8 + scale``."""
    said = []
    for role, part in one.parts.items():
        if short and role == "marker":
            continue
        dtype, plain = part.spec.dtype.name, role in ("values", "codes")
        words = role.replace("_", " ")
        said.append(dtype if plain else words if short or role == "marker" else f"{dtype} {words}")
    return " + ".join(said)


def _shape(one: Logical) -> str:
    first = next(iter(one.parts.values()))
    return f"[{','.join(map(str, first.spec.shape))}]"


def _folded(logical: list[Logical]) -> None:
    """A line for what differs in numbers of blocks only; a weight and its scales are one."""
    from .folding import braced, fold
    from .table import DEFAULT_WIDTH, beside_names, print_table, size, width

    columns = width()
    named = [(one.name, tuple((role, part.spec) for role, part in one.parts.items()), one) for one in logical]

    def cells(row: Row[Logical]) -> tuple[str, ...]:
        one, nbytes = row.items[0], sum(one.nbytes for one in row.items)
        short = columns is not None and columns < DEFAULT_WIDTH
        return row.name, f"{len(row.items)} x", _shape(one), _parts(one, short=short), size(nbytes)

    rows = fold(named)
    room = (columns or DEFAULT_WIDTH) - beside_names(map(cells, rows), most=_PARTS)
    print_table(
        ("tensor", "", "shape", "stored as", "size"),
        list(map(cells, braced(rows, room))),
        right=(1, 4),
        tight=((3, _PARTS), (0, 24), (3, 8)),
    )


def _every(logical: list[Logical], chosen: set[str]) -> None:
    """A line for each tensor of the files, in the order of what they belong to."""
    from .table import print_table, size

    print_table(
        ("tensor", "dtype", "shape", "size"),
        [
            (part.name, part.spec.dtype, f"[{','.join(map(str, part.spec.shape))}]", size(part.spec.nbytes))
            for one in logical
            for part in one.parts.values()
            if part.name in chosen
        ],
        right=(3,),
    )
