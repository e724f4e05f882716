"""``transcode inspect``."""

from __future__ import annotations

from typing import Any

import click

from .options import command, debug_option
from .say import echo, notice

__all__ = ["inspect"]


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
    """Show what the checkpoint PATH holds: reads headers, no tensor.

    PATTERNs select tensors: globs over whole name components, or re:REGEX.
    """
    from .. import inspection
    from . import show
    from .table import count, print_table, size

    source = inspection.inspect(path, patterns, root_key=root_key)
    for pattern in source.unused:
        notice(f"warning: {pattern!r} matches no tensor")
    if as_json:
        show.show_json(source.to_json())
        return
    rows: list[tuple[Any, ...]] = [
        (name, spec.dtype, list(spec.shape), spec.nbytes) for name, spec in source.tensors.items()
    ]
    if everything:
        print_table(("tensor", "dtype", "shape", "size"), [(*r[:3], size(r[3])) for r in rows], right=(3,))
    else:
        print_table(("tensor", "x", "dtype", "shape", "size"), _grouped(rows), right=(1, 4))
    echo()
    print_table(
        ("dtype", "tensors", "size"),
        [(name, number, size(nbytes)) for name, (number, nbytes) in source.dtypes.items()],
        right=(1, 2),
    )
    echo()
    for file in source.files:
        echo(f"file      {file.path.name}: {count(file.tensors, 'tensor')}, {size(file.size)}")
    for side in source.side_files:
        echo(f"beside    {side.name}")
    for key, value in source.metadata.items():
        echo(f"metadata  {key} = {value if len(value) <= 80 else value[:77] + '...'}")
    for note in source.notes:
        echo(f"note      {note}")
    echo(f"family    {'unknown' if source.family is None else f'{source.family}: {source.family_title}'}")
    total = source.nbytes
    echo(f"total     {count(len(source.tensors), 'tensor')}, {size(total)} ({total} bytes)")


def _grouped(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Tensors that differ in a number of their names only, in one line."""
    from .show import NUMBER
    from .table import size

    groups: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}
    for row in rows:
        groups.setdefault((NUMBER.sub("*", row[0]), str(row[1]), str(row[2])), []).append(row)
    return [
        (key[0] if len(same) > 1 else same[0][0], len(same), key[1], key[2], size(sum(r[3] for r in same)))
        for key, same in groups.items()
    ]
