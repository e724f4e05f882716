"""Plans and reports for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import inf

from ..core.plan import Plan
from ..core.quality import Loss
from ..core.run import Report, by_scheme
from ..core.tensor import LazyTensor
from .say import echo, echo_json, notice
from .table import count, print_table, size

__all__ = ["NUMBER", "show_json", "show_plan", "show_report", "show_warnings"]

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_WARNINGS = 10
_WORST = 10


def show_json(value: object) -> None:
    """Print JSON for scripts."""
    echo_json(value)


def show_warnings(plan: Plan, *, verbose: bool = False) -> None:
    """Print warnings on standard error."""
    shown = plan.log.warnings if verbose else plan.log.warnings[:_WARNINGS]
    for text in shown:
        notice(f"warning: {text}")
    if rest := len(plan.log.warnings) - len(shown):
        notice(f"warning: ... and {rest} more; -v shows them")


def show_plan(plan: Plan, *, verbose: bool) -> None:
    """Print every tensor's fate; tensors that differ in a number only share a line unless verbose."""
    echo(f"source       {plan.source}")
    echo(f"destination  {plan.destination}")
    for key, value in plan.summary.items():
        echo(f"{key:<12} {', '.join(value) if isinstance(value, list) else value}")
    for note in plan.log.notes:
        echo(f"note         {note}")
    echo()
    rows = [(t.source, str(plan.before(t)), _becomes(t), "; ".join(t.fate) or "keep") for t in plan.tensors]
    dropped = plan.log.dropped
    rows += [(t.source, str(plan.before(t)), "-", "; ".join((*t.fate, why))) for t, why in dropped]
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
        for note in plan.log.notes:
            echo(note)
        fates: dict[str, tuple[int, int, int]] = {}
        for tensor in plan.tensors:
            key = _verb(tensor.fate)
            number, before, after = fates.get(key, (0, 0, 0))
            fates[key] = (number + 1, before + plan.before(tensor).nbytes, after + tensor.nbytes)
        for tensor, why in plan.log.dropped:
            key = "into others" if "went into" in why else "drop"
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
        told = ("exact" if loss.decibels is None else f"{loss.decibels:.2f}", f"{loss.largest:.3g}")
        return (*told, "" if loss.gain is None else f"{loss.gain:+.2f}") if searched else told

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


def _verb(fate: Sequence[str]) -> str:
    """The last thing that made a tensor another one, without its reason."""
    verbs = [entry.partition(":")[0] for entry in fate]
    telling = [
        verb for verb in verbs if verb.split(" ")[0] in ("quantize", "dequantize", "cast", "lora", "pack")
    ]
    renamed = ["rename"] if "rename" in verbs else ["keep"]
    return (telling or renamed)[-1]


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
