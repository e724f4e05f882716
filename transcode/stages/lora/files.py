"""Which LoRAs are merged, and how people write that."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from ...core.arguments import number
from ...core.arguments import path as path_of
from ...core.kinds import TEXTS, Kind, Schema
from ...core.node import Node, Section
from ...errors import RecipeError, unsigned
from ...io import hub

__all__ = ["BOTH", "FILES", "LoraFile", "for_noise", "parse_lora"]


_WEIGHTED = re.compile(r"(.+\.(?:safetensors|sft|pt|pth|bin|ckpt))([:@=])(.*)", re.DOTALL)
"""A file's name, and behind it what is meant for a strength."""

_NUMBERS = re.compile(r"[-+.\deE:]*")


class LoraFile(NamedTuple):
    """One LoRA to merge.

    Attributes:
        path: a safetensors or PyTorch file, or the folder of one.
        strength: factor of all that it adds.
        alpha: for its low-rank pairs that say no alpha of their own; they count ``alpha / rank`` times, or
            once without it.
        noise: of two models that take turns the one that it is for, ``high`` or ``low``, or ``both``; None
            where its name tells.
    """

    path: str
    strength: float = 1.0
    alpha: float | None = None
    noise: str | None = None


BOTH = "both"
_NOISES = ("high", "low", BOTH)
_NOISE = re.compile(rf"({'|'.join(_NOISES)})=(.+)", re.DOTALL)

_TEXT = re.compile(r"(.+?)(?::([-+.\deE]*))?(?::([-+.\deE]*))?", re.DOTALL)


def parse_lora(text: str) -> LoraFile:
    """Read ``PATH``, ``PATH:strength`` or ``PATH:strength:alpha``; an empty strength is 1.

    Before it may stand for which of two models it is: ``high=PATH``, ``low=PATH``, ``both=PATH``. What
    follows a colon and is no number belongs to the path, where there is such a file, or may be.

    Raises:
        RecipeError: there is a file, or the name of one, and what follows it is no number.
    """
    noise = None
    if (sided := _NOISE.fullmatch(text)) is not None and not os.path.exists(text):
        noise, text = sided.groups()
    match = _TEXT.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        path, strength, alpha = match.groups()
        lora = LoraFile(path, float(strength or 1), float(alpha) if alpha else None, noise)
    except ValueError:
        lora = LoraFile(text, noise=noise)
    _refuse_strength(text, lora.path)
    return lora


def _refuse_strength(text: str, path: str) -> None:
    """Refuse a path that holds a strength which is none, as in ``a.safetensors:strong``."""
    weighted = _WEIGHTED.fullmatch(path)
    if weighted is None or os.path.exists(path):
        return
    file, sign, strength = weighted.groups()
    if sign == ":" and _NUMBERS.fullmatch(strength) is None:
        what = f"lora: {text!r}: {strength!r} is no strength, which is a number"
    else:
        what = f"lora: {text!r}: there is no such file"
    raise RecipeError(what, hint=f"write PATH, PATH:STRENGTH or PATH:STRENGTH:ALPHA, as {file}:0.8")


def for_noise(files: Sequence[LoraFile], noise: str) -> tuple[LoraFile, ...]:
    """Those of some LoRAs that are for one of two models that take turns: as is said, or as names tell.

    Raises:
        RecipeError: neither tells of one.
    """
    from ...catalog.twins import noise_of, pairs_of  # help texts read no catalog

    names = [os.path.basename(os.path.normpath(file.path)) for file in files]
    paired = {name: side for pair in pairs_of(names) for side, name in pair.items()}
    chosen = []
    for file, name in zip(files, names, strict=True):
        whose = file.noise or noise_of(name) or paired.get(name)
        if whose is None:
            raise RecipeError(
                f"lora: {file.path}: the source is two models, and its name does not say for which it is",
                hint=f"write high={file.path}, low={file.path}, or both={file.path}",
            )
        if whose in (noise, BOTH):
            chosen.append(file._replace(noise=None))
    return tuple(chosen)


class _Files(Kind):
    """LoRAs: ``paths``, and for all or for each ``strengths`` and ``alphas``."""

    word = "LoRAs"
    keys = ("paths", "strengths", "alphas", "noises")
    repeats = True
    metavar = "PATH[:STRENGTH[:ALPHA]]"

    def normal(self, what: str, value: Any) -> tuple[LoraFile, ...]:
        """From a path, or several paths and ``(path, strength, alpha)`` tuples."""
        if (
            isinstance(value, str | PathLike)
            or not isinstance(value, Iterable)
            or isinstance(value, LoraFile)
        ):
            value = (value,)
        loras = []
        for entry in value:
            fields: tuple[Any, ...] = ()
            if isinstance(entry, str | PathLike):
                fields = (entry,)
            elif isinstance(entry, Iterable):
                fields = tuple(entry)
            if not 1 <= len(fields) <= 4:
                raise RecipeError(f"lora: {entry!r} is no path, nor a path with a strength and an alpha")
            defaults: tuple[Any, ...] = (None, 1.0, None, None)
            path, strength, alpha, noise = (*fields, *defaults[len(fields) :])
            file = path_of("lora", path)
            loras.append(
                LoraFile(
                    file,
                    number(f"lora: {file}: strength", strength),
                    None if alpha is None else number(f"lora: {file}: alpha", alpha),
                    noise,
                )
            )
        if not loras:
            raise RecipeError("lora: no file is named")
        for path, strength, alpha, noise in loras:
            if noise not in (None, *_NOISES):
                raise RecipeError(f"lora: {path}: noise {noise!r} is none of {', '.join(_NOISES)}")
            if not math.isfinite(strength):
                raise RecipeError(f"lora: {path}: strength {strength!r} is not a finite number")
            if alpha is not None and (not math.isfinite(alpha) or alpha == 0):
                raise RecipeError(
                    f"lora: {path}: alpha {alpha!r} is not a number other than 0", hint="leave it out"
                )
        return tuple(loras)

    def read(self, node: Node) -> tuple[LoraFile, ...]:
        """What stands in the place of all options: one, or a list, as :func:`parse_lora` reads them."""
        return tuple(map(parse_lora, [node.string()] if node.kind == "text" else node.strings()))

    def read_keys(self, section: Section) -> tuple[LoraFile, ...]:
        """One strength for all or one for each, or none; alphas likewise, and one of 0 is none."""
        paths = () if (listed := section.find("paths")) is None else TEXTS.read(listed)

        def each(key: str, default: float | None) -> list[float | None]:
            node = section.find(key)
            if node is None:
                return [default] * len(paths)
            if node.kind != "a list":
                return [node.number()] * len(paths)
            values = [default if child.is_null else child.number() for child in node.sequence()]
            if not values:
                return [default] * len(paths)
            if len(values) == 1:
                return values * len(paths)
            if len(values) != len(paths):
                raise node.error(f"has {len(values)} values for {len(paths)} paths", "give one for each")
            return values

        strengths, alphas = each("strengths", 1.0), each("alphas", None)
        sides = section.find("noises")
        noises = [None] * len(paths) if sides is None else [_noise(child) for child in sides.sequence()]
        if sides is not None and len(noises) != len(paths):
            raise sides.error(f"has {len(noises)} values for {len(paths)} paths", "give one for each")
        return tuple(
            LoraFile(path, 1.0 if strength is None else strength, alpha or None, noise)
            for path, strength, alpha, noise in zip(paths, strengths, alphas, noises, strict=True)
        )

    def plain(self, value: Any) -> dict[str, Any]:
        """Paths, and the rest where it differs from the default."""
        plain: dict[str, Any] = {"paths": [unsigned(file.path) for file in value]}
        if any(file.strength != 1 for file in value):
            plain["strengths"] = [file.strength for file in value]
        if any(file.alpha is not None for file in value):
            plain["alphas"] = [file.alpha for file in value]
        if any(file.noise is not None for file in value):
            plain["noises"] = [file.noise for file in value]
        return plain

    def recorded(self, value: Any) -> dict[str, Any]:
        """The names of the files instead of their paths; of a model on the hub also its revision."""
        return {**self.plain(value), "paths": [hub.recorded(file.path) for file in value]}

    def said(self, value: Any) -> tuple[LoraFile, ...]:
        return tuple(map(parse_lora, value))

    def schema(self, words: Schema) -> Schema:
        about: Mapping[str, str] = {
            "paths": "Files or folders of LoRAs.",
            "strengths": "Factor of what each adds: one for all, or one for each.",
            "alphas": "For pairs that say no alpha of their own: one for all, or one for each.",
            "noises": "For which of two models that take turns each is.",
        }
        nothing = {"type": "null"}
        paths = {"anyOf": [*TEXTS.schema(words)["anyOf"], nothing]}
        number = {
            "anyOf": [{"type": "number"}, {"type": "array", "items": {"type": ["number", "null"]}}, nothing]
        }
        noises = {"type": "array", "items": {"enum": [*_NOISES, None]}}
        shapes: Mapping[str, Schema] = {"paths": paths, "noises": noises}
        return {key: {**shapes.get(key, number), "description": text} for key, text in about.items()}

    def schema_alone(self, words: Schema) -> Schema:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


def _noise(node: Node) -> str | None:
    if node.is_null:
        return None
    if (said := node.string()) not in _NOISES:
        raise node.error(f"{said!r} is none of {', '.join(_NOISES)}", "say for which of the two models it is")
    return said


FILES = _Files()
