"""``transcode run``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ..voice import speaking
from .options import (
    command,
    debug_option,
    output_options,
    performance_options,
    quantize_options,
    report_options,
)

if TYPE_CHECKING:
    from ..execution.execute import Report
    from ..plan.plan import Plan

__all__ = ["carry_out", "recipe_of", "run"]

_EPILOG = """\b
Examples:
  transcode run model.safetensors out.safetensors --scheme int8
  transcode run Wan2.1-I2V-14B out --scheme fp8 --layout by_block
  transcode run SRC DST --scheme int8 --override 'blocks.0=bf16' --exclude 'blocks.39.ffn' --dry-run
  transcode run shards/ one.safetensors              (re-shard: no scheme)
  transcode run model-fp8 model-nvfp4 --scheme nvfp4 --convention modelopt
  transcode run model.pth model.safetensors --cast bf16
  transcode run Wan2.1-T2V-14B out --lora style.safetensors:0.8 --scheme int8
  transcode run --config wan_480p_int8.yaml
  transcode run SRC DST --scheme int8 --plan-out plan.json && transcode run --plan plan.json
"""

_STEP_OPTIONS = {
    "scheme", "rename", "to", "lora", "keep", "drop", "cast", "saturate", "dequantize",
    "dequantize_only", "from_convention", "from_scheme", "options", "granularity", "group_size", "symmetric",
    "optimize", "scale_dtype", "model", "targets", "include", "exclude", "overrides", "keep_dtype",
    "on_nonfinite", "on_bad_shape", "share_scale", "calib", "drop_global_scale",
}  # fmt: skip


_BELONG_TO = {
    "scheme": {
        "options", "granularity", "group_size", "symmetric", "optimize", "scale_dtype", "targets", "include",
        "exclude", "overrides", "keep_dtype", "on_bad_shape", "share_scale", "calib",
    },
    "cast": {"saturate"},
    "dequantize": {"dequantize_only"},
    "calib": {"drop_global_scale"},
}  # fmt: skip
"""Options that mean nothing without the option that asks for their stage."""


@command(epilog=_EPILOG)
@click.argument("src", required=False)
@click.argument("dst", required=False)
@click.option("-c", "--config", type=click.Path(), help="A recipe file; SRC and DST may replace its own.")
@click.option(
    "-s", "--scheme", help="Quantize: int8, fp8, ... or name:option=value; see `transcode schemes`."
)
@quantize_options
@click.option("--calib", type=click.Path(), help="Calibration of the inputs, for nvfp4: a calib.pt.")
@click.option("--drop-global-scale", is_flag=True, help="With --calib: leave the weights' own scale out.")
@click.option("--keep", multiple=True, metavar="PATTERN", help="Take only these tensors; repeatable.")
@click.option("--drop", multiple=True, metavar="PATTERN", help="Leave these tensors out; repeatable.")
@click.option("--rename", nargs=2, multiple=True, metavar="REGEX REPLACEMENT", help="Repeatable, in order.")
@click.option(
    "--dequantize",
    metavar="DTYPE",
    help="First decode all quantized tensors to this dtype.",
)
@click.option(
    "--dequantize-only", multiple=True, metavar="PATTERN", help="Decode only these tensors; repeatable."
)
@click.option(
    "--from-convention", metavar="NAME", help="Whose names the quantized source has; found without it."
)
@click.option("--from-scheme", help="The source's scheme, where the file leaves several possible.")
@click.option("--to", metavar="SPELLING", help="Spell the architecture as another program: diffusers, ...")
@click.option(
    "--lora", multiple=True, metavar="PATH[:STRENGTH[:ALPHA]]", help="Merge a LoRA; repeatable, in order."
)
@click.option("--cast", metavar="DTYPE", help="Cast the float tensors, before any quantization.")
@click.option("--saturate", is_flag=True, help="Let a cast clip what is too large instead of failing.")
@click.option("--plan-out", metavar="FILE", help="Write the plan to a file, as JSON, and run nothing.")
@click.option("--plan", "plan_file", metavar="FILE", help="Carry out a plan that --plan-out has written.")
@output_options
@click.option("--root-key", help="Which dictionary of a PyTorch file holds the tensors.")
@click.option("--no-mmap", is_flag=True, help="Read files instead of mapping them.")
@performance_options
@report_options
@debug_option
@click.pass_context
def run(context: click.Context, /, **values: Any) -> None:
    """Convert the checkpoint SRC to DST.

    SRC is a safetensors file, a folder of shards, an index file, a Diffusers folder or a PyTorch file. DST is
    a file if it ends in .safetensors, else a folder. Stages run in this order: keep, drop, dequantize,
    rename, convert (--to), lora, cast, quantize,
    calibrate. What comes quantized is decoded where --scheme encodes it anew, and keeps its codes elsewhere.
    """
    if values["plan_file"] is not None:
        _refuse_beside_plan(context)
        _carry_out_plan(values)
    else:
        with nullcontext() if values["config"] is None else speaking("recipe"):
            carry_out(recipe_of(context, values), values)


_BESIDE_PLAN = {
    "plan_file", "force", "dry_run", "as_json", "quiet", "verbose", "debug", "workers", "memory", "tile",
    "drop_cache", "device", "device_memory",
}  # fmt: skip
"""Options that concern how a plan is carried out, not what it says."""


def _refuse_beside_plan(context: click.Context) -> None:
    from . import build

    if idle := build.spelled_flags(context, set(context.params) - _BESIDE_PLAN):
        raise click.UsageError(f"{idle[0]} cannot be combined with --plan: the plan says it already")


def _carry_out_plan(values: dict[str, Any]) -> None:
    """Run a plan from a file, or show it."""
    from ..execution.carry import carry_out as run_plan
    from ..execution.carry import check
    from ..plan import file as plan_file
    from . import build
    from .interrupt import insisting
    from .progress import progress

    plan = plan_file.load(values["plan_file"])
    check(plan, force=values["force"])
    if values["dry_run"]:
        _show_planned(plan, values)
        return
    with progress(quiet=values["quiet"] or values["as_json"]) as update:
        report = run_plan(plan, build.performance(values), insisting(update))
    _show_done(report, values)


def recipe_of(context: click.Context, values: dict[str, Any]) -> Any:
    """The recipe that a command line of ``run`` describes."""
    from ..containers import table
    from ..recipe import Recipe, SourceOptions, load
    from . import build

    src, dst = values["src"], values["dst"]
    if values["config"] is not None:
        if clash := build.spelled_flags(context, _STEP_OPTIONS):
            raise click.UsageError(f"{clash[0]} cannot be combined with --config: put it into the recipe")
        recipe = load(values["config"])
        if src is not None and dst is None and recipe.source.path is not None and recipe.sink is None:
            src, dst = None, src  # a recipe saved from a pipe lacks only its end
        if src is not None:
            recipe = replace(recipe, source=replace(recipe.source, path=src))
        if dst is not None:
            recipe = build.ended(recipe, dst, context, values)
        elif recipe.sink is not None:
            recipe = build.with_output_flags(recipe, context, values)
    else:
        if src is None or dst is None:
            raise click.UsageError("name SRC and DST, or a recipe with --config")
        if values["model"] and not (values["scheme"] or values["to"]):
            raise click.UsageError("--model does nothing without --scheme or --to: give both, or neither")
        for stage, options in _BELONG_TO.items():
            if not values[stage] and (idle := build.spelled_flags(context, options)):
                flag = "--" + stage
                raise click.UsageError(f"{idle[0]} does nothing without {flag}: give both, or neither")
        if values["copy_metadata"] and build.spelled_flags(context, {"copy_metadata"}) and table.written(dst):
            raise click.UsageError("--copy-metadata does nothing for a single file: name a folder")
        if not (values["scheme"] or values["dequantize"]) and build.spelled_flags(context, {"on_nonfinite"}):
            raise click.UsageError(
                "--on-nonfinite does nothing without --scheme or --dequantize: give one, or neither"
            )
        recipe = Recipe(sink=build.write(dst, values)).then(*_steps(values))
        whole = values["dequantize"] and not values["dequantize_only"]
        said = (None, None) if whole else (values["from_convention"], values["from_scheme"])
        recipe = replace(recipe, source=SourceOptions(src, convention=said[0], scheme=said[1]))
    source = recipe.source
    if values["root_key"] is not None:
        source = replace(source, root_key=values["root_key"])
    if values["no_mmap"]:
        source = replace(source, mmap=False)
    return replace(recipe, source=source, performance=build.performance(values, recipe.performance))


def _steps(values: dict[str, Any]) -> list[Any]:
    from ..core.dtypes import FLOATS
    from ..stages.calibrate import Calibrate
    from ..stages.cast import Cast, float_dtype
    from ..stages.convert import Convert
    from ..stages.dequantize import Dequantize
    from ..stages.lora.stage import Lora, parse_lora
    from ..stages.rename import Rename
    from ..stages.select import Drop, Keep
    from . import build

    steps: list[Any] = []
    if values["keep"]:
        steps.append(Keep(build.split(values["keep"])))
    if values["drop"]:
        steps.append(Drop(build.split(values["drop"])))
    if values["dequantize"]:
        steps.append(
            Dequantize(
                values["dequantize"],
                values["from_convention"],
                build.split(values["dequantize_only"]),
                values["from_scheme"],
                values["on_nonfinite"],
            )
        )
    if values["rename"]:
        steps.append(Rename(tuple(values["rename"])))
    if values["to"]:
        steps.append(Convert(values["to"], None, values["model"]))
    if values["lora"] and values["cast"] and float_dtype(values["cast"]).name in FLOATS:
        # FP8 takes no LoRA; any other float would be rounded once more. All of them hold what FP8 holds.
        steps.append(Cast(values["cast"], dtypes=("F8_E4M3", "F8_E5M2")))
    if values["lora"]:
        steps.append(Lora(tuple(map(parse_lora, values["lora"]))))
    if values["cast"]:
        steps.append(Cast(values["cast"], (), values["saturate"]))
    if values["scheme"]:
        steps.append(build.quantize(values["scheme"], values))
    if values["calib"]:
        steps.append(Calibrate(values["calib"], not values["drop_global_scale"]))
    return steps


def carry_out(recipe: Any, values: dict[str, Any]) -> None:
    """Plan or run a recipe, and tell of it as the report options ask."""
    from .interrupt import insisting
    from .progress import progress

    flow = recipe.flow()
    write = recipe.write()
    plan_out = values.get("plan_out")
    if values["dry_run"] or plan_out is not None:
        with progress(quiet=values["quiet"]) as update:
            sink = write.with_progress(insisting(update))
            plan = sink.plan(flow)
        sink.check(plan)
        if plan_out is not None and not values["dry_run"]:
            from ..plan import file as plan_file

            plan_file.save(plan, plan_out)
        _show_planned(plan, values)
        return
    with progress(quiet=values["quiet"] or values["as_json"]) as update:
        report = flow | write.with_progress(insisting(update))
    _show_done(report, values)


def _show_planned(plan: Plan, values: dict[str, Any]) -> None:
    from .show import show_json, show_plan, show_warnings

    if values["as_json"]:
        show_json(plan.to_json())
    elif not values["quiet"]:
        show_plan(plan, verbose=values["verbose"])
    show_warnings(plan, verbose=values["verbose"])


def _show_done(report: Report, values: dict[str, Any]) -> None:
    from .show import show_json, show_report, show_warnings

    show_warnings(report.plan, verbose=values["verbose"])
    if values["as_json"]:
        show_json(report.to_json())
    elif not values["quiet"]:
        show_report(report, verbose=values["verbose"])
