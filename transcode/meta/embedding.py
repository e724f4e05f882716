"""A model's config.json, embedded as nunchaku and its ComfyUI nodes read it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Unpack

from ..catalog.model_config import find_config
from ..catalog.profiles import profile
from ..consumers.config import svdquant
from ..containers.compare import look
from ..containers.edit.forms import asked
from ..containers.safetensors.splice import stringify
from ..core import arguments
from ..core.small_json import read_object
from ..errors import PlanError, RecipeError
from ..io.named import local
from ..voice import called
from .edits import EditOptions, Edits, Paths, apply, paths_of

__all__ = ["embed"]


def embed(
    paths: Paths,
    *,
    config: str | PathLike[str] | None = None,
    model_path: str | PathLike[str] | None = None,
    config_yaml: str | PathLike[str] | None = None,
    comfy_config: str | PathLike[str] | None = None,
    model_class: str | None = None,
    allow_missing: bool = False,
    **options: Unpack[EditOptions],
) -> Edits:
    """Embed config.json, so that nunchaku and its ComfyUI nodes can load the file.

    Args:
        paths: a file, an index or a folder; or several.
        config: the config.json itself; wins.
        model_path: folder of the model, or its name on the hub, if cached here; wins over ``config_yaml``. In
            a folder: transformer/config.json, config.json, transformer.config.json.
        config_yaml: a configuration whose ``pipeline.path``, else ``pipeline.name``, says it.
        comfy_config: comfy_config.json; without it the one beside config.json, else it is derived.
        model_class: nunchaku's class, if config.json does not tell.
        allow_missing: without a config.json files stay as they are, and a note says so.
        options: see :class:`.edits.EditOptions`.

    Raises:
        RecipeError: neither of the three that say where config.json is.
        PlanError: there is no config.json, or nunchaku has no class for its model; nothing is changed.
        TranscodeError: an edit is refused.
    """
    if config is None and model_path is None and config_yaml is None:
        where = (called(name) for name in ("model_path", "config_yaml", "config"))
        raise RecipeError("meta.embed: nothing says where config.json is", hint=f"pass {' or '.join(where)}")
    files = paths_of("meta.embed", paths)
    nunchaku = profile("nunchaku")
    config_file, model, recipe, comfy_file = (
        None if value is None else arguments.path(f"meta.embed: {name}", value)
        for name, value in (
            ("config", config),
            ("model_path", model_path),
            ("config_yaml", config_yaml),
            ("comfy_config", comfy_config),
        )
    )
    dry_run = bool(options.get("dry_run", False))
    path, looked = find_config(config_file, model, recipe, nunchaku.pipelines)
    if path is None:
        missing = f"no config.json in {looked}; nothing was changed"
        if not allow_missing:
            raise PlanError(missing)
        same = apply("meta.embed", files, lambda file: lambda now: now, options)  # scripts hear of every file
        return Edits(tuple(same), dry_run, (missing,))
    content = read_object(path)
    beside = path.parent / "comfy_config.json"
    place = local(comfy_file) if comfy_file else beside
    comfy = read_object(place) if comfy_file or place.is_file() else None
    chosen = model_class or svdquant.model_class(content, nunchaku)
    values: dict[Path, dict[str, str]] = {}
    notes = []
    for file in files:
        view = look(file)
        tensors = {name: stored.spec for name, stored in view.tensors.items()}
        embedded = svdquant.config_metadata(content, tensors, chosen, comfy)
        if "quantization_config" not in embedded:
            notes.append(
                f"{file}: none of its tensors is quantized (*.qweight), so it gets no quantization_config"
            )
        for file_path, before in view.files.items():
            first = {} if before else asked(file_path)
            values[file_path] = {**first, **{key: stringify(value) for key, value in embedded.items()}}

    def change(now: dict[str, str], new: dict[str, str]) -> dict[str, str]:
        # Older tools embedded an empty one, which their readers refuse.
        empty = "comfy_config" not in new and now.get("comfy_config") == "{}"
        kept = {key: value for key, value in now.items() if not (empty and key == "comfy_config")}
        return {**kept, **new}

    done = apply("meta.embed", files, lambda file: lambda now: change(now, values[file]), options)
    return Edits(tuple(done), dry_run, tuple(notes))
