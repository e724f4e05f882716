"""``transcode inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .flags import command, debug_option
from .say import echo, echo_json, notice

if TYPE_CHECKING:
    from ..consumers.inspection import Logical
    from ..inspection import Inspection
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
    from .. import inspection

    inspected = inspection.inspect(path, patterns, root_key=root_key)
    for pattern in inspected.unused:
        notice(f"warning: {pattern!r} matches no tensor")
    if as_json:
        echo_json(inspected.to_json())
        return
    _summary(inspected)
    echo()
    if everything:
        _every(inspected)
    else:
        _folded(inspected.logical)


def _summary(inspected: Inspection) -> None:
    """What it is, on a few lines."""
    from ..consumers.inspection import missing_scales
    from .table import DEFAULT_WIDTH, ended, size, width

    family = inspected.family
    _line("path", str(inspected.path), whole=True)
    _line("family", "unknown" if family is None else f"{family}: {inspected.family_title}")
    if inspected.kinds:
        _line("is", ", ".join(inspected.kinds))
    if inspected.components:
        _line("holds", ", ".join(f"{name} ({number})" for name, number in inspected.components))
    if (quantized := inspected.quantized) is not None:
        _line("quantized", str(quantized))
        for statement in quantized.by:
            _line("", statement)
    if inspected.lost:
        _line("" if inspected.quantized else "quantized", missing_scales(inspected.lost))
    if (record := inspected.made) is not None:
        steps = " | ".join(record["steps"]) or f"written for {record.get('convention', 'nobody')}"
        _line("made by", f"transcode {record.get('version', '')}: {steps}")
    chosen, nbytes = len(inspected.tensors), inspected.nbytes
    part = "" if chosen == inspected.total else f" of {inspected.total}"
    _line("tensors", f"{chosen}{part}, {size(nbytes)} ({nbytes} bytes)")
    by_size = sorted(inspected.dtypes.items(), key=lambda item: -item[1][1])
    _line(
        "dtypes", ", ".join(f"{name} {size(held)} ({number})" for name, (number, held) in by_size) or "none"
    )
    sizes = [file.size for file in inspected.files]
    if len(sizes) == 1:
        _line("file", f"{inspected.files[0].path.name}, {size(sizes[0])}")
    else:
        _line("shards", f"{len(sizes)}, {size(min(sizes))} to {size(max(sizes))} each, {size(sum(sizes))}")
        _line("", f"{inspected.files[0].path.name} ...")
    sides = [side.name for side in inspected.side_files]
    if sides:
        more = f" and {len(sides) - _SIDES} more" if len(sides) > _SIDES else ""
        _line("beside", f"{', '.join(sides[:_SIDES])}{more}")
    for key, value in inspected.metadata.items():
        _line("metadata", ended(f"{key} = {value}", (width() or DEFAULT_WIDTH) - _TITLE), whole=True)
    for note in inspected.notes:
        _line("note", note)


def _line(title: str, text: str, *, whole: bool = False) -> None:
    from .table import lines, width

    for line in lines(text, f"{title:<{_TITLE}}", None if whole else width()):
        echo(line)


def _parts(one: Logical, *, short: bool) -> str:
    """What is stored: ``I8 + BF16 scale``; short: ``I8 + scale``, ``U8 + 2 scales``."""
    said = []
    scales = sum(role.endswith("scale") for role in one.parts) if short else 0
    for role, part in one.parts.items():
        if short and role == "marker":
            continue
        if scales > 1 and role.endswith("scale"):
            if role == "scale":
                said.append(f"{scales} scales")
            continue
        dtype, plain = part.spec.dtype.name, role in ("values", "codes")
        words = role.replace("_", " ")
        said.append(dtype if plain else words if short or role == "marker" else f"{dtype} {words}")
    return " + ".join(said)


def _shape(one: Logical) -> str:
    first = next(iter(one.parts.values()))
    return f"[{','.join(map(str, first.spec.shape))}]"


def _folded(logical: Sequence[Logical]) -> None:
    """A line for what differs in numbers of blocks only; a weight and its scales are one."""
    from .folding import braced, fold
    from .table import DEFAULT_WIDTH, beside_names, print_table, size, width

    columns = width()
    numbers: dict[object, int] = {}  # one for each way to be stored, found once for all of the same objects
    known: dict[object, int] = {}

    def stored(one: Logical) -> int:
        same = *one.parts, *[id(part.spec) for part in one.parts.values()]
        if same not in known:
            alike = tuple((role, part.spec) for role, part in one.parts.items())
            known[same] = numbers.setdefault(alike, len(numbers))
        return known[same]

    named = [(one.name, stored(one), one) for one in logical]

    def cells(row: Row[Logical]) -> tuple[str, ...]:
        one, nbytes = row.items[0], len(row.items) * row.items[0].nbytes  # their facts are alike
        short = columns is not None and columns < DEFAULT_WIDTH
        return row.name, f"{len(row.items)} x", _shape(one), _parts(one, short=short), size(nbytes)

    rows = fold(named)
    room = (columns or DEFAULT_WIDTH) - beside_names(map(cells, rows), most=_PARTS)
    print_table(
        ("tensor", "", "shape", "stored as", "size"),
        list(map(cells, braced(rows, room))),
        right=(1, 4),
        tight=((3, _PARTS), (0, 24), (3, 8), (0, 16), (2, 8)),
    )


def _every(inspected: Inspection) -> None:
    """A line for each tensor of the files, in the order of what they belong to."""
    from .table import print_table, size

    print_table(
        ("tensor", "dtype", "shape", "size"),
        [
            (part.name, part.spec.dtype, f"[{','.join(map(str, part.spec.shape))}]", size(part.spec.nbytes))
            for one in inspected.logical
            for part in one.parts.values()
            if part.name in inspected.tensors
        ],
        right=(3,),
    )
