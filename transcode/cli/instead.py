"""Stages typed outside of a pipe: the line of ``transcode run`` that does what was meant.

``transcode quantize SRC DST --scheme int8`` is what people type who know other tools. A stage knows its own
words only, so the words are sorted here: what names a scheme, a dtype or a spelling, and what is left for SRC
and DST; options that ``run`` knows stay as they are.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import click

from .flags import Command
from .usage import what

__all__ = ["Stage", "line", "stage", "typed"]

_WORDS = "transcode.words"


class Stage(Command):
    """A stage of a pipe. Where its words are those of a whole command, the error says which one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's; an error about the words says what to type outside of a pipe."""
        ctx.meta[_WORDS] = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            words = _sorted(ctx.meta[_WORDS])[0]
            if ctx.resilient_parsing or (len(words) < 2 and not any(map(_is_path, words))):
                raise
            raise click.UsageError(f"{what(error)}; {line(ctx)}", ctx) from None


def stage(**attributes: Any) -> Callable[[Callable[..., Any]], Stage]:
    """As :func:`click.command`, of the class :class:`Stage`."""
    return click.command(cls=Stage, **attributes)


def line(ctx: click.Context) -> str:
    """What to type instead of the command of a context, in words."""
    return typed(ctx.info_name or "", ctx.meta.get(_WORDS, []))


def typed(name: str, words: Sequence[str]) -> str:
    """What to type instead of a stage and its words outside of a pipe."""
    run = shlex.join(["transcode", "run", *_run(name, words)])
    return f"{name} is a stage of a pipe; outside of one, type: {run}"


def _sorted(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words, and options of ``run`` with their values; options that it does not know are left out."""
    from .run import run

    takes = {
        opt: 0 if parameter.is_flag else parameter.nargs
        for parameter in run.params
        if isinstance(parameter, click.Option)
        for opt in (*parameter.opts, *parameter.secondary_opts)
    }
    words, options = [], []
    left = list(args)
    while left:
        word = left.pop(0)
        name = word.partition("=")[0] if word.startswith("--") else word
        if not word.startswith("-") or word == "-":
            words.append(word)
        elif name in takes:
            count = 0 if name != word else takes[name]
            options += [word, *left[:count]]
            del left[:count]
    return words, options


def _run(name: str, args: Sequence[str]) -> list[str]:
    words, options = _sorted(args)
    if name in _OWN:
        own, paths = _OWN[name](words, options)
    else:
        own, paths = [], words
    src, dst = (*paths, *("SRC", "DST")[len(paths) :])[:2]
    return [src, dst, *own, *options]


def _quantize(words: list[str], options: list[str]) -> tuple[list[str], list[str]]:
    if _has(options, "--scheme", "-s"):
        return [], words
    scheme = _taken(words, _is_scheme) or "int8"
    return ["--scheme", scheme], words


def _cast(words: list[str], options: list[str]) -> tuple[list[str], list[str]]:
    asked = _taken(words, _is_dtype) or _valued(options, "--to")
    return ([] if _has(options, "--cast") else ["--cast", asked or "bf16"]), words


def _dequantize(words: list[str], options: list[str]) -> tuple[list[str], list[str]]:
    asked = _taken(words, _is_dtype) or _valued(options, "--to")
    return ([] if _has(options, "--dequantize") else ["--dequantize", asked or "bf16"]), words


def _convert(words: list[str], options: list[str]) -> tuple[list[str], list[str]]:
    if spelling := _taken(words, _is_spelling):
        return ["--to", spelling], words
    return [], words  # what else it is to do is not for us to guess


def _lora(words: list[str], options: list[str]) -> tuple[list[str], list[str]]:
    """A source, LoRAs and a destination, in any order: what is not there yet is where to write."""
    if _has(options, "--lora"):
        return [], words
    weighted = [word for word in words if not os.path.exists(word) and _strength(word)]
    there = [word for word in words if os.path.exists(word)]
    absent = [word for word in words if word not in weighted and word not in there]
    source = there[:1] if len(there) + len(weighted) > 1 or absent else []
    loras = [word for word in words if word in weighted or (word in there and word not in source)]
    dst = absent[-1:] or (["DST"] if source else [])
    asked = [part for lora in loras or ["LORA"] for part in ("--lora", lora)]
    return asked, [*source, *dst]


def _patterns(flag: str) -> Callable[[list[str], list[str]], tuple[list[str], list[str]]]:
    def sort(words: list[str], options: list[str]) -> tuple[list[str], list[str]]:
        paths = _paths(words, 1)
        return [part for word in words for part in (flag, word)], paths

    return sort


def _rename(words: list[str], options: list[str]) -> tuple[list[str], list[str]]:
    paths = _paths(words, 2)
    pairs = zip(words[::2], words[1::2], strict=False)
    return [part for pair in pairs for part in ("--rename", *pair)], paths


def _paths(words: list[str], own: int) -> list[str]:
    """Source and destination among words that may be anything, taken out; ``own`` words are left at least."""
    paths = [word for word in words if _is_path(word)][:2]
    if len(paths) == 1 and len(words) > own + 1 and words[-1] != paths[0]:
        paths.append(words[words.index(paths[0]) + 1])  # it is what follows the source
    for word in paths:
        words.remove(word)
    return paths


def _calibrate(words: list[str], options: list[str]) -> tuple[list[str], list[str]]:
    scheme = [] if _has(options, "--scheme", "-s") else ["--scheme", "nvfp4"]
    calib = words.pop() if words else "calib.pt"
    return [*scheme, "--calib", calib], words


def _write(words: list[str], options: list[str]) -> tuple[list[str], list[str]]:
    return [], words if len(words) > 1 else ["SRC", *words]


_OWN: dict[str, Callable[[list[str], list[str]], tuple[list[str], list[str]]]] = {
    "quantize": _quantize,
    "cast": _cast,
    "dequantize": _dequantize,
    "convert": _convert,
    "lora": _lora,
    "keep": _patterns("--keep"),
    "drop": _patterns("--drop"),
    "rename": _rename,
    "calibrate": _calibrate,
    "write": _write,
}
"""What of the words of each stage is an option of ``run``, and what is left for SRC and DST."""


def _taken(words: list[str], fits: Callable[[str], bool]) -> str | None:
    """The first word that fits and is no file, taken out of the words."""
    fitting = next((word for word in words if fits(word) and not os.path.exists(word)), None)
    if fitting is not None:
        words.remove(fitting)
    return fitting


def _has(options: Sequence[str], *names: str) -> bool:
    return any(option.partition("=")[0] in names for option in options)


def _valued(options: list[str], name: str) -> str | None:
    """The value of an option that is told by another one, taken out."""
    if name not in options:
        return None
    at = options.index(name)
    value = options[at + 1] if at + 1 < len(options) else None
    del options[at : at + 2]
    return value


def _is_path(word: str) -> bool:
    return os.path.exists(word) or "/" in word or os.sep in word or word.endswith(_SUFFIXES) or word in _NAMES


_SUFFIXES = (".safetensors", ".gguf", ".pt", ".pth", ".bin", ".ckpt")
_NAMES = ("SRC", "DST")


def _strength(word: str) -> bool:
    from ..errors import TranscodeError
    from ..stages.lora.stage import parse_lora

    try:
        path = parse_lora(word).path
    except TranscodeError:
        return False
    return os.path.exists(path) or (path != word and path.endswith(_SUFFIXES))


def _is_scheme(word: str) -> bool:
    from ..schemes import CALIBRATED, SCHEMES

    return word.partition(":")[0] in {**SCHEMES, **CALIBRATED}


def _is_dtype(word: str) -> bool:
    from ..core.dtypes import dtype

    try:
        return dtype(word).kind == "float"
    except KeyError:
        return False


def _is_spelling(word: str) -> bool:
    from .. import catalog

    return any(word in catalog.family(name).spellings for name in catalog.families())
