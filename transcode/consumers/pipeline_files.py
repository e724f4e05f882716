"""What stands beside the weights in a folder of a pipeline: of the tensors, or of a folder that has it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from .. import catalog
from ..catalog.pipelines import Part, Pipeline
from ..containers.discover import read_json
from ..core.output import SideFile, Stored
from ..core.paths import located
from ..core.planning import Planning
from ..core.records import dataclass
from ..errors import PlanError
from ..io.folder import File, Folder
from ..io.named import locate
from ..voice import called
from .pipelines import INDEX, as_file, known_pipeline, stated

__all__ = ["pair_files", "pipeline_files"]

_CONFIG = "config.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".gguf")
_INDEXES = ".index.json"


@dataclass(frozen=True)
class _Config:
    """A configuration that tensors tell.

    Attributes:
        said: what stands in it.
        sizes: what of it, in numbers, is not the same for all models of the family.
    """

    said: Mapping[str, object]
    sizes: Mapping[str, int]


Models = Mapping[str, Sequence[Stored]]
"""What is stored in each subfolder, as spelled there."""

_PLAIN, _BARE = ("F64", "F32", "F16", "BF16", "I64", "I32"), ("F8_E4M3", "F8_E5M2")
"""Dtypes of weights, and those that are of weights where no scale is beside them."""

_SCALE = re.compile(r"(?:^|\.)(?:(?:weight|input)_scale|scale_(?:weight|input)|scaled_fp8)[^.]*$")
"""Names of scales of FP8, whatever else of their convention is known."""


def pipeline_files(models: Models, config_from: str | None, planning: Planning) -> list[SideFile]:
    """Small files of a folder of models: the index, and the configuration of each as far as it is known.

    Args:
        models: what the folder holds.
        config_from: a folder of such a pipeline, whose other files are taken.

    Raises:
        PlanError: these are no pipeline that is known, or that folder is of another one.
    """
    pipeline = known_pipeline(
        {folder: {one.name: one.spec.shape for one in some} for folder, some in models.items()}
    )
    if pipeline is None:
        if config_from is not None:
            raise PlanError(
                "config_from: the models are no pipeline of Diffusers that is known, as they are spelled",
                hint=f"spell them as Diffusers does: {called('to', 'diffusers')}",
            )
        return []
    parts = pipeline.parts
    derived = {folder: _derived(some, parts[folder]) for folder, some in models.items() if folder in parts}
    if config_from is not None:
        return _taken(pipeline, derived, config_from, planning)
    absent = [folder for folder in parts if folder not in derived]
    lacking = [f"{one}/" for one in dict.fromkeys((*absent, *pipeline.beside)) if one not in derived]
    lacking += [f"{folder}/{_CONFIG}" for folder, config in derived.items() if config is None]
    alike = "" if not pipeline.alike else f"; no tensor tells it from a {' or '.join(pipeline.alike)}"
    planning.note(
        f"{INDEX}: a {pipeline.name}; to load it, add {', '.join(lacking)} of the published pipeline, or take"
        f" them from a folder that has them: {called('config_from', 'FOLDER')}{alike}"
    )
    configs = {folder: config for folder, config in derived.items() if config is not None}
    for folder, config in configs.items():
        for key, advice in parts[folder].untold.items():
            if key not in config.said:
                planning.note(f"{folder}/{_CONFIG}: no tensor tells {key}; {advice}")
    return [
        as_file(stated(pipeline, parts)),
        *(SideFile(f"{folder}/{_CONFIG}", _text(config.said)) for folder, config in configs.items()),
    ]


def pair_files(
    models: Mapping[str, Mapping[str, tuple[int, ...]]], source: Folder | File, say: Callable[[str], None]
) -> list[SideFile]:
    """Small files of a folder of two models that take turns: the index, where they are a pipeline's.

    Args:
        models: names and shapes of the tensors in each subfolder.
        source: what they came from, whose own index holds if it has one.
        say: called with what there is to say.
    """
    theirs = None if isinstance(source, File) or not source.at(INDEX).exists() else source.at(INDEX)
    if theirs is not None and set(models) <= set(said := read_json(theirs)):
        say(f"{INDEX}: that of the source; what it names beside {', '.join(models)} is to be put there, too")
        return [SideFile(INDEX, f"{json.dumps(said, indent=2)}\n".encode())]
    pipeline = known_pipeline(models)
    if pipeline is None:
        return []
    absent = [f"{folder}/" for folder in (*pipeline.parts, *pipeline.beside) if folder not in models]
    say(f"{INDEX}: a {pipeline.name}; to load it, add {', '.join(absent)} of the published pipeline")
    return [as_file(stated(pipeline, pipeline.parts))]


def _derived(stored: Sequence[Stored], part: Part) -> _Config | None:
    """The configuration that belongs to tensors; None where they do not tell it; codes have other shapes."""
    family = catalog.detect([one.name for one in stored])
    if family is None or not _plain(stored):
        return None
    shapes = {one.name: one.spec.shape for one in stored}
    rules = (family.spellings[family.spelling].config, part.config)
    own, of_pipeline = (None if rule is None else rule(shapes) for rule in rules)
    if rules == (None, None) or (own, of_pipeline).count(None) != rules.count(None):
        return None
    constants = family.constants
    sizes = {
        key: value
        for key, value in (own or {}).items()
        if key not in constants and isinstance(value, int) and not isinstance(value, bool)
    }
    return _Config({**(own or {}), **(of_pipeline or {})}, sizes)


def _plain(stored: Sequence[Stored]) -> bool:
    """Whether tensors are weights as a class holds them, in whatever dtype, and none is quantized."""
    dtypes = {one.spec.dtype.name for one in stored}
    if any(one.role != "values" for one in stored) or not dtypes <= {*_PLAIN, *_BARE}:
        return False
    return not dtypes & {*_BARE} or not any(_SCALE.search(one.name) for one in stored)


def _text(config: Mapping[str, object]) -> bytes:
    return f"{json.dumps(config, indent=2, sort_keys=True)}\n".encode()


def _taken(
    pipeline: Pipeline, derived: Mapping[str, _Config | None], path: str, planning: Planning
) -> list[SideFile]:
    """The files of another folder of the pipeline, but its weights."""
    place = locate(path)
    if isinstance(place, File) or not place.at(INDEX).exists():
        raise PlanError(f"config_from: {path} is no folder with a {INDEX}", hint="name that of a pipeline")
    theirs = read_json(place.at(INDEX))
    files: list[SideFile] = []
    index: dict[str, object] = {k: said for k, said in theirs.items() if not isinstance(said, list)}
    ours = stated(pipeline, derived)
    for name, said in theirs.items():
        if not isinstance(said, list):
            continue
        inner = place.inner(name)
        small = [] if inner is None else _small(inner)
        if name in derived:
            if said != ours[name]:
                raise PlanError(
                    f"config_from: {path} has {' '.join(map(str, said))} as {name}, where these tensors are"
                    f" those of {' '.join(map(str, ours[name]))}",
                    hint="name a folder of this pipeline",
                )
            _check(name, derived[name], inner, path)
            index[name] = said
        elif inner is not None and len(small) == len(inner.files()):
            index[name] = said
        else:
            if said != [None, None]:
                planning.warn(f"{INDEX}: {name} is left out, as its weights are not in the source")
            index[name], small = [None, None], []
        files += [SideFile(f"{name}/{file.name}", located(file.url)) for file in small]
    if absent := [name for name in derived if name not in index]:
        raise PlanError(
            f"config_from: {path} has no {', '.join(absent)}", hint="name a folder of this pipeline"
        )
    planning.note(f"{INDEX}: a {index.get('_class_name')}, with {len(files)} small files of {path}")
    return [as_file(index), *files]


def _check(name: str, derived: _Config | None, inner: Folder | None, path: str) -> None:
    """Refuse the configuration of a model of other sizes."""
    if inner is None or not inner.exists(_CONFIG):
        raise PlanError(f"config_from: {path} has no {name}/{_CONFIG}", hint="name a complete folder")
    said = read_json(inner.at(_CONFIG))
    for key, value in ({} if derived is None else derived.sizes).items():
        if said.get(key) is not None and said[key] != value:  # null stands for another key's value
            raise PlanError(
                f"config_from: {path} says {key} = {said[key]} of {name}, its tensors say {value}",
                hint="name a folder of the same model",
            )


def _small(folder: Folder) -> list[File]:
    return [
        file for file in folder.files() if file.suffix not in _WEIGHTS and not file.name.endswith(_INDEXES)
    ]
