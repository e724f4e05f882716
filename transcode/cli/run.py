"""``transcode run``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..core.option import REPORTING, SPEED, WHAT, Option, options_of
from ..plan.options import SourceOptions
from ..stages.table import ORDER, STAGES
from ..voice import speaking
from .flags import Flag, command, debug_option, flag
from .options import apply, flag_of, flags_of, output_options, parameter, performance_options, report_options

__all__ = ["carry_out", "recipe_of", "run"]

_EPILOG = """\b
Examples:
  transcode run model.safetensors out.safetensors --scheme int8
  transcode run Wan2.1-I2V-14B out --scheme fp8 --layout by_block
  transcode run SRC DST --scheme int8 --override 'blocks.0=bf16' --exclude 'blocks.39.ffn'
  transcode run model-fp8 model-nvfp4 --scheme nvfp4 --convention modelopt
  transcode run Wan2.1-T2V-14B out --lora style.safetensors:0.8 --scheme int8
"""


def _declared() -> dict[str, list[tuple[str, str, Option]]]:
    """The options of stages that ``run`` has, by its spellings: with stage and field, as some share one."""
    spelled: dict[str, list[tuple[str, str, Option]]] = {}
    for kind, (owner, _) in STAGES.items():
        for name, option in options_of(owner).items():
            if spelling := option.run_flag(name):
                spelled.setdefault(spelling, []).append((kind, name, option))
            for key, short in option.short.items():
                spelled.setdefault(short.run_flag(key), []).append((kind, key, short))
    return spelled


_DECLARED = _declared()
_RUNNING = (
    "drop_cache", "measure", "resume", "checksums", "attest", "max_read_rate", "nice", "part", "cluster",
    "consume_source",
)  # fmt: skip
"""Flags that say nothing of a plan, nor of whether it can be carried out here."""

_HEADS = {
    kind: [
        spelled
        for spelled, options in _DECLARED.items()
        for stage, _, option in options
        if stage == kind and option.head
    ]
    for kind in STAGES
}
"""The flags that ask for stages."""


def _needed(options: list[tuple[str, str, Option]]) -> list[str]:
    """Flags of which one must be there, so that a flag of these options does anything."""
    if any(option.head for _, _, option in options):
        return [spelling for _, _, option in options for spelling in option.needs]
    return [spelling for kind, _, _ in options for spelling in _HEADS[kind]]


def _stage_flags() -> list[Any]:
    flags = []
    source = {parameter(option.own_flag(name)) for name, option in options_of(SourceOptions).items()}
    for spelling, [(_, _, option), *_] in _DECLARED.items():
        if parameter(spelling) not in source:
            flags.append(flag_of(spelling, option, option.run_help))
    return flags


@command(epilog=_EPILOG)
@click.argument("src", required=False)
@click.argument("dst", required=False)
@apply(_stage_flags())
@flag(
    "-c --config",
    type=click.Path(),
    metavar="FILE",
    group=WHAT,
    help="A recipe file; SRC and DST may replace its own.",
)
@output_options
@flag(
    "--plan-out",
    metavar="FILE",
    type=click.Path(),
    group=REPORTING,
    help="Write the plan as JSON, and run nothing.",
)
@flag(
    "--plan plan_file",
    metavar="FILE",
    type=click.Path(),
    group=REPORTING,
    carries=True,
    help="Carry out a plan of --plan-out.",
)
@flag(
    "--consume-source",
    is_flag=True,
    group=SPEED,
    carries=True,
    help="DELETE shards of SRC as they are done.",
)
@apply(flags_of(SourceOptions, without=["path"]))
@performance_options
@report_options
@debug_option
@click.pass_context
def run(context: click.Context, /, **values: Any) -> None:
    """Convert the checkpoint SRC to DST.

    SRC: safetensors, GGUF or PyTorch, a file or a folder. DST: a file by its ending, else a folder. Stages
    run in this order: keep, drop, dequantize, rename, convert (--to), lora, cast, quantize, requantize,
    calibrate. What comes quantized keeps its codes unless --scheme encodes it anew.
    """
    if values["plan_file"] is not None:
        _refuse_beside_plan(context)
        _carry_out_plan(values)
    else:
        with nullcontext() if values["config"] is None else speaking("recipe"):
            carry_out(recipe_of(context, values), values)


def _refuse_beside_plan(context: click.Context) -> None:
    from . import build

    carried = {one.name for one in context.command.params if isinstance(one, Flag) and one.carries}
    if idle := build.spelled_flags(context, set(context.params) - carried):
        raise click.UsageError(f"{idle[0]} cannot be combined with --plan; the plan says it already")


def _carry_out_plan(values: dict[str, Any]) -> None:
    """Run a plan from a file, or show it."""
    from ..execution.carry import carry_out as run_plan
    from ..execution.carry import check
    from ..plan import file as plan_file
    from . import build, consuming
    from .interrupt import insisting
    from .progress import progress
    from .show import show_done, show_planned

    plan = plan_file.load(values["plan_file"])
    if values["consume_source"]:
        consuming.carry_out(plan, build.performance(values), values)
        return
    check(plan, build.performance(values), force=values["force"])
    if values["dry_run"]:
        show_planned(plan, values)
        return
    with progress(quiet=values["quiet"] or values["as_json"]) as update:
        report = run_plan(plan, build.performance(values), insisting(update))
    show_done(report, values)


def recipe_of(context: click.Context, values: dict[str, Any]) -> Any:
    """The recipe that a command line of ``run`` describes."""
    from ..containers import table
    from ..recipe.recipe import Recipe
    from . import build

    src, dst = values["src"], values["dst"]
    if values["config"] is not None:
        if clash := build.spelled_flags(context, set(map(parameter, _DECLARED))):
            raise click.UsageError(f"{clash[0]} cannot be combined with --config; put it into the recipe")
        from ..recipe.read import load

        recipe = load(values["config"])
        if src is not None and dst is None and recipe.source.path is not None and recipe.sink is None:
            src, dst = None, src  # a recipe saved from a pipe lacks only its end
        if src is not None:
            recipe = replace(recipe, source=replace(recipe.source, path=src))
        if dst is not None:
            recipe = build.ended(recipe, dst, values)
        elif recipe.sink is not None:
            recipe = build.with_output_flags(recipe, values)
    else:
        if src is None or dst is None:
            lacks = "DST, where to write, is missing" if src is not None else "SRC and DST are missing"
            raise click.UsageError(f"{lacks}; or give a recipe with --config")
        _refuse_idle(context, values)
        if values["copy_metadata"] and table.written(dst):
            raise click.UsageError("--copy-metadata does nothing for a single file; name a folder")
        recipe = Recipe(sink=build.write(dst, values)).then(*_steps(values))
        whole = values["dequantize"] and not values["dequantize_only"]
        own = build.source(values, src)
        recipe = replace(recipe, source=replace(own, convention=None, scheme=None) if whole else own)
    source = recipe.source
    if values["root_key"] is not None:
        source = replace(source, root_key=values["root_key"])
    if values["no_mmap"]:
        source = replace(source, mmap=False)
    return replace(recipe, source=source, performance=build.performance(values, recipe.performance))


def _refuse_idle(context: click.Context, values: dict[str, Any]) -> None:
    """Refuse flags that mean nothing without another that is not there."""
    from . import build

    source = {parameter(option.own_flag(name)) for name, option in options_of(SourceOptions).items()}
    for spelling, options in _DECLARED.items():
        needed = _needed(options)
        if not needed or parameter(spelling) in source:  # the source has a use for it in any case
            continue
        if not any(values[parameter(one)] for one in needed):
            for idle in build.spelled_flags(context, {parameter(spelling)}):
                others = " or ".join(one.split()[-1] for one in needed)
                raise click.UsageError(f"{idle} does nothing without {others}; give both, or neither")


def _steps(values: dict[str, Any]) -> list[Any]:
    from ..core.dtypes import FLOATS
    from ..stages.cast import Cast, float_dtype
    from . import build

    steps: list[Any] = []
    for kind in ORDER:
        if (
            kind == "lora"
            and values["lora"]
            and values["cast"]
            and float_dtype(values["cast"]).name in FLOATS
        ):
            # FP8 takes no LoRA; any other float would be rounded once more. All of them hold what FP8 holds.
            steps.append(Cast(values["cast"], dtypes=("F8_E4M3", "F8_E5M2")))
        if any(values[parameter(one)] for one in _HEADS[kind]):
            steps.append(build.stage(kind, values, build.as_run))
    return steps


def _refuse_with_plan_out() -> None:
    """Refuse flags that concern how a plan is carried out, which is neither done nor written down."""
    from . import build

    if idle := build.spelled_flags(click.get_current_context(), _RUNNING):
        raise click.UsageError(
            f"{idle[0]} does nothing with --plan-out, which runs nothing; give it to run --plan"
        )


def carry_out(recipe: Any, values: dict[str, Any]) -> None:
    """Plan or run a recipe, and tell of it as the report options ask."""
    from ..execution.staging import refuse_interrupted
    from .interrupt import insisting
    from .progress import progress
    from .show import show_done, show_planned

    if recipe.sink is not None:
        refuse_interrupted(Path(recipe.sink.dst), recipe.sink.folder)
    flow = recipe.flow()
    write = recipe.write()
    plan_out = values.get("plan_out")
    if plan_out is not None:
        _refuse_with_plan_out()
    if values.get("consume_source"):
        with progress(quiet=values["quiet"]) as update:
            plan = write.with_progress(insisting(update)).plan(flow)
        from . import consuming

        consuming.carry_out(plan, write.performance, {**values, "force": write.force})
        return
    if values["dry_run"] or plan_out is not None:
        with progress(quiet=values["quiet"]) as update:
            sink = write.with_progress(insisting(update))
            plan = sink.plan(flow)
        sink.check(plan)
        if plan_out is not None and not values["dry_run"]:
            from ..plan import file as plan_file

            plan_file.save(plan, plan_out)
        show_planned(plan, values)
        return
    with progress(quiet=values["quiet"] or values["as_json"]) as update:
        report = flow | write.with_progress(insisting(update))
    show_done(report, values)
