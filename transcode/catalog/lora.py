"""Loads ``formats/lora/names.yaml``: how files of LoRAs name what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path

from ..core.patterns import compile_regex
from ..core.records import dataclass
from . import strict
from .folders import find
from .proven import proven

__all__ = ["LoraNames", "Regex", "Style", "lora_names"]


@dataclass(frozen=True, slots=True)
class Regex:
    """What keys look like: compiled when it is first asked, as most commands read no LoRA.

    Attributes:
        pattern: a regular expression; of endings for whole keys, where group 1 is the base.
        flags: as for ``re.compile``.
    """

    pattern: str
    flags: int = 0

    def fullmatch(self, key: str) -> re.Match[str] | None:
        """As of a compiled expression."""
        return _compiled(self.pattern, self.flags).fullmatch(key)

    def sub(self, replacement: str, key: str) -> str:
        """As of a compiled expression."""
        return _compiled(self.pattern, self.flags).sub(replacement, key)


@cache
def _compiled(pattern: str, flags: int) -> re.Pattern[str]:
    return re.compile(pattern, flags)


@dataclass(frozen=True, slots=True)
class Style:
    """One way to name the two factors of a product.

    Attributes:
        name: e.g. ``"standard"``.
        roles: role (``up``, ``down``, ``mid``, ``bias``) -> what a key of it looks like; its groups together
            are the base.
    """

    name: str
    roles: Mapping[str, Regex]


@dataclass(frozen=True)
class LoraNames:
    """All that is known of the names in LoRA files; see the file for what each part means.

    Attributes:
        styles: in the order in which they are tried.
        alpha: what keys of alphas look like; group 1 is the base, here and below.
        differences: what keys of differences look like -> last component of the parameter they change.
        norms: what keys of differences of norms look like -> names that the parameter they change may have.
        kinds: adapters of other kinds -> role of a tensor in it -> what its keys look like.
        unsupported: what it is, in words -> what its keys look like.
        tokens: what keys of an embedding's new rows look like.
        whole: (regular expression, replacement) that make the name of a parameter of a whole tensor's key.
        stacked: parameters that hold several matrices, in the order in which their modules define them.
        wrappers: components that may stand anywhere in a name and mean nothing.
        prefixes: before module names.
        flat_prefixes: before module names whose dots are underscores.
        text_prefixes, text_flat_prefixes: the same, of text encoders -> which of a pipeline's they may be.
        text_components: name components that only models with a text encoder have.
        retry: (regular expression, replacement) for older module names.
    """

    styles: tuple[Style, ...]
    alpha: tuple[Regex, ...]
    differences: Mapping[Regex, str]
    norms: Mapping[Regex, tuple[str, ...]]
    kinds: Mapping[str, Mapping[str, tuple[Regex, ...]]]
    unsupported: Mapping[str, tuple[Regex, ...]]
    tokens: tuple[Regex, ...]
    whole: tuple[tuple[Regex, str], ...]
    stacked: tuple[str, ...]
    wrappers: tuple[str, ...]
    prefixes: tuple[str, ...]
    flat_prefixes: tuple[str, ...]
    text_prefixes: Mapping[str, tuple[int, ...]]
    text_flat_prefixes: Mapping[str, int]
    text_components: tuple[str, ...]
    retry: tuple[tuple[Regex, str], ...]

    def holds(self, key: str) -> bool:
        """Whether a key is one of an adapter: a factor, an alpha, a difference or a part of another kind."""
        endings, rest, suffixes, components = self._held
        head = key.rsplit(".", components)[0] if key.count(".") >= components else ""
        tail = key[len(head) :]  # with the dot before it
        known = self._tails.get(tail)
        if known is None:
            if len(self._tails) >= _MOST_TAILS:
                self._tails.clear()
            known = self._tails[tail] = endings.fullmatch(tail) is not None
        fits = known and "\n" not in head
        return fits or (key.endswith(suffixes) and rest.fullmatch(key) is not None)

    @cached_property
    def _tails(self) -> dict[str, bool]:
        """Layers are alike: what the last components of a key say, said once for all that end so."""
        return {}

    @cached_property
    def _held(self) -> tuple[re.Pattern[str], re.Pattern[str], tuple[str, ...], int]:
        """All as two expressions: of modules of any name with an ending, and the others, with texts of which
        one is the end of their keys; and how many components of a key the first concerns: those that the
        longest ending reaches into.
        """
        factors = (regex for style in self.styles for regex in style.roles.values())
        # Any module has a weight: it says nothing of IA3 by itself.
        roles = (
            endings
            for name, kind in self.kinds.items()
            for role, endings in kind.items()
            if (name, role) != ("ia3", "values")
        )
        others = (regex for endings in (*roles, *self.unsupported.values()) for regex in endings)
        every = (*factors, *self.alpha, *self.differences, *self.norms, *self.tokens, *others)
        texts = [_GROUP.sub("(?:", regex.pattern) for regex in every]
        # Nearly all are a module of any name and an ending: its name is gone through once for all of them.
        endings = [text.removeprefix(_MODULE) for text in texts if text.startswith(_MODULE)]
        rest = [f"(?:{text})" for text in texts if not text.startswith(_MODULE)]
        most = max((text.count(r"\.") for text in endings), default=0)
        return (
            re.compile(f"{_MODULE}(?:{'|'.join(endings)})"),
            re.compile("|".join(rest)),
            tuple(_suffix(text) for text in texts if not text.startswith(_MODULE)),
            most + 1,
        )


_GROUP = re.compile(r"\(\?P<\w+>")
_MODULE = "(.+)"
_MOST_TAILS = 1 << 14


def _suffix(pattern: str) -> str:
    """A text with which all ends that an expression fits; empty where it has branches, or tells none."""
    literal = re.search(r"(?:\\\.|(?<!\\)\w)*\Z", pattern)
    assert literal is not None
    outside, groups = pattern, 1
    while groups:
        outside, groups = re.subn(r"\([^()]*\)", "", outside)
    return "" if "|" in outside else literal[0].replace("\\", "")


def lora_names() -> LoraNames:
    """The table in use.

    Raises:
        RecipeError: a mistake in the file, with its line.
    """
    return proven(_lora_names, find("lora", "names"))


def _lora_names(path: Path) -> LoraNames:
    top = strict.catalog_file(path, "lora")
    text = top.need("text_encoder").mapping()
    names = LoraNames(
        styles=tuple(_style(key, child) for key, child in top.need("styles").mapping().items()),
        alpha=_endings(top.need("alpha")),
        differences={
            _ending(key): child.string() for key, child in top.need("differences").mapping().items()
        },
        norms={_ending(key): tuple(child.strings()) for key, child in top.need("norms").mapping().items()},
        kinds={
            key: {role: _endings(endings) for role, endings in child.mapping().items()}
            for key, child in top.need("kinds").mapping().items()
        },
        unsupported={key: _endings(child) for key, child in top.need("unsupported").mapping().items()},
        tokens=_endings(top.need("tokens")),
        whole=_replacements(top.need("whole")),
        stacked=tuple(top.need("stacked").strings()),
        wrappers=tuple(top.need("wrappers").strings()),
        prefixes=tuple(top.need("prefixes").strings()),
        flat_prefixes=tuple(top.need("flat_prefixes").strings()),
        text_prefixes={
            key: tuple(number.integer(1) for number in child.sequence())
            for key, child in text.need("prefixes").mapping().items()
        },
        text_flat_prefixes={
            key: child.integer(1) for key, child in text.need("flat_prefixes").mapping().items()
        },
        text_components=tuple(text.need("components").strings()),
        retry=_replacements(top.need("retry")),
    )
    text.reject_unknown()
    top.reject_unknown()
    return names


def _style(name: str, node: strict.Node) -> Style:
    top = node.mapping()
    roles = {role: _ending(top.need(role).string()) for role in ("up", "down")}
    for role in ("mid", "bias"):
        if (ending := top.find(role)) is not None:
            roles[role] = _ending(ending.string())
    top.reject_unknown()
    return Style(name, roles)


def _endings(node: strict.Node) -> tuple[Regex, ...]:
    return tuple(map(_ending, node.strings()))


def _replacements(node: strict.Node) -> tuple[tuple[Regex, str], ...]:
    return tuple(
        (child.at(lambda key=key: _checked(key)), child.string())  # type: ignore[misc]
        for key, child in node.mapping().items()
    )


def _ending(text: str) -> Regex:
    """An ending as a regular expression for whole keys; ``*`` is one name component."""
    if text.startswith("re:"):
        return _checked(text.removeprefix("re:"))
    return Regex(_MODULE + re.escape(text).replace(r"\*", "[^.]+"))


def _checked(expression: str) -> Regex:
    return Regex(expression, compile_regex(expression).flags)
