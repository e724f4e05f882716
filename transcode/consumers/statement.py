"""What a loader makes of the words of a config.json on how tensors are quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..catalog.programs import IGNORED, Method, Statements
from ..core.records import dataclass
from .config.stated import CONFIG, Json, holders
from .config.table import DIALECTS
from .examined import Examined
from .judged import Judged

__all__ = ["Said", "said"]

_ABSENT = object()


@dataclass(frozen=True)
class Said:
    """Words that a loader goes by.

    Attributes:
        method: the ``quant_method`` as it knows it; None where it goes by none.
        odd: what it does not take of how tensors are stored, by the words.
    """

    method: str | None = None
    odd: tuple[str, ...] = ()

    def means(self, names: frozenset[str]) -> bool:
        """Whether it is one of these methods."""
        if self.method is None:
            return False
        # Of bitsandbytes loaders know two: bitsandbytes_4bit and bitsandbytes_8bit.
        plain = self.method.replace("_", "-").removesuffix("-4bit").removesuffix("-8bit")
        return plain in names


def said(judged: Judged, rules: Statements, facts: Examined) -> tuple[Judged, Said]:
    """Judge the words by a loader's rules."""
    key, words = _words(rules, facts.config or {})
    if words is None:
        return judged, Said()
    where = f"{CONFIG}: {key}"
    if not isinstance(words, dict):
        return judged.refuse(f"{where} is {words!r:.40}, not a JSON object", f"correct {CONFIG}"), Said()
    method = words.get("quant_method")
    for bits in ("4bit", "8bit"):  # as early files of bitsandbytes have it
        if words.get(f"load_in_{bits}") is True and f"bitsandbytes_{bits}" in rules.methods:
            method = f"bitsandbytes_{bits}"
            break
    if not isinstance(method, str):
        why = f"{where} has no quant_method"
        if rules.unnamed is None:
            return judged.doubt(f"{why}: what it makes of that is not known here"), Said()
        return judged.refuse(why, f"put it into {CONFIG}"), Said()
    known = method.lower() if rules.any_case else method
    if known not in rules.methods:
        told = f"{CONFIG} says quant_method {method!r}, which it does not know"
        if rules.unknown == IGNORED:
            return judged.note(f"{told}: it warns, and loads the tensors as they are"), Said()
        return judged.refuse(told, None if facts.coded else f"take {key} out of {CONFIG}"), Said()
    rule = rules.methods[known]
    if not facts.coded:
        why = f"{CONFIG} says quant_method {method!r}, and no tensor is quantized"
        if rule.plain is None:
            return judged.refuse(why, f"take {key} out of {CONFIG}"), Said(known)
        return judged.doubt(f"{why}: {rule.plain}"), Said(known)
    for why in _unmet(rule, words):
        judged = judged.refuse(f"{where}.{why}", f"correct {CONFIG}")
    odd = tuple(f"{where}.{why}" for why in _other(words, rule.converts))
    return _agreeing(judged, known, words, facts), Said(known, odd)


def _words(rules: Statements, config: Json) -> tuple[str, Any]:
    """The first statement that is there, of the config or of a sub-model's."""
    for holder in holders(config):
        for key in rules.keys:
            if holder.get(key) is not None:
                return key, holder[key]
    return "", None


def _unmet(rule: Method, words: Json) -> Iterator[str]:
    for path in rule.needs:
        if not any(value not in (None, {}, []) for value in _at(words, path.split("."))):
            yield f"{path} is missing"
    yield from _other(words, rule.takes)


def _other(words: Json, known: Mapping[str, tuple[Any, ...]]) -> Iterator[str]:
    for path, allowed in known.items():
        for value in _at(words, path.split(".")):
            if value not in allowed:
                listed = ", ".join(str(one) for one in allowed if one is not None)
                yield f"{path} is {value!r:.40}, it takes {listed}"
                break


def _at(value: Any, path: list[str]) -> Iterator[Any]:
    if not path:
        yield value
    elif isinstance(value, dict):
        below = value.values() if path[0] == "*" else [value[path[0]]] if path[0] in value else []
        for one in below:
            yield from _at(one, path[1:])


def _agreeing(judged: Judged, method: str, words: Json, facts: Examined) -> Judged:
    """Whether the words say of each tensor what it is."""
    dialect = DIALECTS.get(method)
    if dialect is None or not facts.readings:
        return judged
    if (beyond := dialect.beyond_codes(words)) is not None:
        judged = judged.doubt(f"{CONFIG} says {beyond}: whether it does that is not known here")
    for name, reading in facts.modules.items():
        module = name.removesuffix(".weight")
        if dialect.covering and (covered := dialect.covers(words, module)) is not True:
            if covered is None:
                return judged.doubt(
                    f"which layers are quantized, {CONFIG} says by classes that are not known here"
                )
            why = f"{CONFIG} says that {module} is not quantized, and it is {reading.scheme.name}"
            return judged.refuse(why, f"correct {CONFIG}")
        if (odd := dialect.contradicts(words, module, reading.scheme)) is not None:
            return judged.doubt(f"{name} is {reading.scheme.name}, and {CONFIG} says {odd}")
    for name in facts.plain_matrices if dialect.covering else ():
        module = name.removesuffix(".weight")
        if dialect.covers(words, module):
            why = f"{CONFIG} says that {module} is quantized, and it is not"
            inside = facts.family is not None and facts.family.is_target(name)[0]
            return judged.refuse(why, f"correct {CONFIG}") if inside else judged.doubt(why)
    return judged
