"""What happened to a tensor, and what planning has to say: with a kind, so that no code reads their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..voice import spoken
from .records import dataclass
from .text import printable
from .value import Value

__all__ = ["Event", "Kind", "Reason", "Remark", "Why", "deed"]

Kind = Literal[
    "absorb", "add", "calibrate", "cast", "convert", "dequantize", "drop", "gather", "join", "keep", "lora",
    "pack", "pad", "quantize", "recode", "rename", "repack",
]  # fmt: skip
"""What can happen to a tensor. ``absorb``: it left the flow, its values went into another; ``convert``: names
are respelled, which did not change its own, or did more than that, as ``what`` says; ``gather``: its elements
did not lie in order in the source.
"""

_HEADS = {"absorb": "drop", "gather": "gathered"}
"""How kinds are spoken of that are not their own word."""


@dataclass(frozen=True, slots=True)
class Event(Value):
    """Something that happened to a tensor. Its ``str`` is for people and JSON: ``quantize int8: why``.

    Attributes:
        kind: what it was.
        text: how or why; None where there is no more to say.
        what: what it was done with, where a kind has several: the scheme, ``int8`` or ``int8 -> BF16``; of
            ``convert`` what became of its rows: ``split``, ``join``, ``rearrange``.
    """

    kind: Kind
    text: str | None = None
    what: str | None = None

    @property
    def label(self) -> str:
        """The kind, and with what: the same for all tensors to which the same was done."""
        if self.kind == "convert" and self.what is not None:
            return self.what
        head = _HEADS.get(self.kind, self.kind)
        return head if self.what is None else f"{head} {self.what}"

    def __str__(self) -> str:
        return self.label if self.text is None else f"{self.label}: {self.text}"


Why = Literal[
    "include", "target", "override", "like",
    "adapter", "exclude", "joined", "misfit", "never", "nonfinite", "not a float", "not a target",
    "not a weight", "outside blocks", "quantized already",
]  # fmt: skip
"""Why a tensor is quantized (the first line), or is not. ``misfit``: scheme or consumer cannot take it;
``joined``: the consumer reads it only together with one that is not quantized.
"""


@dataclass(frozen=True, slots=True)
class Reason(Value):
    """Why a tensor is quantized, or is not. Its ``str`` is the text, for people and JSON.

    Attributes:
        kind: what kind of reason it is.
        text: in words; without those of ``although``.
        label: what of its kind: the pattern that matched, the name of what is never quantized, the dtype.
        although: why it was chosen all the same, where it does not fit.
    """

    kind: Why
    text: str
    label: str | None = None
    although: Reason | None = None

    @property
    def alike(self) -> tuple[Why, str | None]:
        """Equal for reasons of one kind, whatever they say of a single tensor."""
        return self.kind, self.label

    def __str__(self) -> str:
        return self.text if self.although is None else f"{self.text} ({self.although})"


@dataclass(frozen=True, slots=True, repr=False)
class Remark(Value):
    """Something that planning has to say. Its ``str`` is the text, with options called as those who
    read it know them (:mod:`.voice`).

    Attributes:
        text: the whole line. Where it begins with the tensor's name, a colon follows.
        tensor: name of the tensor that it is about (of several, the first); None for the whole.
        kind: one word or two for all that say the same of different tensors; None where it is alone.
    """

    text: str
    tensor: str | None = None
    kind: str | None = None

    @property
    def rest(self) -> str:
        """What its ``str`` is without the tensor's name at its beginning."""
        return str(self) if self.tensor is None else str(self).removeprefix(f"{self.tensor}: ")

    def __repr__(self) -> str:
        return f"Remark({printable(self)!r})"

    def __str__(self) -> str:
        return spoken(self.text)


_CHANGES = (
    "dequantize", "lora", "cast", "join", "pack", "repack", "recode", "quantize", "calibrate", "pad", "add",
)  # fmt: skip
"""Kinds of events that make a tensor another one."""


def deed(fate: Sequence[Event]) -> str:
    """What is done to a tensor, without reasons: ``quantize int8``, ``dequantize + cast``, ``keep``."""
    labels = list(dict.fromkeys(event.label for event in fate if event.kind in _CHANGES))
    if labels:
        return " + ".join(labels)
    moved = [event.what for event in fate if event.kind == "convert" and event.what is not None]
    if moved:
        return moved[-1]
    return "rename" if any(event.kind == "rename" for event in fate) else "keep"
