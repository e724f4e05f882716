"""Loads ``formats/ggml/mixes.yaml``: mixes of types by name, as those who make GGUF files know them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from math import prod
from pathlib import Path

from ..core.records import dataclass
from . import strict
from .folders import find
from .ggml_names import LlamaName, llama_names

__all__ = ["Chosen", "Mix", "Mixer", "Mixes", "mix_names", "mixes"]

Shape = tuple[int, ...]

_TIED, _OUTPUT, _EMBEDDING = "token_embd", "output", "token_embd"
_WIDE = 80
"""Layers of the 70B models (llama.cpp, ``llama-model.cpp``)."""


@dataclass(frozen=True, slots=True)
class _Rule:
    to: str
    more_bits: bool = False
    wide: bool = False
    middle: bool = False
    first: int | None = None
    below: int | None = None
    gqa: int | None = None
    experts: int | None = None
    least_experts: int | None = None


@dataclass(frozen=True, slots=True)
class Mix:
    """One mix.

    Attributes:
        name: e.g. ``q4_k_m``.
        base: the scheme of what no rule names.
        text: of language models: kind of tensor -> rules, of which the first that holds counts.
        image: of image and video models.
    """

    name: str
    base: str
    text: Mapping[str, tuple[_Rule, ...]]
    image: Mapping[str, tuple[_Rule, ...]]


@dataclass(frozen=True)
class Mixes:
    """The table.

    Attributes:
        kinds: kind -> patterns of llama.cpp's names.
        image: kind -> parts of names of image models, or expressions after ``re:``.
        fallback: what stands in for a scheme whose blocks do not divide the columns.
        mixes: by name.
        single: tensors of no more elements stay, as F32.
        single_names: likewise those whose names hold one of these.
    """

    kinds: Mapping[str, tuple[str, ...]]
    image: Mapping[str, tuple[str, ...]]
    fallback: Mapping[str, str]
    mixes: Mapping[str, Mix]
    single: int = 0
    single_names: tuple[str, ...] = ()

    def is_single(self, name: str, shape: Shape) -> bool:
        """Whether a tensor that stays is to be F32."""
        return len(shape) < 2 or prod(shape) <= self.single or any(part in name for part in self.single_names)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a mix makes of a tensor.

    Attributes:
        scheme: its name.
        kind: the kind of tensor for which it is not the base; empty else.
    """

    scheme: str
    kind: str = ""


class Mixer:
    """The types that a mix gives the tensors of one model.

    Args:
        mix: its name.
        shapes: of all tensors of the model, by name.
    """

    def __init__(self, mix: str, shapes: Mapping[str, Shape]) -> None:
        table = mixes()
        self._mix = table.mixes[mix]
        names = llama_names()
        known = {name: one for name in shapes if (one := names(name)) is not None}
        self.is_text = any(one.block is not None for one in known.values())
        self._known = known
        self.kinds = {name: kind for name in shapes if (kind := self._kind(name, table))}
        tied = not any(one.module == _OUTPUT for one in known.values())
        if self.is_text and tied:
            self.kinds |= {name: _OUTPUT for name, kind in self.kinds.items() if kind == _TIED}
        self._places = self._ordered()
        self._experts = self._count_experts(shapes)
        self._gqa = self._heads(shapes)
        layers = {one.block for one in known.values() if one.block is not None}
        self._wide = len(layers) == _WIDE and self._gqa > 1

    def _kind(self, name: str, table: Mixes) -> str:
        return _text_kind(self._known.get(name), table) if self.is_text else _image_kind(name, table)

    def _ordered(self) -> Mapping[str, tuple[int, int]]:
        """Of each tensor of a kind: which of them it is, and how many there are; experts count as one."""
        places: dict[str, tuple[int, int]] = {}
        for kind in set(self.kinds.values()):
            stacks: dict[object, None] = {}
            for name in sorted((n for n, k in self.kinds.items() if k == kind), key=_natural):
                stacks.setdefault(self._stack(name))
            order = {stack: at for at, stack in enumerate(stacks)}
            for name, other in self.kinds.items():
                if other == kind:
                    places[name] = order[self._stack(name)], len(order)
        return places

    def _stack(self, name: str) -> object:
        one = self._known.get(name) if self.is_text else None
        return name if one is None else one._replace(expert=None)

    def _count_experts(self, shapes: Mapping[str, Shape]) -> int:
        count = 0
        for name, one in self._known.items():
            if one.module == "ffn_down_exps":
                count = max(count, shapes[name][0] if one.expert is None else one.expert + 1)
        return count

    def _heads(self, shapes: Mapping[str, Shape]) -> float:
        rows = {(one.module, one.block): shapes[name][0] for name, one in self._known.items() if shapes[name]}
        shares = [
            queries / rows["attn_k", block]
            for (module, block), queries in rows.items()
            if module == "attn_q" and rows.get(("attn_k", block))
        ]
        return max(shares, default=1)

    def outside(self, name: str) -> bool:
        """Whether it is a matrix outside of blocks that the mix quantizes, too: embeddings and the head."""
        return self.is_text and self.kinds.get(name) in (_OUTPUT, _EMBEDDING)

    def __call__(self, name: str) -> Chosen:
        """The scheme of a tensor."""
        kind = self.kinds.get(name, "")
        rules = (self._mix.text if self.is_text else self._mix.image).get(kind, ())
        for rule in rules:
            if self._holds(rule, name):
                return Chosen(rule.to, kind if rule.to != self._mix.base else "")
        return Chosen(self._mix.base)

    def _holds(self, rule: _Rule, name: str) -> bool:
        place, count = self._places[name]
        one = self._known.get(name)
        layer = place
        if self._experts > 1 and one is not None and one.block is not None and "ffn" in one.module:
            layer = one.block
        eighth = count // 8
        more = layer < eighth or layer >= 7 * count // 8 or (layer - eighth) % 3 == 2
        return (
            (not rule.more_bits or more)
            and (not rule.wide or self._wide)
            and (not rule.middle or eighth <= layer < 7 * count // 8)
            and (rule.first is None or layer < count // rule.first)
            and (rule.below is None or place < rule.below)
            and (rule.gqa is None or self._gqa >= rule.gqa)
            and (rule.experts is None or self._experts == rule.experts)
            and (rule.least_experts is None or self._experts >= rule.least_experts)
        )


def _natural(name: str) -> list[tuple[int, str]]:
    """Names in the order of their numbers."""
    return [(int(word), "") if word.isdigit() else (0, word) for word in re.split(r"(\d+)", name)]


def _text_kind(name: LlamaName | None, table: Mixes) -> str:
    if name is None:
        return ""
    inside = name.block is not None
    for kind, patterns in table.kinds.items():
        if inside != (kind in (_OUTPUT, _EMBEDDING)) and any(
            fnmatchcase(name.module, pattern) for pattern in patterns
        ):
            return kind
    return ""


def _image_kind(name: str, table: Mixes) -> str:
    for kind, parts in table.image.items():
        for part in parts:
            if re.search(part[3:], name) if part.startswith("re:") else part in name:
                return kind
    return ""


def mix_names() -> list[str]:
    """The names of all mixes."""
    return list(mixes().mixes)


def mixes() -> Mixes:
    """The table.

    Raises:
        RecipeError: a mistake in its file.
    """
    return _read(find("ggml", "mixes"))


@lru_cache(maxsize=4)
def _read(path: Path) -> Mixes:
    top = strict.catalog_file(path, "ggml")
    kinds, image = (
        {kind: tuple(child.strings()) for kind, child in top.need(key).mapping().items()}
        for key in ("kinds", "image")
    )
    single = top.need("single").mapping()
    most, parts = single.need("elements").integer(0), tuple(single.need("names").strings())
    single.reject_unknown()
    fallback = {name: child.string() for name, child in top.need("fallback").mapping().items()}
    by_name: dict[str, Mix] = {}
    for name, node in top.need("mixes").mapping().items():
        one = node.mapping()
        base = one.need("base").string()
        text, pictures = (_rules(one.need(key), known) for key, known in (("text", kinds), ("image", image)))
        one.reject_unknown()
        by_name[name] = Mix(name, base, text, pictures)
    top.reject_unknown()
    return Mixes(kinds, image, fallback, by_name, most, parts)


def _rules(node: strict.Node, known: Mapping[str, object]) -> Mapping[str, tuple[_Rule, ...]]:
    rules: dict[str, tuple[_Rule, ...]] = {}
    for kind, child in node.mapping().items():
        if kind not in known:
            raise child.error(f"{kind!r} is no kind of tensor", f"known: {', '.join(known)}")
        rules[kind] = tuple(map(_rule, child.sequence()))
    return rules


def _rule(node: strict.Node) -> _Rule:
    one = node.mapping()
    flags: Sequence[bool] = [
        one.get(key, lambda child: child.boolean(), False) for key in ("more_bits", "wide", "middle")
    ]
    numbers: Sequence[int | None] = [
        one.get(key, lambda child: child.integer(), None)
        for key in ("first", "below", "gqa", "experts", "least_experts")
    ]
    rule = _Rule(one.need("to").string(), *flags, *numbers)
    one.reject_unknown()
    return rule
