"""Which programs can load a checkpoint, which cannot, why, and what to do.

The rules are data: ``formats/programs`` says what each program takes, ``formats/conventions`` what it asks of
each scheme. Here they are held against the facts of a checkpoint.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path

from .. import catalog
from ..catalog.programs import Gguf, Program, Way, program, programs
from ..core.records import dataclass
from ..core.text import count
from .examined import Examined, examine
from .inspection import missing_scales
from .judged import Judged
from .structure import structure
from .taken import values

__all__ = ["CONVERT", "NO", "UNKNOWN", "YES", "Diagnosis", "Verdict", "diagnose"]

YES, CONVERT, NO, UNKNOWN = "yes", "convert", "no", "unknown"
_ORDER = (YES, UNKNOWN, CONVERT, NO)
"""From the best answer to the worst, of a program with several loaders."""


@dataclass(frozen=True)
class Verdict:
    """What one program makes of a checkpoint.

    Attributes:
        program: its name.
        title: for people.
        answer: ``"yes"``, ``"convert"`` (it can once the checkpoint is converted), ``"no"``, or ``"unknown"``
            where neither can be shown.
        why: what decides it, the reasons against it first.
        do: what to do, mostly a command; None where there is nothing to do.
        version: of the program, whose rules these are; None where they are of no certain one.
    """

    program: str
    title: str
    answer: str
    why: tuple[str, ...]
    do: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What a checkpoint is, and who can load it.

    Attributes:
        path: of the checkpoint.
        what: what it is, in words.
        remarks: what a user should look at.
        verdicts: by program, in the order of their names.
    """

    path: Path
    what: tuple[str, ...]
    remarks: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

    def of(self, name: str) -> Verdict:
        """The verdict on one program. Raises RecipeError where there is no such program."""
        known = program(name).name
        return next(one for one in self.verdicts if one.program == known)


def diagnose(path: str | PathLike[str]) -> Diagnosis:
    """Look at a checkpoint, and ask each program's rules.

    Reads headers, markers and small JSON; no weight.

    Raises:
        FormatError: there is nothing at that path.
        NoWeights: there is no checkpoint.
        RecipeError: a mistake in a file of the catalog.
    """
    facts = examine(path)
    verdicts = tuple(
        replace(_verdict(one, facts), version=one.version) for one in (program(name) for name in programs())
    )
    return Diagnosis(facts.path, tuple(_what(facts)), tuple(_remarks(facts)), verdicts)


def _verdict(one: Program, facts: Examined) -> Verdict:
    if facts.broken is not None:
        return Verdict(one.name, one.title, NO, (facts.broken,), "complete it, then ask again")
    if facts.gguf:
        return _of_gguf(one, one.gguf, facts)
    if facts.lost:
        return Verdict(
            one.name,
            one.title,
            NO,
            (_lost(facts),),
            "take the scales from where it comes from, or make it again",
        )
    if facts.adapter is not None:
        return Verdict(
            one.name, one.title, NO, ("an adapter, not a model",),
            f"transcode run MODEL DST --lora {shlex.quote(str(facts.path))}",
        )  # fmt: skip
    if not one.ways:
        return Verdict(one.name, one.title, NO, ("it loads GGUF alone",), _advice(one, facts))
    by_way = [(way, _judge(one, way, facts)) for way in one.ways]
    ranked = [(_answer(judged), way, judged) for way, judged in by_way]
    answer, way, judged = min(ranked, key=lambda entry: _ORDER.index(entry[0]))
    why = (*judged.against, *judged.open, *judged.fine)
    if way.by and answer == YES:
        why = (f"by {way.by}", *why)
    return Verdict(one.name, one.title, answer, why, _do(one, way, facts, judged, answer))


def _of_gguf(one: Program, rule: Gguf | None, facts: Examined) -> Verdict:
    """Of a GGUF file the name of its architecture is read, and nothing else: there is no yes."""
    if rule is None:
        do = "take the safetensors that it was made from"
        return Verdict(one.name, one.title, NO, ("it loads no GGUF",), do)
    name = facts.architecture
    if name is not None and rule.architectures and name not in rule.architectures:
        return Verdict(one.name, one.title, NO, (f"it knows no GGUF of {name}",))
    knows = "which it knows" if name in rule.architectures else "which it may know"
    of = f"of {name}, {knows}" if name is not None else "of an architecture that is not said"
    return Verdict(
        one.name, one.title, UNKNOWN, (f"GGUF {of}: whether its tensors are whole is not checked", rule.by)
    )


def _lost(facts: Examined) -> str:
    return f"quantized, and {missing_scales(facts.lost)}"


def _advice(one: Program, facts: Examined) -> str | None:
    return one.advice(None if facts.family is None else facts.family.name)


def _answer(judged: Judged) -> str:
    if judged.against:
        return CONVERT if judged.convertible and judged.moved else NO
    return UNKNOWN if judged.open else YES


def _judge(one: Program, way: Way, facts: Examined) -> Judged:
    judged = _family(Judged(), one, way, facts)
    if not judged.convertible:  # nothing else matters
        return judged
    if way.config and facts.config is None:
        why = facts.config_broken or "no config.json beside it"
        judged = judged.refuse(why, "put the model's config.json and tokenizer beside it")
    if way.place == "file" and facts.folder and facts.config is not None and any(w.config for w in one.ways):
        return judged.refuse(f"it is a folder with a config.json, which {way.by} does not read")
    if way.models == "transformers" and facts.tuned:
        judged = judged.doubt("an adapter's config beside it names what is loaded instead, or in addition")
    judged = values(judged, one, way, facts)
    judged = structure(judged, way, facts)
    if judged.convertible:
        judged = _place(judged, way, facts)
    for key in way.metadata:
        if key not in facts.metadata:
            judged = judged.refuse(f"its metadata has no {key!r}", _advice(one, facts))
    return judged


def _family(judged: Judged, one: Program, way: Way, facts: Examined) -> Judged:
    family = facts.family
    if family is None:
        if not way.families:
            return judged
        named = _architecture(facts)
        of = f", {named}," if named else ""
        return judged.doubt(f"no family that is known here{of}: whether it runs it is not certain")
    reads = way.families.get(family.name)
    if reads is None:
        if (one.only and way.families) or family.name in one.never:
            return judged.refuse(f"it runs no {_short(family)}")
        return judged.doubt(f"whether it runs {_short(family)} is not known here") if way.families else judged
    if family.spelling in reads:
        return judged
    spelled = f"its names are spelled {family.spelling}, not {' or '.join(reads)}"
    wanted = next((spelling for spelling in reads if spelling in family.converts_to()), None)
    if wanted is None:
        return judged.refuse(spelled)
    return judged.change(spelled, "--to", wanted)


def _short(family: catalog.Family) -> str:
    return family.title.partition(" (")[0]


def _architecture(facts: Examined) -> str | None:
    """The class that config.json names."""
    config = facts.config or {}
    listed = config.get("architectures")
    named = (
        listed[0]
        if isinstance(listed, list) and listed
        else config.get("_class_name", config.get("model_type"))
    )
    return named if isinstance(named, str) else None


def _place(judged: Judged, way: Way, facts: Examined) -> Judged:
    if facts.container not in way.containers:
        return judged.change(f"it reads no {facts.container} files")
    if way.place == "file" and len(facts.files) > 1:
        return judged.change(f"it loads one file, these are {len(facts.files)}")
    wanted = way.names.get(facts.container)
    if wanted is not None and not facts.called(wanted):
        return judged.change(f"it looks for {wanted}{facts.suffix}, not for {facts.files[0]}")
    if way.index and len(facts.files) > 1 and not facts.indexed:
        return judged.change("it needs the index of the shards, which is not there")
    return judged


def _do(one: Program, way: Way, facts: Examined, judged: Judged, answer: str) -> str | None:
    if answer == NO:
        return judged.do or (_advice(one, facts) if not way.plain else None)
    if answer != CONVERT:
        return None
    stem = facts.path.name.partition(".")[0] or "model"
    dst = f"{stem}_{one.name}" + (".safetensors" if way.place == "file" else "")
    flags = list(judged.flags)
    writes = None if way.writes is None else catalog.convention(way.writes)
    if writes is not None and not writes.schemes and "--convention" not in flags:
        flags += ["--convention", writes.name]
    elif way.names and way.place == "folder":
        flags += ["--name", way.names["safetensors"]]
    return shlex.join(["transcode", "run", str(facts.path), dst, *flags])


def _what(facts: Examined) -> Iterator[str]:
    """What it is, in words."""
    if facts.broken is not None:
        yield "cannot be read"
        return
    if facts.gguf:
        yield "GGUF" if facts.architecture is None else f"GGUF of {facts.architecture}"
        return
    yield count(len(facts.files), f"{facts.container} file")
    if facts.adapter is not None:
        yield f"a LoRA or another adapter: {facts.adapter}"
    elif facts.family is not None:
        yield f"{_short(facts.family)}, spelled {facts.family.spelling}"
    else:
        yield "no family that is known" + (f": {named}" if (named := _architecture(facts)) else "")
    if facts.lost:
        yield _lost(facts)
    elif facts.foreign is not None:
        yield f"quantized as {facts.foreign}"
    elif facts.readings:
        whose = " or ".join(convention.name for convention in facts.conventions)
        yield f"{len(facts.readings)} tensors {', '.join(facts.schemes)} ({whose})"
    elif facts.undecided is None:
        yield "not quantized"
    else:
        yield "quantized, it is not certain how"


def _remarks(facts: Examined) -> Iterator[str]:
    floats = {name: count for name, count in facts.dtypes.items() if count}
    if len(floats) > 1:
        yield "matrices of several dtypes: " + ", ".join(f"{count} {name}" for name, count in floats.items())
    if facts.said is not None and not facts.coded:
        yield f"{facts.said}, and no tensor is quantized"
    if facts.others:
        yield f"other models are inside: {', '.join(facts.others)}"
