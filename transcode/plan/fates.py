"""What becomes of tensors, in few words: what is done to them, why, and how many bytes go in and come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field

from ..core.event import Event, deed
from ..core.records import dataclass
from ..core.spec import Spec
from ..core.tensor import LazyTensor
from ..core.value import plentiful

__all__ = ["Fate", "Section", "fates", "sections"]

_GONE = {"absorb": "into others", "drop": "drop"}
_SHORT = {"values": "", "codes": "codes"}
_LAST = {"keep": 1, "into others": 2, "drop": 3}
_TELLING = ("quantize", "keep", "drop", "lora")
"""Kinds of events whose texts are reasons, and no descriptions of the deed itself."""


@plentiful
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
        return sum([fate.bytes_in for fate in self.fates])

    @property
    def bytes_out(self) -> int:
        """Of the output."""
        return sum([fate.bytes_out for fate in self.fates])


def fates(
    tensors: Iterable[LazyTensor],
    dropped: Iterable[tuple[LazyTensor, Event]],
    stored: Mapping[str, Spec],
) -> list[Fate]:
    """What becomes of every tensor: of those that are written, then of those that are not.

    Args:
        tensors: that are written.
        dropped: that left the flow, and why.
        stored: dtype and shape of each of the source's tensors, by its name in the source; empty where
            nobody knows, and each tensor is as it came.
    """
    counted: set[str] = set()
    deeds: dict[tuple[int, ...], tuple[str, str]] = {}
    named: dict[tuple[int, ...], str] = {}

    def fate(tensor: LazyTensor, events: Sequence[Event], nbytes: int, *, gone: bool) -> Fate:
        source = tensor.source
        known = stored.get(source)
        before = known if known is not None or stored else tensor.spec
        fresh = before is not None and source not in counted
        counted.add(source)
        # Of many tensors most are alike, down to the objects, which live as long as the tensors do.
        kind = *map(id, events), gone
        if (said := deeds.get(kind)) is None:
            said = deeds[kind] = (_GONE[events[-1].kind] if gone else deed(events)), _why(events)
        becomes = ""
        if not gone:
            same = id(before), id(tensor.parts)
            if same not in named:
                named[same] = _becomes(tensor, before)
            becomes = named[same]
        nbytes_in = before.nbytes if before is not None and fresh else 0
        return Fate(tensor, before, nbytes_in, nbytes, said[0], becomes, said[1])

    written = [fate(tensor, tensor.fate, tensor.nbytes, gone=False) for tensor in tensors]
    return written + [fate(tensor, (*tensor.fate, why), 0, gone=True) for tensor, why in dropped]


def sections(everything: Iterable[Fate]) -> list[Section]:
    """Fates by what is done, what changes most bytes first; what is kept and what is left out come last."""
    groups: dict[tuple[str, str, str], Section] = {}
    for fate in everything:
        dtype = "" if fate.before is None else fate.before.dtype.name
        key = fate.deed, dtype, fate.becomes
        if (group := groups.get(key)) is None:
            group = groups[key] = Section(*key)
        group.fates.append(fate)
    return sorted(groups.values(), key=lambda one: (_LAST.get(one.deed, 0), -one.bytes_in))


def _why(events: Sequence[Event]) -> str:
    """The reason that was told last."""
    texts = [event.text for event in events if event.text is not None and event.kind in _TELLING]
    return texts[-1] if texts else ""


def _becomes(tensor: LazyTensor, before: Spec | None) -> str:
    said = [
        " ".join(filter(None, (part.spec.dtype.name, _SHORT.get(part.role, part.role.replace("_", " ")))))
        for part in tensor.parts
    ]
    return "" if before is not None and said == [before.dtype.name] else " + ".join(said)
