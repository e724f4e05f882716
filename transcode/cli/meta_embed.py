"""``transcode meta embed``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from ..errors import FormatError, PlanError
from .meta_common import edit_all, edit_options, warn

__all__ = ["embed"]

_PLACES = ("transformer/config.json", "config.json", "transformer.config.json")


@click.command()
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
    from ..catalog import svdquant
    from ..catalog.profiles import profile
    from ..storage.compare import look
    from ..storage.splice import stringify

    nunchaku = profile("nunchaku")
    if not (config_file or model_path or recipe):
        raise click.UsageError("say where config.json is: --model-path, --config-yaml or --config")
    path, looked = _find(config_file, model_path, recipe, nunchaku.pipelines)
    if path is None:
        warn(f"no config.json in {looked}; nothing was changed")
        click.get_current_context().exit(0 if allow_missing else 2)
    config = _load(path)
    beside = path.parent / "comfy_config.json"
    comfy = _load(Path(comfy_file)) if comfy_file else _load(beside) if beside.is_file() else None
    model = model_class or svdquant.model_class(config, nunchaku)
    values: dict[Path, dict[str, str]] = {}
    for file in files:
        view = look(file)
        tensors = {name: stored.spec for name, stored in view.tensors.items()}
        made = svdquant.config_metadata(config, tensors, model, comfy)
        if "quantization_config" not in made:
            warn(f"{file}: none of its tensors is quantized (*.qweight), so it gets no quantization_config")
        for one, before in view.files.items():
            first = {} if before else {"format": "pt"}
            values[one] = {**first, **{key: stringify(value) for key, value in made.items()}}
    edit_all(files, lambda file: lambda now: {**now, **values[file]}, settings)


def _find(
    config_file: str | None, model_path: str | None, recipe: str | None, pipelines: Any
) -> tuple[Path | None, str]:
    """config.json, or None; and where was looked."""
    if config_file is not None:
        path = Path(config_file)
        return (path if path.is_file() else None), config_file
    models = [model_path] if model_path is not None else _from_recipe(recipe or "", pipelines)
    for model in models:
        for folder in _folders(model):
            for place in _PLACES:
                if (folder / place).is_file():
                    return folder / place, model
    return None, " or ".join(models)


def _from_recipe(recipe: str, pipelines: Any) -> list[str]:
    from ..catalog.strict import load

    pipeline = load(recipe).mapping().need("pipeline").mapping()
    path = pipeline.find("path")
    name = pipeline.find("name")
    found = [] if path is None else [path.text()]
    if not found and name is not None:
        found = [pipelines.get(name.text(), name.text())]
    if not found:
        raise PlanError("has neither pipeline.path nor pipeline.name", file=recipe, hint="pass --model-path")
    return found


def _folders(model: str) -> list[Path]:
    """The folder of that name, else the snapshots of a hub repository, that of main first."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return [folder]
    if "/" not in model:
        return []
    repository = _hub_cache() / f"models--{model.replace('/', '--')}"
    snapshots = sorted(repository.glob("snapshots/*"))
    main = repository / "refs" / "main"
    if main.is_file():
        current = repository / "snapshots" / main.read_text().strip()
        snapshots.sort(key=lambda snapshot: snapshot != current)
    return snapshots


def _hub_cache() -> Path:
    """Where huggingface_hub keeps repositories, by the environment variables that it reads."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser() / below
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes().decode())
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=path) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is not valid JSON: {error}", file=path) from None
    if not isinstance(found, dict):
        raise FormatError(f"is a JSON {type(found).__name__}, not an object", file=path)
    return found
