"""How far a run is, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from itertools import islice
from typing import Any

from ..core.quality import Loss, total
from ..core.records import dataclass
from ..core.shown import Overview, Shown
from ..core.text import count, size
from ..plan.plan import Plan
from .checksums import Digests

__all__ = ["PartDone", "Progress", "Report", "by_scheme"]

_PARTS = 10
"""Parts that are named."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: bytes of values dealt with, of all; what is going on; seconds since it began."""

    done: int
    total: int
    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PartDone:
    """One part of a plan that several processes share.

    Attributes:
        number, count: the part, from 1 on, and how many there are.
        left: the parts that are not done yet.
    """

    number: int
    count: int
    left: tuple[int, ...]

    def __str__(self) -> str:
        text = f"part {self.number} of {self.count} is done"
        if self.left:
            shown = ", ".join(map(str, self.left[:_PARTS]))
            text += f", {len(self.left)} left: {shown}{', ...' if len(self.left) > _PARTS else ''}"
        return text


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """What a run did."""

    plan: Plan
    seconds: float
    bytes_read: int
    """Bytes of the source's tensors read, observation passes included."""
    bytes_written: int
    """Bytes of the weight files written, headers included."""

    measured: Mapping[str, tuple[str, Loss]] = field(default_factory=dict)
    recoded: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of tensors of which codes became those of another scheme: blocks that kept every value, and all."""
    checksums: Digests | None = None
    """SHA-256 of all that was written, where that was asked for."""
    resumed: int = 0
    """Bytes of values that an earlier run of the plan, which was interrupted, had dealt with."""
    part: PartDone | None = None
    """Which part of the plan it was, where that was asked for; None of all of it."""

    def overview(self) -> Overview:
        """What was done, how fast, and what it lost."""
        plan = self.plan.overview()
        rate = f" ({size(self.bytes_read / self.seconds)}/s)" if self.seconds else ""
        lines = list(plan.lines)
        if self.part is not None:
            lines.append(str(self.part))
        if self.resumed:
            lines.append(f"went on behind {size(self.resumed)} that an interrupted run had done")
        for scheme, (number, loss) in list(by_scheme(self.measured).items())[:8]:
            lost = "exact" if loss.decibels is None else f"{loss.decibels:.2f} dB"
            lines.append(f"{scheme}: SQNR {lost} of {count(number, 'tensor')}")
        if self.recoded:
            lines += [self.kept_blocks, *islice(self.changed_blocks, 8)]
        head = f"Report {self.plan.source} -> {self.plan.destination}, in {self.seconds:.1f} s{rate}"
        return Overview(head, lines, plan.tables)

    @property
    def kept_blocks(self) -> str:
        """How many blocks kept every value where codes became those of another scheme."""
        exact, blocks = (sum(one) for one in zip(*self.recoded.values(), strict=True))
        return f"lossless: {exact:,} of {blocks:,} blocks of {count(len(self.recoded), 'tensor')}"

    @property
    def changed_blocks(self) -> list[str]:
        """Of which tensors some blocks did not: how many, those with most of them first."""
        changed = {name: (blocks - exact, blocks) for name, (exact, blocks) in self.recoded.items()}
        ranked = sorted((one for one in changed.items() if one[1][0]), key=lambda one: -one[1][0])
        return [f"  {name}: {few:,} of {blocks:,} blocks rounded anew" for name, (few, blocks) in ranked]

    def losses(self) -> dict[str, tuple[str, Loss]]:
        """Scheme and loss of every tensor that was measured, by its name."""
        return dict(self.measured)

    def to_json(self) -> dict[str, Any]:
        """The plan's facts and the run's figures, for scripts; losses where they were measured."""
        report = self.plan.to_json()
        losses = self.losses()
        for entry in report["tensors"]:
            if entry["name"] in self.recoded:
                exact, blocks = self.recoded[entry["name"]]
                entry["recoded"] = {"blocks": blocks, "exact": exact}
            if entry["name"] in losses:
                entry["loss"] = losses[entry["name"]][1].to_json()
        if losses:
            report["losses"] = {scheme: loss.to_json() for scheme, (_, loss) in by_scheme(losses).items()}
        if self.checksums is not None:
            report["checksums"] = self.checksums.to_json()
        if self.part is not None:
            report["part"] = {
                "number": self.part.number, "count": self.part.count, "left": list(self.part.left)
            }  # fmt: skip
        return {
            **report,
            "seconds": round(self.seconds, 3),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "bytes_resumed": self.resumed,
        }


def by_scheme(losses: Mapping[str, tuple[str, Loss]]) -> dict[str, tuple[int, Loss]]:
    """For each scheme how many tensors were measured, and what was lost of all of them together."""
    groups: dict[str, list[Loss]] = {}
    for scheme, loss in losses.values():
        groups.setdefault(scheme, []).append(loss)
    return {scheme: (len(group), joined) for scheme, group in groups.items() if (joined := total(group))}
