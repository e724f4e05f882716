"""Which programs can load a checkpoint, which cannot, why, and what to do.

The rules are data: ``formats/programs`` says what each program takes, ``formats/conventions`` what it asks of
each scheme. Here they are held against the facts of a checkpoint.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from .. import catalog
from ..catalog.limits import Limit, holds
from ..catalog.programs import Program, Way, program, programs
from .examined import Examined, examine
from .fit import misfit
from .group import Reading

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
    """

    program: str
    title: str
    answer: str
    why: tuple[str, ...]
    do: str | None = None


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
        RecipeError: a mistake in a file of the catalog.
    """
    facts = examine(path)
    verdicts = tuple(_verdict(program(name), facts) for name in programs())
    return Diagnosis(facts.path, tuple(_what(facts)), tuple(_remarks(facts)), verdicts)


@dataclass(frozen=True)
class _Judged:
    """What one loader makes of it: objections, remarks, and the flags and the place of a conversion."""

    against: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    convertible: bool = True
    moved: bool = False
    do: str | None = None

    def refuse(self, why: str, do: str | None = None) -> _Judged:
        return replace(self, against=(*self.against, why), convertible=False, do=self.do or do)

    def change(self, why: str, *flags: str) -> _Judged:
        return replace(self, against=(*self.against, why), flags=(*self.flags, *flags), moved=True)

    def doubt(self, why: str) -> _Judged:
        return replace(self, open=(*self.open, why))

    def note(self, why: str) -> _Judged:
        return replace(self, fine=(*self.fine, why))


def _verdict(one: Program, facts: Examined) -> Verdict:
    if facts.broken is not None:
        return Verdict(one.name, one.title, NO, (facts.broken,), "complete it, then ask again")
    if facts.gguf:
        if one.gguf is not None:
            return Verdict(one.name, one.title, YES, (f"GGUF, {one.gguf}",))
        return Verdict(
            one.name, one.title, NO, ("it loads no GGUF",), "take the safetensors that it was made from"
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


def _advice(one: Program, facts: Examined) -> str | None:
    return one.advice(None if facts.family is None else facts.family.name)


def _answer(judged: _Judged) -> str:
    if judged.against:
        return CONVERT if judged.convertible and judged.moved else NO
    return UNKNOWN if judged.open else YES


def _judge(one: Program, way: Way, facts: Examined) -> _Judged:
    judged = _family(_Judged(), one, way, facts)
    if not judged.convertible:  # nothing else matters
        return judged
    judged = _values(judged, one, way, facts)
    if judged.convertible:
        judged = _place(judged, way, facts)
    for key in way.metadata:
        if key not in facts.metadata:
            judged = judged.refuse(f"its metadata has no {key!r}", _advice(one, facts))
    if way.config and facts.config is None:
        judged = judged.refuse(
            "no config.json beside it", "put the model's config.json and tokenizer beside it"
        )
    return judged


def _family(judged: _Judged, one: Program, way: Way, facts: Examined) -> _Judged:
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
        if family.name == "decoder_llm" and (named := _architecture(facts)):
            return judged.note(f"if it knows {named}")
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


def _values(judged: _Judged, one: Program, way: Way, facts: Examined) -> _Judged:
    if facts.foreign is not None:
        if facts.foreign in way.foreign:
            return judged.note(f"quantized as {facts.foreign}")
        return judged.refuse(
            f"quantized as {facts.foreign}, which it does not load and transcode does not decode",
            "take a checkpoint that is not quantized",
        )
    if facts.undecided is not None:
        return judged.doubt(facts.undecided)
    if not facts.readings:
        return _plain(judged, one, way, facts)
    candidates = [convention for convention in facts.conventions if convention.name in way.conventions]
    if not candidates:
        return _respelled(judged, way, facts, f"quantized as {_whose(facts)} stores it")
    stated = [one for one in candidates if one.config is None or one.name in facts.stated]
    if not stated:
        config = candidates[0].config
        return _respelled(judged, way, facts, f"config.json has no quantization_config of {config}")
    convention = stated[0]
    schemes = way.conventions[convention.name]
    judged = judged.note(f"{', '.join(facts.schemes)} as {convention.title} has it")
    for scheme in facts.schemes:
        if schemes is not None and scheme not in schemes:
            judged = judged.doubt(f"whether it loads {scheme} of {convention.title} is not known here")
    for why, certain in _misfits(one, convention, facts):
        if certain:
            judged = _respelled(judged, way, facts, why, same=convention)
        else:
            judged = judged.note(why)
    return judged


def _plain(judged: _Judged, one: Program, way: Way, facts: Examined) -> _Judged:
    if not way.plain:
        return judged.refuse("it is not quantized as it needs", _advice(one, facts))
    if facts.bare_fp8 and not way.bare_fp8:
        return judged.change(f"{facts.bare_fp8} tensors are FP8 without a scale", "--cast", "bf16")
    return judged


def _whose(facts: Examined) -> str:
    return " or ".join(convention.title for convention in facts.conventions[:2])


def _respelled(
    judged: _Judged, way: Way, facts: Examined, why: str, same: catalog.Convention | None = None
) -> _Judged:
    """An objection to the quantization: repacked for the program if its convention takes it, else decoded."""
    target = None if way.writes is None else catalog.convention(way.writes)
    if target is not None and same is not target and not judged.flags:
        fitting = set(facts.schemes) <= target.schemes.keys() and not any(
            _odd(reading, target, facts) for reading in facts.readings.values()
        )
        if fitting and _repacks(target, facts):
            return judged.change(why, "--convention", target.name)
        if fitting and len(facts.schemes) == 1:
            first = ("--dequantize", "bf16") if _shares(target, facts) else ()
            return judged.change(why, *first, "--scheme", facts.schemes[0], "--convention", target.name)
    if not way.plain:
        return judged.refuse(why)
    if "--dequantize" in judged.flags or "--convention" in judged.flags:
        return replace(judged, against=(*judged.against, why))
    return judged.change(why, "--dequantize", "bf16")


def _repacks(target: catalog.Convention, facts: Examined) -> bool:
    """Whether a convention stores all that is quantized with the same codes and scales."""
    if _shares(target, facts):
        return False
    for reading in facts.readings.values():
        rule = target.scheme(reading.scheme.name)
        if rule.unread(reading.scheme):
            return False
        if not {part.role for part in reading.scheme.parts(reading.spec)} <= rule.parts.keys():
            return False
    return True


def _shares(target: catalog.Convention, facts: Examined) -> bool:
    """Whether a convention has one global scale for joined tensors, where they may have several each."""
    whose = facts.conventions[0]
    return any(
        target.scheme(name).shares_scales and not whose.scheme(name).shares_scales for name in facts.schemes
    )


def _misfits(one: Program, convention: catalog.Convention, facts: Examined) -> Iterator[tuple[str, bool]]:
    """What of the quantized tensors a program does not take, each kind once; and whether that is certain."""
    seen: set[tuple[str, str]] = set()
    for reading in facts.readings.values():
        rule = convention.scheme(reading.scheme.name)
        expert = catalog.experts_of(reading.name) is not None
        unread = rule.unread(reading.scheme)
        for partly in rule.partly:
            applies = expert if partly.experts else bool(unread)
            if applies and holds(partly.when, reading.scheme):
                kind = (reading.scheme.name, partly.by)
                if kind not in seen:
                    seen.add(kind)
                    what = ", ".join(f"{option}={value}" for option, value in partly.when.items())
                    words = " ".join(filter(None, ("experts" if partly.experts else "", what)))
                    yield (
                        f"{reading.scheme.name} with {words} is read by {partly.by}",
                        one.name in partly.spares,
                    )
                unread = {key: value for key, value in unread.items() if key not in partly.when}
        for option, value in unread.items():
            kind = (reading.scheme.name, option)
            if kind not in seen:
                seen.add(kind)
                yield f"{reading.scheme.name} with {option}={value}, which it does not read", True
        if (odd := _odd(reading, convention, facts, one.name)) is not None:
            why, spared = odd
            kind = (reading.scheme.name, why)
            if kind not in seen:
                seen.add(kind)
                yield f"{reading.name}: {why}{f'; with {spared} it does' if spared else ''}", spared is None


def _odd(
    reading: Reading, convention: catalog.Convention, facts: Examined, name: str | None = None
) -> tuple[str, str | None] | None:
    """Which limit a tensor breaks that concerns a program, and what spares it."""
    rule = convention.scheme(reading.scheme.name)
    kept: list[Limit] = []
    spared: dict[str, str] = {}
    for limit in rule.limits:
        if name is None or not limit.concerns or name in limit.concerns:
            kept.append(limit)
            if limit.unless is not None:
                spared[limit.why] = limit.unless
    asked = replace(
        convention,
        schemes={**convention.schemes, rule.scheme: replace(rule, limits=tuple(kept))},
    )
    followed = facts.family is not None and facts.family.is_followed(reading.name)
    tensor = next(iter(facts.tensors)).evolve(name=reading.name, spec=reading.spec)
    why = misfit(tensor, reading.scheme, asked, followed=followed)
    if why is None:
        return None
    return why, next((unless for text, unless in spared.items() if text in why), None)


def _place(judged: _Judged, way: Way, facts: Examined) -> _Judged:
    if facts.container not in way.containers:
        return judged.change(f"it reads no {facts.container} files")
    if way.place == "file" and len(facts.files) > 1:
        return judged.change(f"it loads one file, these are {len(facts.files)}")
    stem = facts.files[0].partition(".")[0].partition("-0")[0] if facts.files else ""
    if way.names and stem not in way.names:
        return judged.change(f"it looks for {way.names[0]}.safetensors, not for {facts.files[0]}")
    return judged


def _do(one: Program, way: Way, facts: Examined, judged: _Judged, answer: str) -> str | None:
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
        flags += ["--name", way.names[0]]
    return shlex.join(["transcode", "run", str(facts.path), dst, *flags])


def _what(facts: Examined) -> Iterator[str]:
    """What it is, in words."""
    if facts.broken is not None:
        yield "cannot be read"
        return
    if facts.gguf:
        yield "GGUF"
        return
    count = len(facts.files)
    yield f"{count} {facts.container} {'file' if count == 1 else 'files'}"
    if facts.adapter is not None:
        yield f"a LoRA or another adapter: {facts.adapter}"
    elif facts.family is not None:
        yield f"{_short(facts.family)}, spelled {facts.family.spelling}"
    else:
        yield "no family that is known" + (f": {named}" if (named := _architecture(facts)) else "")
    if facts.foreign is not None:
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
    if facts.others:
        yield f"other models are inside: {', '.join(facts.others)}"
