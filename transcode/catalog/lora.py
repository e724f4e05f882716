"""Loads ``formats/lora/names.yaml``: how files of LoRAs name what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.patterns import compile_regex
from . import strict
from .folders import find

__all__ = ["LoraNames", "Style", "lora_names"]

Regex = re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Style:
    """One way to name the two factors of a product.

    Attributes:
        name: e.g. ``"standard"``.
        roles: role (``up``, ``down``, ``mid``, ``bias``) -> what a key of it looks like; group 1 is the base.
    """

    name: str
    roles: Mapping[str, Regex]


@dataclass(frozen=True, slots=True)
class LoraNames:
    """All that is known of the names in LoRA files; see the file for what each part means.

    Attributes:
        styles: in the order in which they are tried.
        alpha: what keys of alphas look like; group 1 is the base, here and below.
        differences: what keys of differences look like -> last component of the parameter they change.
        norms: what keys of differences of norms look like -> names that the parameter they change may have.
        kinds: adapters of other kinds -> role of a tensor in it -> what its keys look like.
        unsupported: what it is, in words -> what its keys look like.
        prefixes: before module names.
        flat_prefixes: before module names whose dots are underscores.
        text_prefixes, text_flat_prefixes: the same, of text encoders.
        text_components: name components that only models with a text encoder have.
        retry: (regular expression, replacement) for older module names.
    """

    styles: tuple[Style, ...]
    alpha: tuple[Regex, ...]
    differences: Mapping[Regex, str]
    norms: Mapping[Regex, tuple[str, ...]]
    kinds: Mapping[str, Mapping[str, tuple[Regex, ...]]]
    unsupported: Mapping[str, tuple[Regex, ...]]
    prefixes: tuple[str, ...]
    flat_prefixes: tuple[str, ...]
    text_prefixes: tuple[str, ...]
    text_flat_prefixes: tuple[str, ...]
    text_components: tuple[str, ...]
    retry: tuple[tuple[Regex, str], ...]

    def holds(self, key: str) -> bool:
        """Whether a key is one of an adapter: a factor, an alpha, a difference or a part of another kind."""
        factors = (regex for style in self.styles for regex in style.roles.values())
        others = (regex for kind in self.unsupported.values() for regex in kind)
        return any(
            regex.fullmatch(key) is not None for regex in (*factors, *self.alpha, *self.differences, *others)
        )


def lora_names() -> LoraNames:
    """The table in use.

    Raises:
        RecipeError: a mistake in the file, with its line.
    """
    path = find("lora", "names")
    facts = path.stat()
    return _parsed(path, (facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=8)
def _parsed(path: Path, _version: tuple[int, int]) -> LoraNames:
    top = strict.load(path).mapping()
    node = top.need("lora")
    if node.string() != path.stem:
        raise node.error(f"{node.string()!r} is not the name of the file", f"call it {path.stem!r}")
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
        prefixes=tuple(top.need("prefixes").strings()),
        flat_prefixes=tuple(top.need("flat_prefixes").strings()),
        text_prefixes=tuple(text.need("prefixes").strings()),
        text_flat_prefixes=tuple(text.need("flat_prefixes").strings()),
        text_components=tuple(text.need("components").strings()),
        retry=tuple(
            (child.at(lambda key=key: compile_regex(key)), child.string())  # type: ignore[misc]
            for key, child in top.need("retry").mapping().items()
        ),
    )
    text.reject_unknown()
    top.reject_unknown()
    return names


def _style(name: str, node: strict.Node) -> Style:
    top = node.mapping()
    roles = {role: _ending(top.need(role).string()) for role in ("up", "down")}
    for role in ("mid", "bias"):
        if (found := top.find(role)) is not None:
            roles[role] = _ending(found.string())
    top.reject_unknown()
    return Style(name, roles)


def _endings(node: strict.Node) -> tuple[Regex, ...]:
    return tuple(map(_ending, node.strings()))


def _ending(text: str) -> Regex:
    """An ending as a regular expression for whole keys; ``*`` is one name component."""
    return re.compile(r"(.+)" + re.escape(text).replace(r"\*", "[^.]+"))
