"""What the stages of a flow share while facts are being rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PlanError
from ..voice import called
from .event import Event, Remark
from .nearest import nearest
from .records import dataclass
from .source import Source, Whose
from .spec import Spec
from .tensor import LazyTensor
from .value import interned

if TYPE_CHECKING:
    from .quantized_source import QuantizedSource

__all__ = ["Planning"]

_LOOKED_AT = 2000
"""Names among whose components one is looked for that a pattern may mean."""


@dataclass
class Planning:
    """The conversation between stages and the plan: options that concern all, and remarks that all may make.

    Attributes:
        convention: name of the consumer's convention, or None where the flow has no sink yet.
        allow_unmatched: a rule that matches nothing is a warning instead of an error.
        metadata: that of the source.
        source: what the user named as the source; None where the flow has none.
        reference: another checkpoint that the output is to be like, if any.
        stored: dtype and shape of each of the source's tensors, by its name in the source.
        side_files: those of the source: small files beside the weights.
        whose: what the user says of how the source is quantized.
        asked: that was asked for, as something is quantized.
        opened: the tensors that came quantized, where a stage has opened them.
        decoded: tensors, by their names in the source, that were quantized there and are no longer.
        coded: those that still are, as far as a stage has looked.
        settled: tensors whose dtype their reader asks for: what is cast, these are not.
        replaced: metadata of the source that is no longer true: key -> new value, None to leave it out.
        respelled: of each conversion, modules -> the names of those that hold their rows since, in order.
        beside: small files that a stage writes beside the weights, by name.
        inputs: what is read besides the source, such as LoRAs.
        workers: threads that a stage may use if it must look at bytes while planning.
        measure: what quantizing loses is to be measured.
        lossless: no value may change.
        dropped: tensors that left the flow, and why.
        notes: remarks, such as which family was recognised; each once, in order (the values are None).
        warnings: what the user should look at; likewise.
        on_scan: called with a text and a fraction in 0..1 while bytes are looked at during planning.
    """

    convention: str | None = None
    allow_unmatched: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: Path | None = None
    reference: Source | None = None
    stored: Mapping[str, Spec] = field(default_factory=dict)
    side_files: Sequence[Path] = ()
    whose: Whose = field(default_factory=Whose)
    asked: bool = False
    opened: QuantizedSource | None = None
    decoded: set[str] = field(default_factory=set)
    coded: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    replaced: dict[str, str | None] = field(default_factory=dict)
    respelled: list[Mapping[str, Sequence[str]]] = field(default_factory=list)
    beside: dict[str, bytes] = field(default_factory=dict)
    inputs: list[Source] = field(default_factory=list)
    workers: int = 1
    measure: bool = False
    lossless: bool = False
    dropped: list[tuple[LazyTensor, Event]] = field(default_factory=list)
    notes: dict[Remark, None] = field(default_factory=dict)
    warnings: dict[Remark, None] = field(default_factory=dict)
    on_scan: Callable[[str, float], None] | None = None
    _numbers: int = 0

    def number(self) -> int:
        """One that was not given before."""
        self._numbers += 1
        return self._numbers

    def drop(self, tensor: LazyTensor, why: Event) -> None:
        """Record that a tensor leaves the flow."""
        self.dropped.append((tensor, interned(why)))

    def note(self, text: str, *, tensor: str | None = None, kind: str | None = None) -> None:
        """Say something, once; see :class:`.event.Remark`."""
        self.notes[Remark(text, tensor, kind)] = None

    def warn(self, text: str, *, tensor: str | None = None, kind: str | None = None) -> None:
        """Say something the user should look at, once; see :class:`.event.Remark`."""
        self.warnings[Remark(text, tensor, kind)] = None

    def unmatched(self, stage: str, rules: Iterable[str], names: Iterable[str] = ()) -> None:
        """Complain of rules that matched no tensor.

        Args:
            stage: where the rules stand, e.g. ``"drop"``.
            rules: the texts of those rules.
            names: names of the tensors there were, of which a few are shown.

        Raises:
            PlanError: unless unmatched rules are allowed.
        """
        lost = [repr(rule) for rule in rules]
        if not lost:
            return
        known = list(names)
        shown = known[:3]
        message = f"{stage}: {', '.join(lost)} {'matches' if len(lost) == 1 else 'match'} no tensor"
        if shown:
            message += f" (names look like {', '.join(map(repr, shown))})"
            if len(lost) == 1 and "." not in lost[0]:
                words = dict.fromkeys(word for name in known[:_LOOKED_AT] for word in name.split("."))
                message += nearest(lost[0][1:-1], words)
        if not self.allow_unmatched:
            raise PlanError(message, hint=f"correct it, or pass {called('allow_unmatched')}")
        self.warn(message)
