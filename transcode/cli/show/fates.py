"""What becomes of tensors, in few words: what is done to them, why, and how many bytes go in and come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...core.event import Event, deed
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...plan.plan import Plan
from ..folding import Row, fold, starred

__all__ = ["Fate", "Section", "fates", "rows_of", "sections", "story"]

_GONE = {"absorb": "into others", "drop": "drop"}
_SHORT = {"values": "", "codes": "codes"}


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one tensor, as tables tell it.

    Attributes:
        tensor: with its facts.
        before: dtype and shape in the source; None of what is not from there.
        bytes_in: of the source's tensor; what several are made of counts once.
        bytes_out: of all that is written of it.
        deed: what is done, without a reason: ``quantize int8``, ``keep``.
        becomes: dtypes of what is written; empty where nothing is, or the same.
        why: the reason.
    """

    tensor: LazyTensor
    before: Spec | None
    bytes_in: int
    bytes_out: int
    deed: str
    becomes: str
    why: str

    @property
    def name(self) -> str:
        """In the source."""
        return self.tensor.source or self.tensor.name


@dataclass
class Section:
    """All tensors to which the same is done, from one dtype to another."""

    deed: str
    dtype: str
    becomes: str
    fates: list[Fate] = field(default_factory=list)

    @property
    def bytes_in(self) -> int:
        """Of the source."""
        return sum(fate.bytes_in for fate in self.fates)

    @property
    def bytes_out(self) -> int:
        """Of the output."""
        return sum(fate.bytes_out for fate in self.fates)


def fates(plan: Plan) -> list[Fate]:
    """What becomes of every tensor of a plan: of those that are written, then of those that are not."""
    counted: set[str] = set()

    def fate(tensor: LazyTensor, events: Sequence[Event], nbytes: int, *, gone: bool) -> Fate:
        stored = plan.stored.get(tensor.source)
        before = stored if stored is not None or plan.stored else tensor.spec
        fresh = before is not None and tensor.source not in counted
        counted.add(tensor.source)
        return Fate(
            tensor,
            before,
            before.nbytes if before is not None and fresh else 0,
            nbytes,
            _GONE[events[-1].kind] if gone else deed(events),
            "" if gone else _becomes(tensor, before),
            _why(events),
        )

    written = [fate(tensor, tensor.fate, tensor.nbytes, gone=False) for tensor in plan.tensors]
    if any(one.deed == "rename" for one in written):
        names = starred([one.tensor.name for one in written])
        written = [
            replace(one, why=f"-> {name}") if one.deed == "rename" else one
            for one, name in zip(written, names, strict=True)
        ]
    return written + [fate(tensor, (*tensor.fate, why), 0, gone=True) for tensor, why in plan.log.dropped]


def sections(everything: Sequence[Fate]) -> list[Section]:
    """Fates by what is done, what changes most bytes first; what is kept and what is left out come last."""
    groups: dict[tuple[str, str, str], Section] = {}
    for fate in everything:
        dtype = "" if fate.before is None else fate.before.dtype.name
        key = fate.deed, dtype, fate.becomes
        groups.setdefault(key, Section(*key)).fates.append(fate)
    last = {"keep": 1, "into others": 2, "drop": 3}
    return sorted(groups.values(), key=lambda one: (last.get(one.deed, 0), -one.bytes_in))


def rows_of(parts: Sequence[Section]) -> list[list[Row[Fate]]]:
    """The tensors of each section, folded: those of a row have one shape and one story."""
    named = [
        (fate.name, (number, _shape(fate), fate.why, story(fate, folded=True)), fate)
        for number, part in enumerate(parts)
        for fate in part.fates
    ]
    rows: list[list[Row[Fate]]] = [[] for _ in parts]
    numbers = {id(fate): number for number, part in enumerate(parts) for fate in part.fates}
    for row in fold(named):
        rows[numbers[id(row.items[0])]].append(row)
    return rows


def story(fate: Fate, *, folded: bool = False) -> str:
    """All that was done to a tensor. Folded: without the numbers of its own names."""
    events = "; ".join(_folded(event) if folded else str(event) for event in fate.tensor.fate)
    return events or "keep"


def _shape(fate: Fate) -> tuple[object, ...]:
    return (fate.before and fate.before.shape, tuple((part.role, part.spec) for part in fate.tensor.parts))


def _folded(event: Event) -> str:
    """An event without what is of one tensor: its names, the peak of its inputs."""
    if event.kind in ("rename", "absorb", "calibrate"):
        return event.label
    return str(event)


def _why(events: Sequence[Event]) -> str:
    """The reason that was told last, of those that are no description of the deed itself."""
    telling = ("quantize", "keep", "drop", "lora")
    texts = [event.text for event in events if event.text is not None and event.kind in telling]
    return texts[-1] if texts else ""


def _becomes(tensor: LazyTensor, before: Spec | None) -> str:
    said = [
        " ".join(filter(None, (part.spec.dtype.name, _SHORT.get(part.role, part.role.replace("_", " ")))))
        for part in tensor.parts
    ]
    return "" if before is not None and said == [before.dtype.name] else " + ".join(said)
