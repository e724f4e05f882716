"""How options are spoken of: as flags on the command line, as arguments in Python, as keys in a recipe.

A message that names an option holds :func:`called` in the place of its name, as nobody who writes messages
knows who will read them. The name is put in when the message is read: see :func:`spoken`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

__all__ = ["OPTIONS", "Names", "Voice", "called", "speaking", "spoken", "voices"]

Voice = Literal["flags", "python", "recipe"]


class Names(NamedTuple):
    """What an option is called; ``{}`` stands for its value.

    Attributes:
        flags: on the command line.
        python: for callers of the package.
        recipe: in a recipe; None where it is no matter of recipes.
    """

    flags: str
    python: str
    recipe: str | None = None


OPTIONS: Mapping[str, Names] = {
    "add_format": Names("--no-format", "add_format=False"),
    "allow_unmatched": Names("--allow-unmatched", "allow_unmatched=True", "allow_unmatched: true"),
    "anew": Names(
        "--dequantize bf16 --scheme {}", "dequantize('bf16') | quantize({})", "dequantize: bf16, quantize: {}"
    ),
    "calibrate": Names("--calib {}", "calibrate({})", "calibrate: {}"),
    "cast": Names("--cast {}", "cast({})", "cast: {}"),
    "clear": Names("`transcode meta clear FILE`", "meta.clear(FILE)"),
    "attest": Names("--attest", "attest=True", "attest: true"),
    "checksums": Names("--checksums", "checksums=True", "checksums: true"),
    "component": Names("--component {}", "component({})", "component: {}"),
    "config": Names("--config {}", "config={}"),
    "config_from": Names("--config-from {}", "config_from={}"),
    "config_yaml": Names("--config-yaml {}", "config_yaml={}"),
    "consume_source": Names("--consume-source", "execution.carry.consume"),
    "convention": Names("--convention {}", "convention={}", "convention: {}"),
    "decode_some": Names(
        "--dequantize bf16 --dequantize-only",
        "dequantize('bf16', only=...)",
        "dequantize: {{to: bf16, only}}",
    ),
    "delete": Names("`transcode meta del`", "meta.delete"),
    "delete_key": Names("`transcode meta del {} {}`", "meta.delete({}, {})"),
    "dequantize": Names("--dequantize {}", "dequantize({})", "dequantize: {}"),
    "dequantize_only": Names("--dequantize-only {}", "dequantize(only={})", "dequantize: {{only: {}}}"),
    "device": Names("--device {}", "device={}", "device: {}"),
    "drop": Names("--drop {}", "drop({})", "drop: {}"),
    "dry_run": Names(
        "--dry-run -v --allow-unmatched", "flow.plan(write(..., allow_unmatched=True)).to_json()"
    ),
    "exclude": Names("--exclude {}", "exclude={}", "exclude: {}"),
    "float_point": Names("--float-point", "float_point=True", "float_point: true"),
    "follow_links": Names("--follow-links", "follow_links=True"),
    "force": Names("--force", "force=True", "force: true"),
    "from_convention": Names("--from-convention {}", "open(convention={})", "source: {{convention: {}}}"),
    "from_scheme": Names("--from-scheme {}", "open(scheme={})", "source: {{scheme: {}}}"),
    "importance": Names("--importance {}", "importance={}", "importance: {}"),
    "go_on_consuming": Names(
        "transcode run --plan {} --consume-source", "transcode.execution.carry.consume of the plan {}"
    ),
    "include": Names("--include {}", "include={}", "include: {}"),
    "layout": Names("--layout {}", "layout={}", "layout: {}"),
    "like": Names("--like {}", "quantize(like={})", "quantize: {{like: {}}}"),
    "lora": Names("--lora {}", "lora({})", "lora: {}"),
    "lossless": Names("--lossless", "lossless=True", "lossless: true"),
    "max_shard_size": Names("--max-shard-size {}", "max_shard_size={}", "max_shard_size: {}"),
    "measure": Names("--measure", "measure=True", "measure: true"),
    "metadata": Names("--metadata {}=...", "metadata={{{}: ...}}", "metadata: {{{}: ...}}"),
    "memory": Names("--memory {}", "memory={}", "memory: {}"),
    "merge": Names(
        "transcode run MODEL DST --lora FILE --scheme ...", "open(MODEL) | lora(FILE) | quantize(...)"
    ),
    "model": Names("--model {}", "model={}", "model: {}"),
    "model_class": Names("--model-class {}", "model_class={}"),
    "model_path": Names("--model-path {}", "model_path={}"),
    "names": Names("`transcode inspect`", "flow.keys()"),
    "on_bad_shape": Names("--on-bad-shape {}", "on_bad_shape={}", "on_bad_shape: {}"),
    "on_nonfinite": Names("--on-nonfinite {}", "on_nonfinite={}", "on_nonfinite: {}"),
    "optimize": Names("--optimize {}", "optimize={}", "optimize: {}"),
    "part": Names("--part {}", "part={}", "part: {}"),
    "override": Names("--override {}", "quantize(overrides={})", "quantize: {{overrides: {}}}"),
    "plan_out": Names(
        "transcode run SRC DST ... --plan-out FILE", "transcode.plan.file.save(flow.plan(...), FILE)"
    ),
    "recipe": Names("--recipe FILE", "recipe=FILE"),
    "reserve_disk": Names("--reserve-disk {}", "reserve_disk={}", "reserve_disk: {}"),
    "resume": Names("--resume", "resume=True", "resume: true"),
    "root_key": Names("--root-key {}", "root_key={}", "root_key: {}"),
    "scale_dtype": Names("--scale-dtype {}", "scale_dtype={}", "scale_dtype: {}"),
    "requantize": Names("--requantize {}", "requantize({})", "requantize: {}"),
    "scheme": Names("--scheme {}", "quantize({})", "quantize: {}"),
    "source": Names("--source SRC", "source=SRC"),
    "to": Names("--to {}", "convert({})", "convert: {}"),
    "set_key": Names("`transcode meta set {} {}=VALUE`", "meta.set({}, {{{}: VALUE}})"),
}
"""By name: every option that a message names outside of the command line's own modules."""

_END = re.compile("[⟧\0]")
_MARK = re.compile("⟦([a-z_]+)((?:\0[^⟧\0]*)*)⟧")
_SIMPLE = re.compile(r"[\w.:/-]+", re.ASCII)
_VOICES: ContextVar[tuple[Voice, ...]] = ContextVar("voices", default=("python",))


def called(name: str, *values: object) -> str:
    """An option in a message, by its name in :data:`OPTIONS`; with its value, as it would be given.

    Raises:
        KeyError: there is no such option.
    """
    if name not in OPTIONS:
        raise KeyError(name)
    marked = (f"\0{_END.sub(' ', str(value))}" for value in values)
    return f"⟦{name}{''.join(marked)}⟧"


def voices() -> tuple[Voice, ...]:
    """Who is spoken to here: the first, and what stands around that, for what the first has no name for."""
    return _VOICES.get()


@contextmanager
def speaking(voice: Voice) -> Iterator[None]:
    """A block in which messages name options so, errors that leave it included, wherever they are read.

    An error knows the block that it left first: threads, and callers beyond, may have a voice of their own.
    """
    now = (voice, *(other for other in _VOICES.get() if other != voice))
    token = _VOICES.set(now)
    try:
        yield
    except Exception as error:
        if getattr(error, "voices", now) is None:  # a TranscodeError that nobody was spoken to of
            error.voices = now  # type: ignore[attr-defined]
        raise
    finally:
        _VOICES.reset(token)


def spoken(text: str, to: tuple[Voice, ...] | None = None) -> str:
    """A message with the names of its options, as those are spoken of here, or to somebody else."""
    order = voices() if to is None else to

    def name(mark: re.Match[str]) -> str:
        names = OPTIONS.get(mark[1])
        if names is None:
            return mark[0]
        voice = next((one for one in (*order, "python") if getattr(names, one) is not None), "python")
        return _filled(getattr(names, voice), voice, mark[2].split("\0")[1:])

    return _MARK.sub(name, text) if "⟦" in text else text


def _filled(pattern: str, voice: str, values: list[str]) -> str:
    if values:
        if voice == "python":
            return pattern.format(*map(repr, values))
        return pattern.format(*(one if _SIMPLE.fullmatch(one) else json.dumps(one) for one in values))
    if voice == "python":
        return pattern.format("...")
    return pattern.replace(": {}", "").replace(" {}", "").replace("{{", "{").replace("}}", "}")
