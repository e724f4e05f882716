"""Plans and reports for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import inf

from ..core.event import Event, Remark
from ..core.quality import Loss
from ..core.tensor import LazyTensor
from ..execution.execute import Report, by_scheme
from ..plan.plan import Plan
from .say import echo, echo_json, notice
from .table import count, print_table, size

__all__ = ["NUMBER", "show_json", "show_plan", "show_report", "show_warnings"]

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_WARNINGS = 10
_EXAMPLES = 3
_TELLING = ("quantize", "dequantize", "cast", "lora", "pack")
"""Kinds of events that make a tensor another one."""

_WORST = 10


def show_json(value: object) -> None:
    """Print JSON for scripts."""
    echo_json(value)


def show_warnings(plan: Plan, *, verbose: bool = False) -> None:
    """Print warnings on standard error; what is alike shares a line unless verbose."""
    groups = _alike(plan.log.warnings, verbose=verbose)
    shown = groups if verbose else groups[:_WARNINGS]
    for group in shown:
        notice(f"warning: {_line(group)}")
    if rest := sum(map(len, groups[len(shown) :])):
        notice(f"warning: ... and {rest} more; -v shows them")


def show_plan(plan: Plan, *, verbose: bool) -> None:
    """Print every tensor's fate; tensors that differ in a number only share a line unless verbose."""
    echo(f"source       {plan.source}")
    echo(f"destination  {plan.destination}")
    for key, value in plan.summary.items():
        echo(f"{key:<12} {', '.join(value) if isinstance(value, list) else value}")
    for group in _alike(plan.log.notes, verbose=verbose):
        echo(f"note         {_line(group)}")
    echo()
    rows = [(t.source, str(plan.before(t)), _becomes(t), _story(t.fate) or "keep") for t in plan.tensors]
    dropped = plan.log.dropped
    rows += [(t.source, str(plan.before(t)), "-", _story((*t.fate, why))) for t, why in dropped]
    header = ("tensor", "stored", "becomes", "fate")
    if verbose:
        print_table(header, rows)
    else:
        grouped = _grouped(rows)
        print_table(("tensor", "x", *header[1:]), grouped, right=(1,))
    echo()
    print_table(
        ("file", "tensors", "size"),
        [(file.name, len(file.places), size(file.size)) for file in plan.files],
        right=(1, 2),
    )
    if plan.side_files:
        echo(f"and {', '.join(side.name for side in plan.side_files)}")
    echo()
    echo(_totals(plan))


def show_report(report: Report, *, verbose: bool) -> None:
    """Print what a run did."""
    plan = report.plan
    if verbose:
        show_plan(plan, verbose=True)
    else:
        for group in _alike(plan.log.notes, verbose=False):
            echo(_line(group))
        fates: dict[str, tuple[int, int, int]] = {}
        for tensor in plan.tensors:
            key = _label(tensor.fate)
            number, before, after = fates.get(key, (0, 0, 0))
            fates[key] = (number + 1, before + plan.before(tensor).nbytes, after + tensor.nbytes)
        for tensor, why in plan.log.dropped:
            key = "into others" if why.kind == "absorb" else "drop"
            number, before, after = fates.get(key, (0, 0, 0))
            fates[key] = (number + 1, before + plan.before(tensor).nbytes, after)
        print_table(
            ("fate", "tensors", "before", "after"),
            [(fate, n, size(before), size(after)) for fate, (n, before, after) in fates.items()],
            right=(1, 2, 3),
        )
    if losses := report.losses():
        _show_losses(losses, verbose=verbose)
    rate = report.bytes_read / report.seconds if report.seconds else 0
    echo(
        f"{_totals(plan)}, in {report.seconds:.1f} s ({size(rate)}/s) -> {plan.destination}"
        f"{'/' if plan.folder else ''}"
    )


def _show_losses(losses: Mapping[str, tuple[str, Loss]], *, verbose: bool) -> None:
    """What quantizing lost: for each scheme, and of the tensors that lost most."""
    searched = any(loss.plain is not None for _, loss in losses.values())
    figures = ("SQNR dB", "largest error", *(("search won dB",) if searched else ()))

    def row(loss: Loss) -> tuple[str, ...]:
        figures = ("exact" if loss.decibels is None else f"{loss.decibels:.2f}", f"{loss.largest:.3g}")
        return (*figures, "" if loss.gain is None else f"{loss.gain:+.2f}") if searched else figures

    right = (1, 2, 3, 4)
    echo()
    print_table(
        ("scheme", "tensors", *figures),
        [(scheme, number, *row(loss)) for scheme, (number, loss) in by_scheme(losses).items()],
        right=right,
    )
    echo()
    worst = sorted(losses.items(), key=lambda item: (item[1][1].decibels or inf, item[0]))
    shown = worst if verbose else worst[:_WORST]
    title = "tensor" if len(shown) == len(worst) else f"tensor ({_WORST} of {len(worst)} that lost most)"
    rows = [(name, scheme, *row(loss)) for name, (scheme, loss) in shown]
    print_table((title, "scheme", *figures), rows, right=right[1:])
    echo()


def _totals(plan: Plan) -> str:
    # Tensors with tensors: what headers and their room take is told apart.
    return (
        f"{count(len(plan.tensors), 'tensor')}, {size(plan.bytes_in)} -> {size(plan.bytes_out)},"
        f" {count(len(plan.files), 'file')} of {size(plan.file_bytes)}"
    )


def _story(fate: Sequence[Event]) -> str:
    return "; ".join(map(str, fate))


def _label(fate: Sequence[Event]) -> str:
    """The last thing that made a tensor another one, without its reason."""
    telling = [event.label for event in fate if event.kind in _TELLING]
    renamed = any(event.kind == "rename" for event in fate)
    return telling[-1] if telling else "rename" if renamed else "keep"


def _alike(remarks: Iterable[Remark], *, verbose: bool) -> list[list[Remark]]:
    """Remarks, those of one kind together that differ only in the tensor, and in numbers of names."""
    groups: dict[object, list[Remark]] = {}
    for remark in remarks:
        alone = verbose or remark.kind is None or remark.tensor is None
        key = remark if alone else (remark.kind, NUMBER.sub("*", remark.rest))
        groups.setdefault(key, []).append(remark)
    return list(groups.values())


def _line(group: Sequence[Remark]) -> str:
    """Remarks that are alike in one line: the text of the first, how many there are, and some tensors."""
    if len(group) == 1:
        return str(group[0])
    names = [str(remark.tensor) for remark in group[:_EXAMPLES]]
    rest = len(group) - len(names)
    return f"{len(group)} times: {group[0].rest} ({', '.join(names)}{f' and {rest} more' if rest else ''})"


def _becomes(tensor: LazyTensor) -> str:
    if tensor.plain:
        return "" if tensor.name == tensor.source and not tensor.fate else str(tensor.spec.dtype)
    return " + ".join(
        f"{part.role} {part.spec.dtype.name}[{','.join(map(str, part.spec.shape))}]" for part in tensor.parts
    )


def _grouped(rows: Iterable[tuple[str, str, str, str]]) -> list[tuple[object, ...]]:
    """Rows that differ only in numbers of their names, with how many there are."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, *rest in rows:
        key = (NUMBER.sub("*", name), *(NUMBER.sub("*", text) if name in text else text for text in rest))
        groups.setdefault(key, []).append(name)
    return [(key[0] if len(names) > 1 else names[0], len(names), *key[1:]) for key, names in groups.items()]
