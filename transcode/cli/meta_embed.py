"""``transcode meta embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .meta_common import edit_all, edit_options, warn
from .options import command

__all__ = ["embed"]


@command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--model-path", metavar="DIR", help="Folder of the model, or its name on the hub, if cached here."
)
@click.option(
    "--config-yaml", "recipe", metavar="YAML", help="Configuration whose pipeline.path or .name says it."
)
@click.option("--config", "config_file", metavar="FILE", help="The config.json itself.")
@click.option(
    "--comfy-config", "comfy_file", metavar="FILE", help="comfy_config.json, if it is not to be derived."
)
@click.option("--model-class", metavar="NAME", help="nunchaku's class, if config.json does not tell.")
@click.option("--allow-missing", is_flag=True, help="Exit with 0 when there is no config.json.")
@edit_options
def embed(
    files: tuple[str, ...],
    model_path: str | None,
    recipe: str | None,
    config_file: str | None,
    comfy_file: str | None,
    model_class: str | None,
    allow_missing: bool,
    **settings: Any,
) -> None:
    """Embed config.json, so that nunchaku and its ComfyUI nodes can load the file.

    Looked for in this order: --config; --model-path; pipeline.path, else pipeline.name of --config-yaml; as a
    folder, else in the local hub cache. In a folder: transformer/config.json, config.json,
    transformer.config.json. Without one, the file stays as it was and the exit code is 2.
    """
    from ..catalog.model_config import find_config
    from ..catalog.profiles import profile
    from ..consumers.config import svdquant
    from ..containers.compare import look
    from ..containers.safetensors.edit.splice import stringify
    from ..core.small_json import read_object
    from ..io.folder import local

    nunchaku = profile("nunchaku")
    if not (config_file or model_path or recipe):
        raise click.UsageError("say where config.json is: --model-path, --config-yaml or --config")
    path, looked = find_config(config_file, model_path, recipe, nunchaku.pipelines)
    if path is None:
        warn(f"no config.json in {looked}; nothing was changed")
        if not allow_missing:
            click.get_current_context().exit(2)
        edit_all(files, lambda file: lambda now: now, settings)  # scripts want to hear of every file
        return
    config = read_object(path)
    beside = path.parent / "comfy_config.json"
    place = local(comfy_file) if comfy_file else beside
    comfy = read_object(place) if comfy_file or place.is_file() else None
    model = model_class or svdquant.model_class(config, nunchaku)
    values: dict[Path, dict[str, str]] = {}
    for file in files:
        view = look(file)
        tensors = {name: stored.spec for name, stored in view.tensors.items()}
        embedded = svdquant.config_metadata(config, tensors, model, comfy)
        if "quantization_config" not in embedded:
            warn(f"{file}: none of its tensors is quantized (*.qweight), so it gets no quantization_config")
        for file_path, before in view.files.items():
            first = {} if before else {"format": "pt"}
            values[file_path] = {**first, **{key: stringify(value) for key, value in embedded.items()}}

    def change(now: dict[str, str], new: dict[str, str]) -> dict[str, str]:
        # Older tools embedded an empty one, which their readers refuse.
        empty = "comfy_config" not in new and now.get("comfy_config") == "{}"
        kept = {key: value for key, value in now.items() if not (empty and key == "comfy_config")}
        return {**kept, **new}

    edit_all(files, lambda file: lambda now: change(now, values[file]), settings)
