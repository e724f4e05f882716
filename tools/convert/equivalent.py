"""Which command line of transcode means a recipe; saying it, and running it."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Sequence

from transcode.cli import main
from transcode.cli.run import recipe_of, run
from transcode.core.flow import Transform
from transcode.execution.write import Write
from transcode.recipe import Recipe, dump
from transcode.stages.cast import Cast
from transcode.stages.convert import Convert
from transcode.stages.lora.stage import Lora
from transcode.stages.quantize.stage import Quantize
from transcode.stages.select import Drop

__all__ = ["arguments", "call", "carry_out", "say"]


def say(text: str) -> None:
    """Tell the user something on standard error."""
    print(f"transcode: {text}", file=sys.stderr)


def arguments(recipe: Recipe) -> list[str] | None:
    """The arguments of ``transcode`` that mean exactly this recipe; None where only a recipe can say it.

    They are parsed back and compared: stages of ``transcode run`` have an order of their own, and not every
    option of a stage has a flag.
    """
    if recipe.source.path is None or recipe.sink is None:
        return None
    found = [recipe.source.path, str(recipe.sink.dst)]
    for step in recipe.steps:
        found += _step(step)
    models = dict.fromkeys(step.model for step in recipe.steps if isinstance(step, Convert | Quantize))
    found += _each("--model", filter(None, models))
    found += _sink(recipe.sink)
    if recipe.source.root_key is not None:
        found += ["--root-key", recipe.source.root_key]
    if recipe.performance.workers is not None:
        found += ["--workers", str(recipe.performance.workers)]
    if recipe.performance.device != "cpu":
        found += ["--device", recipe.performance.device]
    context = run.make_context("run", list(found))
    return ["run", *found] if recipe_of(context, context.params) == recipe else None


def carry_out(recipe: Recipe, more: Sequence[str] = ()) -> int:
    """Print the command, or the recipe, that means the same, and run that. Returns the exit code.

    Args:
        more: further flags of ``transcode run``.
    """
    found = arguments(recipe)
    if found is not None:
        return call([*found, *more])
    print("# transcode run --config RECIPE, where RECIPE holds:")
    print(dump(recipe), flush=True)
    handle, path = tempfile.mkstemp(suffix=".yaml", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(dump(recipe))
        return _exit_code(["run", "--config", path, *more])
    finally:
        os.unlink(path)


def call(args: Sequence[str]) -> int:
    """Print a command of transcode and run it. Returns the exit code."""
    print(f"transcode {shlex.join(args)}", flush=True)
    return _exit_code(args)


def _exit_code(args: Sequence[str]) -> int:
    try:
        main(list(args))
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    raise AssertionError("transcode's command line always exits")


def _step(step: Transform) -> list[str]:
    """The flags of a stage; what has no flag is left out, which the comparison finds."""
    match step:
        case Drop(patterns=patterns):
            return _each("--drop", patterns)
        case Convert(to=to):
            return ["--to", to]
        case Lora(files=files):
            texts = (
                f"{'' if noise is None else f'{noise}='}{path}:{_number(strength)}"
                + ("" if alpha is None else f":{_number(alpha)}")
                for path, strength, alpha, noise in files
            )
            return _each("--lora", texts)
        case Cast(to=to, saturate=saturate):
            return ["--cast", to, *(["--saturate"] if saturate else [])]
        case Quantize():
            return [
                *_optional("--scheme", step.scheme),
                *_each("-O", (f"{key}={value}" for key, value in step.options)),
                *_each("--targets", step.targets),
                *_each("--include", step.include),
                *_each("--exclude", step.exclude),
                *_each("--override", (f"{rule}={scheme}" for rule, scheme in step.overrides)),
                *_optional("--keep-dtype", step.keep_dtype),
            ]
        case _:
            return []


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _sink(sink: Write) -> list[str]:
    return [
        *_optional("--layout", sink.layout),
        *_optional("--max-tensors", sink.max_tensors),
        *_optional("--max-shard-size", sink.max_shard_size),
        *_optional("--convention", sink.convention),
        *_optional("--name", sink.name),
        *([] if sink.copy_metadata else ["--no-copy-metadata"]),
        *_each("--metadata", (f"{key}={value}" for key, value in sink.metadata)),
        *(["--force"] if sink.force else []),
        *(["--allow-unmatched"] if sink.allow_unmatched else []),
    ]


def _each(flag: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]


def _optional(flag: str, value: object) -> list[str]:
    return [] if value is None else [flag, str(value)]
