"""Folders of Diffusers' pipelines: ``model_index.json``, which says what is in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .. import catalog
from ..catalog.components import OTHER
from ..catalog.pipelines import Pipeline, pipelines
from ..containers.discover import read_json
from ..core import small_json
from ..core.output import SideFile
from ..io.folder import Folder

__all__ = ["INDEX", "as_file", "known_pipeline", "pipeline_of", "stated"]

INDEX = "model_index.json"

_SPELLED = ("diffusers", "transformers", "transformers_5", "multimodal", "llava")
"""Spellings that classes of pipelines load."""

_NO_MODELS = (OTHER, "ema")
"""Subfolders of what no pipeline has."""

_DENOISERS = ("unet", "transformer")
"""Subfolders of what tells a pipeline from others: they share autoencoders and text encoders."""


def pipeline_of(folder: Folder) -> Pipeline | None:
    """The pipeline that a folder says it is of; None where it says none, or one that is not known."""
    file = folder.at(INDEX)
    if not file.exists():
        return None
    said = read_json(file).get("_class_name")
    return next((one for one in pipelines().values() if one.name == said), None)


def known_pipeline(models: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Pipeline | None:
    """The pipeline that a folder of models is; None where it is none that is known.

    Args:
        models: names, as spelled there, and shapes of the tensors in each subfolder.
    """
    held = {}
    for folder, shapes in models.items():
        if folder not in _NO_MODELS:
            family = catalog.detect(list(shapes))
            if family is None or family.spelling not in _SPELLED or family.prefix:
                return None
            held[folder] = family.name
    denoiser = next((folder for folder in _DENOISERS if folder in held), None)
    if denoiser is None:
        return None
    for pipeline in pipelines().values():
        if pipeline.is_for(models[denoiser]) and all(
            folder in pipeline.parts and pipeline.parts[folder].family == family
            for folder, family in held.items()
        ):
            return pipeline
    return None


def stated(pipeline: Pipeline, folders: Collection[str]) -> dict[str, Any]:
    """What ``model_index.json`` says of a pipeline of which a folder holds some models.

    What has no weights is named as the published pipeline names it: it is to be put beside them, or given
    when the pipeline is loaded.
    """
    parts = {folder: part for folder, part in pipeline.parts.items() if folder in folders}
    classes = {name: (one.library, one.kind) for name, one in parts.items()} | dict(pipeline.beside)
    says = {
        key: value for folder, said in pipeline.says.items() if folder in parts for key, value in said.items()
    }
    return {"_class_name": pipeline.name} | says | {name: [*said] for name, said in classes.items()}


def as_file(index: Mapping[str, object]) -> SideFile:
    """``model_index.json``."""
    return SideFile(INDEX, f"{small_json.spell(index, indent=2)}\n".encode())
