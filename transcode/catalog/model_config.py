"""Finds the config.json of a model: in its folder, by a configuration file, or in the local hub cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..core.paths import expanded
from ..errors import PlanError
from ..io import hub
from ..io.named import local
from ..io.urls import refuse_url
from ..voice import called
from .strict import load

__all__ = ["find_config"]

_PLACES = ("transformer/config.json", "config.json", "transformer.config.json")


def find_config(
    config_file: str | None, model_path: str | None, recipe: str | None, pipelines: Mapping[str, str]
) -> tuple[Path | None, str]:
    """config.json, or None; and where was looked.

    Args:
        config_file: the file itself; wins.
        model_path: folder of the model, or its name on the hub; wins over the recipe.
        recipe: a YAML file whose ``pipeline.path``, else ``pipeline.name``, says it.
        pipelines: hub repositories by the short names that such files use.

    Raises:
        TranscodeError: the recipe cannot be read, or names no model.
    """
    if config_file is not None:
        path = local(config_file)
        return (path if path.is_file() else None), config_file
    models = [model_path] if model_path is not None else _from_recipe(recipe or "", pipelines)
    for model in models:
        for folder in _folders(model):
            for place in _PLACES:
                if (folder / place).is_file():
                    return folder / place, model
    return None, " or ".join(models)


def _from_recipe(recipe: str, pipelines: Mapping[str, str]) -> list[str]:
    pipeline = load(local(recipe)).mapping().need("pipeline").mapping()
    path = pipeline.find("path")
    name = pipeline.find("name")
    locations = [] if path is None else [path.text()]
    if not locations and name is not None:
        locations = [pipelines.get(name.text(), name.text())]
    if not locations:
        raise PlanError(
            "has neither pipeline.path nor pipeline.name", file=recipe, hint=f"pass {called('model_path')}"
        )
    return locations


def _folders(model: str) -> list[Path]:
    """The folder of that name, else the snapshots of a hub repository, that of main first."""
    folder = expanded(model)
    if folder.is_dir():
        return [folder]
    refuse_url(model)
    repository = hub.parse(model)
    if repository is None:
        return []
    if repository.revision is not None or repository.inner:
        snapshot = hub.find(model)
        return [] if snapshot is None else [snapshot.path]
    main = repository.reference("main")
    commits = sorted(repository.commits(), key=lambda commit: commit != main)
    return [repository.folder / "snapshots" / commit for commit in commits]
