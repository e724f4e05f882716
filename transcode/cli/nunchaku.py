"""``transcode nunchaku``: SVDQuant checkpoints for nunchaku."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .flags import Group, debug_option
from .job import Job, carry_out, new_job, placing_options
from .meta_common import warn
from .options import apply, performance_options, report_options

__all__ = ["nunchaku"]

_EPILOG = """\b
Examples:
  transcode nunchaku convert --quant-path quant --output-root out --model-name flux.1-dev
  transcode nunchaku convert --quant-path quant --output-root out --model-name flux.1-dev --float-point \\
      --merge --model-path black-forest-labs/FLUX.1-dev
  transcode nunchaku merge transformer_blocks.safetensors unquantized_layers.safetensors flux.safetensors
  transcode nunchaku split flux.safetensors DIR
"""

_config_options = apply(
    [
        click.option(
            "--config-yaml", metavar="YAML", help="DeepCompressor's configuration, which names the model."
        ),
        click.option(
            "--model-path", metavar="DIR", help="Folder of the model, or its name on the hub, if cached."
        ),
        click.option("--config", "config_file", metavar="FILE", help="The model's config.json itself."),
        click.option(
            "--comfy-config", "comfy_file", metavar="FILE", help="comfy_config.json, if not derived."
        ),
        click.option("--model-class", metavar="NAME", help="nunchaku's class, if config.json does not tell."),
        click.option(
            "--strict", is_flag=True, help="Fail where config.json cannot be embedded; else a warning."
        ),
    ]
)

_SAYS_WHERE = {
    "--config-yaml": "config_yaml",
    "--model-path": "model_path",
    "--config": "config_file",
    "--comfy-config": "comfy_file",
    "--model-class": "model_class",
}


@click.group(cls=Group, epilog=_EPILOG)
def nunchaku() -> None:
    """Make SVDQuant checkpoints that nunchaku loads, of what DeepCompressor saved."""


@nunchaku.command()
@click.option("--quant-path", required=True, metavar="DIR", help="Folder with model.pt, scale.pt, ...")
@click.option("--output-root", metavar="DIR", help="Where to write; the folder of --quant-path without it.")
@click.option("--model-name", required=True, metavar="NAME", help="Such as flux.1-dev: names the output.")
@click.option("--float-point", is_flag=True, help="FP4 (groups of 16) instead of INT4 (groups of 64).")
@click.option("--merge", is_flag=True, help="One file with all metadata, which current nunchaku loads.")
@click.option("--add-metadata", is_flag=True, help="Embed config.json into the two files.")
@_config_options
@click.option("--allow-unmatched", is_flag=True, help="Low-rank branches without a layer only warn.")
@placing_options
@performance_options
@report_options
@debug_option
def convert(quant_path: str, output_root: str | None, model_name: str, **values: Any) -> None:
    """Convert DeepCompressor's checkpoint folder.

    Writes transformer_blocks.safetensors and unquantized_layers.safetensors into OUTPUT_ROOT/MODEL_NAME, or
    with --merge OUTPUT_ROOT/MODEL_NAME.safetensors. config.json is looked for as `transcode meta embed` does,
    and beside model.pt; without one a warning is given and the conversion goes on.
    """
    from ..catalog.nunchaku import modules_for
    from ..containers.deepcompressor.reading import open_checkpoint
    from ..errors import RecipeError
    from ..io.named import local
    from ..stages.nunchaku.stage import Nunchaku

    model = modules_for(model_name).model
    if model_name in (".", "..") or Path(model_name).name != model_name:
        raise RecipeError(f"--model-name {model_name!r} is a path, not a name")
    quant_folder = local(quant_path)
    if output_root is None and quant_folder != Path(quant_path):
        raise click.UsageError("nothing is written into the hub cache; say --output-root")
    folder = Path(output_root or quant_path)
    conversion = new_job(
        [lambda: open_checkpoint(quant_path, drop_cache=values["drop_cache"])],
        str(folder / (f"{model_name}.safetensors" if values["merge"] else model_name)),
        "single_file" if values["merge"] else "apart",
        values,
        steps=(Nunchaku(values["float_point"], model),),
        convention="nunchaku",
        allow_unmatched=values["allow_unmatched"],
    )
    embeds = values["merge"] or values["add_metadata"]
    if not embeds and (unused := [flag for flag, key in _SAYS_WHERE.items() if values[key]]):
        raise click.UsageError(f"{unused[0]} is for the metadata; add --merge or --add-metadata")
    if embeds:
        conversion = _embedded(conversion, values, quant_folder)
    carry_out(conversion, values)


@nunchaku.command()
@click.argument("sources", nargs=-1, required=True, metavar="A [B]")
@click.argument("out", metavar="OUT")
@_config_options
@placing_options
@performance_options
@report_options
@debug_option
def merge(sources: tuple[str, ...], out: str, **values: Any) -> None:
    """Merge the two files A and B, or the folder A that holds both, into the one file OUT.

    config.json is looked for as `transcode meta embed` does, and beside A. Metadata of the files stays.
    """
    from ..containers.source import open_source
    from ..io.named import local

    if not out.endswith(".safetensors"):
        raise click.UsageError(f"OUT: {out!r} is no .safetensors file; name it so")
    openers = [lambda path=path: open_source(path, drop_cache=values["drop_cache"]) for path in sources]
    joined = new_job(openers, out, "single_file", values, convention="nunchaku", copy_metadata=False)
    first = local(sources[0])
    carry_out(_embedded(joined, values, first if first.is_dir() else first.parent), values)


@nunchaku.command()
@click.argument("file", metavar="FILE")
@click.argument("folder", metavar="OUTDIR")
@placing_options
@performance_options
@report_options
@debug_option
def split(file: str, folder: str, **values: Any) -> None:
    """Split FILE into transformer_blocks.safetensors and unquantized_layers.safetensors in OUTDIR."""
    from ..containers.source import open_source
    from ..errors import PlanError

    if folder.endswith(".safetensors"):
        raise click.UsageError(f"OUTDIR: {folder!r} is no folder; name one")
    openers = [lambda: open_source(file, drop_cache=values["drop_cache"])]
    cut = new_job(openers, folder, "apart", values, convention="nunchaku", copy_metadata=False)
    files = [planned.name for planned in cut.flow().plan(cut.write()).files]
    if len(files) < 2:
        raise PlanError(
            f"all its tensors belong into {files[0]}", file=file, hint="is it a model for nunchaku?"
        )
    carry_out(cut, values)


def _embedded(job: Job, values: dict[str, Any], beside: Path) -> Job:
    """The job with the metadata that a loader wants; what cannot be embedded is a warning, unless strict."""
    from ..catalog.profiles import profile
    from ..consumers.config import svdquant
    from ..containers.safetensors.splice import stringify
    from ..errors import PlanError, TranscodeError

    flow = job.flow()
    held = flow.source.metadata
    tensors = {place.name: place.spec for file in flow.plan(job.write()).files for place in file.places}
    known = profile("nunchaku")
    metadata: dict[str, Any] = {}
    try:
        configs = _configs(values, beside, known.pipelines)
        if configs is not None:
            config, comfy = configs
            model = values["model_class"] or svdquant.model_class(config, known)
            metadata = svdquant.config_metadata(config, tensors, model, comfy)
        elif "config" not in held:
            raise PlanError("there is no config.json to embed", hint="name it with --config or --model-path")
    except TranscodeError as error:
        if values["strict"]:
            raise
        warn(f"{error}; goes on without it, so nunchaku cannot load the file by itself")
    if not metadata:
        # What the tensors themselves tell.
        model = values["model_class"] or known.default_class or ""
        quantized = svdquant.quantization_config(tensors, model)
        derived = (
            {} if quantized is None else {"model_class": model, "quantization_config": _compact(quantized)}
        )
        metadata = {key: value for key, value in derived.items() if key not in held}
    texts = tuple((key, stringify(value)) for key, value in metadata.items())
    return replace(job, sink=replace(job.sink, metadata=(*texts, *job.sink.metadata)))


def _configs(
    values: dict[str, Any], beside: Path, pipelines: Any
) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """config.json, and comfy_config.json if there is one; None where nobody said where and none is beside."""
    from ..catalog.model_config import find_config
    from ..core.small_json import read_object
    from ..errors import PlanError
    from ..io.named import local

    file, model, recipe = values["config_file"], values["model_path"], values["config_yaml"]
    said = bool(file or model or recipe)
    path, looked = find_config(file, model if said else str(beside.absolute()), recipe, pipelines)
    if path is None:
        if said:
            raise PlanError("no config.json there", file=looked)
        return None
    neighbour = path.parent / "comfy_config.json"
    said_comfy = values["comfy_file"]
    comfy = local(said_comfy) if said_comfy else neighbour if neighbour.is_file() else None
    return read_object(path), None if comfy is None else read_object(comfy)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
