"""The YAML of a convention, read strictly: a file of ``formats/conventions/`` becomes a value.

Apart from :mod:`.conventions`, as it needs all codecs and schemes: most starts find the files parsed.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from string import Formatter

from ..core.dtypes import DTYPES
from ..core.nearest import guess
from ..core.patterns import Pattern
from ..schemes import CALIBRATED, DECODED, SCHEMES
from . import strict
from .convention import (
    CONFIGS,
    IMPLIED,
    LISTINGS,
    MODEL,
    Convention,
    Files,
    Marker,
    PartRule,
    Said,
    SchemeRule,
)
from .limits import limit, partly
from .parts import part_rules, template
from .setting import Setting

__all__ = ["read"]

_LAYOUTS = ("single_file", "by_block", "chunked")


def read(path: Path) -> Convention:
    """The convention that a file describes.

    Raises:
        RecipeError: a mistake in it, with its line.
    """
    top = strict.catalog_file(path, "convention")
    title = top.need("title").string()
    shared = top.get("parts", part_rules, _NO_PARTS)
    schemes = top.get("schemes", lambda child: _schemes(child, shared), _NO_SCHEMES)
    files = _files(top.need("files"))
    metadata = {
        key: child.string() for key, child in top.get("metadata", lambda child: child.mapping().items(), ())
    }
    config = top.get("config", lambda child: child.choice(CONFIGS), None)
    convention = Convention(
        path.stem,
        title,
        str(path),
        schemes,
        files,
        metadata,
        config,
        known_by=top.get("known_by", _known_by, {}),
        listing=top.get("listing", lambda child: child.choice(LISTINGS), None),
        dims=top.get("dims", lambda child: tuple(one.integer(2) for one in child.sequence()), ()),
        joins=top.get("joins", strict.Node.boolean, False),
        pads=top.get("pads", strict.Node.boolean, False),
        methods=top.get("methods", _strings, ()),
        inputs=top.get("inputs", lambda child: tuple(map(template, child.sequence())), ()),
        settings=top.get("settings", lambda child: tuple(map(_setting, child.sequence())), ()),
        cache=top.get("cache", _strings, ()),
        transposes=top.get("transposes", lambda child: tuple(map(_pattern, child.sequence())), ()),
        told_by=top.get("told_by", lambda child: tuple(map(template, child.sequence())), ()),
        unwritten=top.get("unwritten", strict.Node.string, None),
    )
    top.reject_unknown()
    return convention


def _known_by(node: strict.Node) -> dict[str, dict[tuple[str, str], str]]:
    """Key of metadata -> family and spelling -> its value."""
    return {
        key: {
            (family, spelling): value.string()
            for family, by in models.mapping().items()
            for spelling, value in by.mapping().items()
        }
        for key, models in node.mapping().items()
    }


_NO_PARTS: dict[str, PartRule] = {}
_NO_SCHEMES: dict[str, SchemeRule] = {}


def _schemes(node: strict.Node, shared: dict[str, PartRule]) -> dict[str, SchemeRule]:
    rules, known = node.mapping(), (*SCHEMES, *CALIBRATED, *DECODED)
    for name in rules:
        if name not in known:
            hint = f"known: {', '.join(known)}{guess(name, known)}"
            raise rules.key_error(name, f"unknown scheme {name!r}", hint)
    return {name: _scheme(name, child, shared) for name, child in rules.items()}


def _scheme(name: str, node: strict.Node, shared: dict[str, PartRule]) -> SchemeRule:
    top = node.mapping()
    parts = {**shared, **top.get("parts", part_rules, _NO_PARTS)}
    stored = top.get("stores", strict.Node.strings, list(parts))
    for role in stored:
        if role not in parts:
            raise top.need("stores").error(f"part {role!r} has no spelling", f"known: {', '.join(parts)}")
    if "codes" not in stored:
        raise node.error("codes have no spelling")
    implies = top.get("implies", lambda child: tuple(one.choice(IMPLIED) for one in child.sequence()), ())
    for role in implies:
        if role not in parts:
            raise top.need("implies").error(f"part {role!r} has no spelling", f"known: {', '.join(parts)}")
    needs = top.get("needs", _strings, ())
    for role in needs:
        if role not in stored:
            raise top.need("needs").error(f"part {role!r} has no spelling", f"known: {', '.join(stored)}")
    telling = {key: top.get(key, strict.Node.string, "") for key in ("shaped", "rows_of")}
    for key, role in telling.items():
        if role and role not in stored and (key, role) != ("shaped", MODEL):
            raise top.need(key).error(f"part {role!r} has no spelling", f"known: {', '.join(stored)}")
    rule = SchemeRule(
        scheme=name,
        options=top.get("options", _plain, _NO_OPTIONS),
        reads={
            key: tuple(value.plain() for value in child.sequence())
            for key, child in top.get("reads", lambda child: child.mapping().items(), ())
        },
        partly=tuple(partly(child) for child in top.get("partly", strict.Node.sequence, ())),
        parts={role: parts[role] for role in stored},
        also=tuple(
            {**{role: parts[role] for role in stored}, **part_rules(child)}
            for child in top.get("also", strict.Node.sequence, ())
        ),
        markers=tuple(_marker(child) for child in top.get("markers", strict.Node.sequence, ())),
        shares_scales=top.get("shares_scales", strict.Node.boolean, False),
        rows=top.get("rows", lambda child: child.integer(1), 1),
        columns=top.get("columns", lambda child: child.integer(1), 1),
        limits=tuple(limit(child) for child in top.get("limits", strict.Node.sequence, ())),
        needs=needs,
        implies=implies,
        **telling,
        computes=top.get("computes", lambda child: child.choice(("BF16", "F16", "F32")), None),
        metadata=tuple(_said(child) for child in top.get("metadata", strict.Node.sequence, ())),
    )
    top.reject_unknown()
    spelled = [part.name.text for part in rule.parts.values()]
    for text in spelled:
        if spelled.count(text) > 1:
            raise node.error(f"two parts have the name {text!r}")
    return rule


_NO_OPTIONS: dict[str, object] = {}


def _strings(node: strict.Node) -> tuple[str, ...]:
    return tuple(node.strings())


def _plain(node: strict.Node) -> dict[str, object]:
    return {key: child.plain() for key, child in node.mapping().items()}


def _said(node: strict.Node) -> Said:
    top = node.mapping()
    said = Said(
        top.get("when", _plain, _NO_OPTIONS),
        top.get("keys", _names, _NO_NAMES),
        top.get("asks", _names, _NO_NAMES),
    )
    top.reject_unknown()
    return said


def _names(node: strict.Node) -> dict[str, str]:
    return {key: child.string() for key, child in node.mapping().items()}


_NO_NAMES: dict[str, str] = {}


def _shape(node: strict.Node) -> tuple[int, ...]:
    return tuple(child.integer(0) for child in node.sequence())


def _marker(node: strict.Node) -> Marker:
    top = node.mapping()
    name = template(top.need("name"))
    when = top.get("when", _plain, _NO_OPTIONS)
    unless = top.get("unless", _plain, _NO_OPTIONS)
    content = top.find("json")
    if content is not None:
        data = json.dumps(content.plain()).encode()
        silent = top.get("silent", _strings, ())
        fills = top.get("fills", _names, _NO_NAMES)
        assumed = top.get("assumed", _plain, _NO_OPTIONS)
        marker = Marker(name, "U8", (len(data),), data, when, silent, unless, fills, assumed)
    else:
        dtype = DTYPES[top.need("dtype").choice(DTYPES)]
        shape = _shape(top.need("zeros"))
        marker = Marker(name, dtype.name, shape, bytes(prod(shape) * dtype.bits // 8), when, unless=unless)
    top.reject_unknown()
    return marker


def _setting(node: strict.Node) -> Setting:
    if node.kind == "text":
        return Setting(template(node))
    top = node.mapping()
    setting = Setting(
        template(top.need("name")),
        value=top.get("value", strict.Node.plain, None),
        option=top.get("option", strict.Node.string, ""),
        words=top.get("words", _names, _NO_NAMES),
    )
    top.reject_unknown()
    if (setting.value is None) == (not setting.option) or (setting.words and not setting.option):
        raise node.error("has a value or an option, one of both; words go with an option")
    if not isinstance(setting.value, bool | int | str | None):
        raise node.error(f"{setting.value!r} is neither true nor false, a whole number nor text")
    return setting


def _files(node: strict.Node) -> Files:
    top = node.mapping()
    indexed = top.get("indexed", strict.Node.sequence, None)
    files = Files(
        single_file=top.get("single_file", lambda child: _file(child, "stem"), Files.single_file),
        block=top.get("block", lambda child: _file(child, must="i"), Files.block),
        apart=top.get("apart", _apart, {}),
        rest=top.get("rest", lambda child: _file(child, "stem"), Files.rest),
        chunk=top.get("chunk", lambda child: _file(child, "stem", "i", "j", "n"), Files.chunk),
        alone=top.get("alone", lambda child: _file(child, "stem"), Files.alone),
        index=top.get("index", lambda child: _file(child, "stem"), Files.index),
        indexed=Files.indexed if indexed is None else tuple(child.choice(_LAYOUTS) for child in indexed),
        total_size=top.get("total_size", lambda child: child.choice(("tensors", "files")), Files.total_size),
        sort_keys=top.get("sort_keys", strict.Node.boolean, Files.sort_keys),
    )
    top.reject_unknown()
    if not {"i", "j"} & _fields(files.chunk):
        raise node.error(f"chunk {files.chunk!r} has no number", "put {i} or {j} into it")
    return files


def _apart(node: strict.Node) -> dict[str, tuple[Pattern, ...]]:
    patterns = {}
    for name, child in node.mapping().items():
        if not name.endswith(".safetensors") or "/" in name or "\\" in name:
            raise child.error(f"{name!r} is not the name of a .safetensors file")
        patterns[name] = tuple(_pattern(one) for one in child.sequence())
    return patterns


def _pattern(node: strict.Node) -> Pattern:
    return node.at(lambda: Pattern(node.string()))


def _file(node: strict.Node, *known: str, must: str | None = None) -> str:
    """A template for a file's name, checked by filling it in."""
    text = node.string()
    known = known if must is None else (*known, must)
    try:
        text.format(**{word: "x" if word == "stem" else 1 for word in known})
        placeholders = _fields(text)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise node.error(f"{text!r} is not a template: {error}", f"known here: {', '.join(known)}") from None
    if "{stem" in text and "{stem}" not in text:
        raise node.error(f"{text!r}: {{stem}} takes no format")
    if must is not None and must not in placeholders:
        raise node.error(f"{text!r} must hold {{{must}}}")
    if "/" in text or "\\" in text:
        raise node.error(f"{text!r} must be a file name, not a path")
    return text


def _fields(text: str) -> set[str]:
    return {word for _, word, _, _ in Formatter().parse(text) if word}
