"""A plan for people: on one screen what will be done, to what, and why, and how big it gets; or all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from pathlib import Path

from ...core.paths import located
from ...plan.fates import Fate, Section, sections
from ...plan.plan import Plan
from ..folding import Row, braced
from ..say import echo, one_line
from ..table import DEFAULT_WIDTH, beside_names, count, lines, print_table, size, span, width
from .fates import fates, rows_of, story
from .files import folded
from .remarks import alike, line

__all__ = ["show_deeds", "show_files", "show_head", "show_notes", "show_plan"]

_ROWS = 20
"""Rows of all sections together, if there are many: a plan is to be seen at once."""

_NOTES = 12
_LARGEST = 10
_FILES = 8
_BESIDES = ("keep", "add", "drop", "into others")
"""What is done to tensors that are not those that a plan is about."""

_Cells = Callable[[Iterable[Row[Fate]]], list[tuple[str, str, str, str]]]
"""What stands in the lines of rows, the name first."""

_DIGEST = 19
_DEED = 26
_EVERY = ((2, 16), (0, 32), (2, 8))
_GAPS = 8
_GAP = 2
_NARROW = 80
"""Columns for which a plan chooses what it shows, so that it is the same on every terminal."""
_INDENT = 2
_WHY = 24
_NAME = 36
_REASONS = 3


def show_plan(plan: Plan, *, verbose: bool) -> None:
    """Print what a plan does: one screen, or each tensor's fate."""
    show_head(plan, verbose=verbose)
    show_notes(plan, verbose=verbose)
    echo()
    everything = fates(plan)
    if verbose:
        _show_every(everything)
        echo()
    else:
        parts = sections(everything)
        folds = rows_of(parts)
        show_deeds(parts, folds)
        _show_largest(folds)
        echo()
    show_files(plan, verbose=verbose)
    total, hint = f"total  {plan.totals}", "(-v lists every tensor)"
    beside = f"{total}  {hint}"
    if verbose:
        echo(total, bold=True)
    elif span(beside) <= (width() or span(beside)):
        echo(beside, bold=True)
    else:
        echo(total, bold=True)
        echo(f"       {hint}", bold=True)


def show_head(plan: Plan, *, verbose: bool) -> None:
    """Print where from, where to, and what for."""
    echo(f"source       {plan.source}")
    echo(f"destination  {plan.destination}{'/' if plan.folder else ''}")
    if plan.elsewhere:
        echo(f"to fetch     {size(plan.bytes_fetched)}")
    facts = {
        key: ", ".join(value) if isinstance(value, list) else value for key, value in plan.summary.items()
    }
    digest = facts.pop("digest", None)
    for key, value in facts.items():
        if value:
            echo(f"{key:<12} {value}")
    if digest is not None:
        echo(f"digest       {digest if verbose else str(digest)[:_DIGEST]}")


def show_notes(plan: Plan, *, verbose: bool) -> None:
    """Print what planning has to say, once for each kind."""
    groups = alike(plan.log.notes, verbose=verbose)
    shown = groups if verbose else groups[:_NOTES]
    for group in shown:
        for text in lines(line(group), "note         ", width()):
            echo(text)
    if rest := sum(map(len, groups[len(shown) :])):
        echo(f"note         ... and {rest} more; -v shows them")


def show_deeds(parts: Sequence[Section], folds: Sequence[Sequence[Row[Fate]]] | None = None) -> None:
    """Print what is done to how many tensors, and how big they are; with their rows, which and why."""
    columns = width() or DEFAULT_WIDTH
    if folds is None:
        folds = [()] * len(parts)
    patterns = [_patterns(rows, _cells) for rows in folds]
    chosen = _chosen(patterns)
    heads = [_head(part) for part in parts]
    widths = [max((len(head[i]) for head in heads if len(head[0]) <= _DEED), default=0) for i in range(3)]
    for part, head, rows, every, shown in zip(parts, heads, folds, patterns, chosen, strict=True):
        first = f"{head[0]:<{widths[0]}}  {head[1]:>{widths[1]}}  {head[2]:>{widths[2]}}{head[3]}"
        types = _types(part)
        if types and len(first) + len(types) + 2 > columns:
            echo(first, bold=True)
            for text in lines(types, "  ", columns):
                echo(text)
        else:
            echo(f"{first}  {types}".rstrip(), bold=True)
        cells = [*_cells(_fitting(rows, shown, _cells)), *_rest(every, shown)]
        if not cells:
            continue
        named = all(not cell[3] or cell[3].startswith("->") for cell in cells)
        if (
            named and _wide(cells) > columns
        ):  # two names in a line: what they are called matters, not the shape
            cells = [(name, number, "", why) for name, number, _, why in cells]
        tight = ((3, _NAME), (0, _WHY), (3, _WHY)) if named else ((3, _WHY), (0, _WHY), (3, 10))
        kept = [at for at in range(4) if at != 2 or any(cell[2] for cell in cells)]
        print_table(
            ("",) * len(kept),
            [[cell[at] for at in kept] for cell in cells],
            right=(1,),
            tight=[(kept.index(at), least) for at, least in tight],
            indent=_INDENT,
        )


def _wide(cells: Iterable[Sequence[str]]) -> int:
    """Columns that a table takes where nothing is cut."""
    widths = [max(span(one_line(cell)) for cell in column) for column in zip(*cells, strict=True)]
    return _INDENT + sum(widths) + _GAP * (len(widths) - 1)


def _patterns(rows: Sequence[Row[Fate]], cells: _Cells) -> list[Row[Fate]]:
    """Rows with words that differ in braces, on a narrow terminal: what is shown and counted is the same on
    all of them.
    """
    return braced(rows, _room(rows, cells, _NARROW))


def _fitting(rows: Sequence[Row[Fate]], patterns: Sequence[Row[Fate]], cells: _Cells) -> list[Row[Fate]]:
    """Patterns in rows that have room on this terminal: wide ones take fewer."""
    wanted: dict[int, int] = {}
    for at, pattern in enumerate(patterns):
        wanted.update(zip(map(id, pattern.items), repeat(at)))
    inside = [row for row in rows if id(row.items[0]) in wanted]
    columns = _room(inside, cells, width() or DEFAULT_WIDTH)
    return sorted(braced(inside, columns), key=lambda row: wanted[id(row.items[0])])


def _room(rows: Sequence[Row[Fate]], cells: _Cells, columns: int) -> int:
    """Columns that are left for names."""
    return columns - _INDENT - beside_names(cells(rows), most=_WHY)


def _head(part: Section) -> tuple[str, str, str, str]:
    after = "" if part.bytes_out == part.bytes_in and part.deed == "keep" else f" -> {size(part.bytes_out)}"
    if part.deed in ("drop", "into others"):
        after = ""
    return part.deed, count(len(part.fates), "tensor"), size(part.bytes_in), after


def _types(part: Section) -> str:
    if not part.becomes:
        return part.dtype
    return f"{part.dtype} -> {part.becomes}" if part.dtype else part.becomes


def _cells(rows: Iterable[Row[Fate]]) -> list[tuple[str, str, str, str]]:
    return [(row.name, f"{len(row.items)} x", _shape(row.items[0]), row.items[0].why) for row in rows]


def _shape(fate: Fate) -> str:
    shape = fate.tensor.spec.shape if fate.before is None else fate.before.shape
    return f"[{','.join(map(str, shape))}]"


def _rest(rows: Sequence[Row[Fate]], shown: Sequence[Row[Fate]]) -> list[tuple[str, str, str, str]]:
    """A line for what is not shown of a section, for each reason."""
    chosen = set(map(id, shown))
    by_reason: dict[str, list[Row[Fate]]] = {}
    for row in rows:
        if id(row) not in chosen:
            fate = row.items[0]
            by_reason.setdefault("" if fate.deed == "rename" else fate.why, []).append(row)
    if not shown and set(by_reason) == {""}:
        return []  # the section's head says as much
    ordered = sorted(by_reason.items(), key=lambda item: -sum(len(row.items) for row in item[1]))
    said = ordered[:_REASONS]
    if others := [row for _, hidden in ordered[_REASONS:] for row in hidden]:
        said.append(("other reasons", others))
    return [
        (f"({count(len(hidden), 'pattern')})", f"{sum(len(row.items) for row in hidden)} x", "", why)
        for why, hidden in said
    ]


def _chosen(folds: Sequence[Sequence[Row[Fate]]]) -> list[list[Row[Fate]]]:
    """The rows of each section that are shown, so that all fit on a screen.

    First the reasons with most rows of what is kept or left out lose theirs; then the smallest rows go.
    """
    rows = [row for part in folds for row in part]
    hidden: set[int] = set()
    by_reason: dict[tuple[str, str], list[Row[Fate]]] = {}
    for row in rows:
        if row.items[0].deed in _BESIDES:
            by_reason.setdefault((row.items[0].deed, row.items[0].why), []).append(row)
    left = len(rows)
    for reason in sorted(by_reason.values(), key=len, reverse=True):
        if left > _ROWS and len(reason) > 1:
            hidden.update(map(id, reason))
            left -= len(reason) - 1
    if left > _ROWS:
        others = [row for row in rows if id(row) not in hidden]
        others.sort(key=lambda row: -sum(fate.bytes_in or fate.bytes_out for fate in row.items))
        hidden.update(map(id, others[_ROWS:]))
    return [[row for row in part if id(row) not in hidden] for part in folds]


def _show_largest(folds: Sequence[Sequence[Row[Fate]]]) -> None:
    """Print the ten largest tensors of the source, each with all that are folded with it."""
    rows = [row for part in folds for row in _patterns(part, _sizes) if row.items[0].bytes_in]
    rows.sort(key=lambda row: -row.items[0].bytes_in)
    shown: list[Row[Fate]] = []
    listed, least = 0, 0
    for row in rows:
        nbytes = row.items[0].bytes_in
        if len(shown) >= _LARGEST or (listed >= _LARGEST and nbytes < least):
            break
        least = nbytes
        listed += len(row.items)
        shown.append(row)
    if shown:
        echo("largest", bold=True)
        every = [row for part in folds for row in part]
        cells = _sizes(_fitting(every, shown, _sizes))
        print_table(("",) * 4, cells, right=(1, 2), indent=_INDENT)


def _sizes(rows: Iterable[Row[Fate]]) -> list[tuple[str, str, str, str]]:
    return [
        (row.name, f"{len(row.items)} x", size(row.items[0].bytes_in), _after(row.items[0])) for row in rows
    ]


def _after(fate: Fate) -> str:
    if fate.bytes_in == fate.bytes_out:
        return ""
    return f"-> {size(fate.bytes_out)}" if fate.bytes_out else "left out"


def _show_every(everything: Sequence[Fate]) -> None:
    """Print a line for each tensor, in sections as those of a screen."""
    columns = width()
    parts = sections(everything)
    heads = [_head(part) for part in parts]
    for part, head in zip(parts, heads, strict=True):
        echo(f"{'  '.join(head[:3])}{head[3]}  {_types(part)}".rstrip(), bold=True)
        rows = [(fate.name, _shape(fate), _written(fate), _told(fate)) for fate in part.fates]
        widths = [max(span(one_line(row[i])) for row in rows) for i in range(4)]
        if columns is not None and sum(widths) + _GAPS > columns:
            rows = [(name, shape, "", fate) for name, shape, _, fate in rows]
        if not any(row[2] for row in rows):
            print_table(("",) * 3, [(row[0], row[1], row[3]) for row in rows], tight=_EVERY, indent=2)
        else:
            print_table(("",) * 4, rows, tight=((0, 24),), indent=2)


def _written(fate: Fate) -> str:
    """What is written of a tensor that has several parts, with their shapes."""
    return (
        ""
        if fate.tensor.plain or not fate.becomes
        else " + ".join(str(part.spec) for part in fate.tensor.parts)
    )


def _told(fate: Fate) -> str:
    """What happened to a tensor, but for what the section's head says."""
    return fate.why if len(fate.tensor.fate) < 2 and fate.why else story(fate)


def show_files(plan: Plan, *, verbose: bool) -> None:
    """Print the files that are written, those of one name in one line."""
    rows = [(one.name, len(one.files), one.tensors, one.nbytes) for one in folded(plan.files)]
    if verbose:
        rows = [(file.name, 1, len(file.places), file.size) for file in plan.files]
    shown = rows if verbose or len(rows) <= _FILES else rows[: _FILES - 1]
    cells = [
        (name if n == 1 else f"{name} x {n}", count(held, "tensor"), size(nbytes))
        for name, n, held, nbytes in shown
    ]
    if rest := rows[len(shown) :]:
        cells.append(
            (
                f"({len(rest)} more; -v lists all)",
                count(sum(r[2] for r in rest), "tensor"),
                size(sum(r[3] for r in rest)),
            )
        )
    after = f"{len(plan.files)} of {size(plan.file_bytes)}"
    if before := _source_files(plan):
        after = f"{len(before)} of {size(sum(before))} -> {after}"
    echo(f"files  {after}", bold=True)
    print_table(("",) * 3, cells, right=(1, 2), indent=2)
    if plan.side_files:
        for text in lines(f"and {', '.join(side.name for side in plan.side_files)}", "  ", width()):
            echo(text)


def _source_files(plan: Plan) -> list[int]:
    """Bytes of the source's weight files, without those of LoRAs; nothing if they are not to be seen."""
    sizes = []
    for one in plan.inputs:
        path = one.path or located(one.url)
        if not _belongs(path, plan.source):
            continue
        try:
            sizes.append(one.size if one.path is None else path.stat().st_size)
        except OSError:
            return []
    return sizes


def _belongs(path: Path, source: Path) -> bool:
    return (
        path == source or path.parent == source or (source.suffix == ".json" and path.parent == source.parent)
    )
