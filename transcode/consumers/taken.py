"""Whether a program takes the values of a checkpoint: plain, or quantized as some convention has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from .. import catalog
from ..catalog.limits import Limit, holds
from ..catalog.programs import Program, Way
from .config.table import DIALECTS
from .examined import Examined
from .fit import misfit
from .group import Reading
from .judged import Judged
from .statement import Said, said

__all__ = ["values"]


def values(judged: Judged, one: Program, way: Way, facts: Examined) -> Judged:
    """Judge by what a checkpoint's values are, and what it says of them."""
    words = None
    if way.statements is not None and facts.config is not None:
        judged, words = said(judged, way.statements, facts)
        if not judged.convertible:
            return judged
    if facts.foreign is not None:
        return _foreign(judged, way, facts, words)
    if facts.undecided is not None:
        return judged.doubt(facts.undecided)
    if not facts.readings:
        return _plain(judged, one, way, facts)
    candidates = [convention for convention in facts.conventions if convention.name in way.conventions]
    if not candidates:
        return _respelled(judged, way, facts, f"quantized as {_whose(facts)} stores it")
    stated = [one for one in candidates if _is_stated(one, words, facts)]
    if not stated:
        config = candidates[0].config
        return _respelled(judged, way, facts, f"config.json has no quantization_config of {config}")
    convention = stated[0]
    schemes = way.conventions[convention.name]
    judged = judged.note(f"{', '.join(facts.schemes)} as {convention.title} has it")
    refused = way.refuses.get(convention.name, {})
    for scheme in facts.schemes:
        if scheme in refused:
            judged = _respelled(judged, way, facts, f"{scheme}: {refused[scheme]}", same=convention)
        elif schemes is not None and scheme not in schemes:
            judged = judged.doubt(f"whether it loads {scheme} of {convention.title} is not known here")
    if words is not None:
        for why in words.odd:
            judged = _respelled(judged, way, facts, why)
    unsure = way.experts.get(convention.name, {})
    for scheme in dict.fromkeys(
        one.scheme.name for one in facts.readings.values() if catalog.experts_of(one.name) is not None
    ):
        if scheme in unsure:
            judged = judged.doubt(f"{scheme} of experts: {unsure[scheme]}")
    for why in _untiled(way.tiles.get(convention.name, {}), facts):
        judged = judged.doubt(why)
    for why, certain in _misfits(one, convention, facts):
        if certain:
            judged = _respelled(judged, way, facts, why, same=convention)
        else:
            judged = judged.note(why)
    return judged


def _is_stated(convention: catalog.Convention, words: Said | None, facts: Examined) -> bool:
    """Whether the program is told that tensors are as a convention has them, if it must be."""
    if convention.config is None or convention.name in facts.beside:
        return True
    if words is None:
        return convention.name in facts.stated
    names = {one.replace("_", "-") for one in (convention.config, *convention.methods)}
    dialect = DIALECTS.get(convention.config)
    if dialect is not None and dialect.said is not None and dialect.said not in names:
        # Under a word of others, beside which it says which of them is meant.
        return words.means(frozenset({dialect.said})) and convention.name in facts.stated
    return words.means(frozenset(names))


def _foreign(judged: Judged, way: Way, facts: Examined, words: Said | None) -> Judged:
    """Judge what transcode does not decode: it cannot compare words and tensors, so there is no yes."""
    if facts.foreign not in way.foreign:
        return judged.refuse(
            f"quantized as {facts.foreign}, which it does not load and transcode does not decode",
            "take a checkpoint that is not quantized",
        )
    if words is not None and words.method is None and not way.metadata:
        return judged.refuse(f"quantized as {facts.foreign}, and config.json does not say so")
    if way.metadata:
        return judged.note(f"quantized as {facts.foreign}")
    return judged.doubt(
        f"quantized as {facts.foreign}, of which it has a loader: whether that takes these tensors, transcode"
        " does not check"
    )


def _plain(judged: Judged, one: Program, way: Way, facts: Examined) -> Judged:
    if not way.plain:
        return judged.refuse(
            "it is not quantized as it needs", one.advice(None if facts.family is None else facts.family.name)
        )
    if facts.integers:
        what = f"{facts.integers[0]} holds integers and has no scale"
        judged = judged.doubt(f"{what}: whether they are values cannot be told")
    if facts.bare_fp8 and not way.bare_fp8:
        return judged.change(f"{facts.bare_fp8} tensors are FP8 without a scale", "--cast", "bf16")
    return judged


def _whose(facts: Examined) -> str:
    return " or ".join(convention.title for convention in facts.conventions[:2])


def _respelled(
    judged: Judged, way: Way, facts: Examined, why: str, same: catalog.Convention | None = None
) -> Judged:
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


def _untiled(tiles: Mapping[str, tuple[int, int]], facts: Examined) -> Iterator[str]:
    """The first tensor of each scheme that a kernel is not known to take, for its size."""
    seen: set[str] = set()
    for reading in facts.readings.values():
        rows, columns = tiles.get(reading.scheme.name, (1, 1))
        shape = reading.spec.shape
        if reading.scheme.name not in seen and (shape[-2] % rows or shape[-1] % columns):
            seen.add(reading.scheme.name)
            yield (
                f"{reading.name} has {shape[-2]} rows and {shape[-1]} columns, its kernel takes multiples of"
                f" {rows} and {columns}: whether another takes over is not known here"
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
