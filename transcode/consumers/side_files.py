"""The small files beside the weights: config, tokenizer and others of the source, and the index.

A row of steps, each of which lets them tell one thing that changed: of which class the model is, how its
tensors are quantized, which dtype they have.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .. import catalog
from ..core import small_json
from ..core.flow import Flow
from ..core.output import PlannedFile, SideFile
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.tensor import LazyTensor
from ..errors import PlanError
from . import torchao
from .config import dtype
from .config.dialect import Statement
from .config.stated import CONFIG, KEY, Json, malformed, read_json, statements, without_statements
from .stored import stored_quantized

__all__ = ["index", "note_config", "side_files"]


def side_files(
    flow: Flow, tensors: Sequence[LazyTensor], taken: set[str], planning: Planning
) -> list[SideFile]:
    """Those of the source that still say the truth of the output.

    Where the architecture was spelled anew, its configuration is derived anew too: that of the source belongs
    to another class. Where tensors are quantized, config.json says so in the words of the convention's
    consumer; where they are no longer, it does not.

    Args:
        tensors: those of the output.
        taken: names of the weight files.
    """
    files = {
        path.name: SideFile(path.name, path) for path in flow.source.side_files if path.name not in taken
    }
    folder = _Folder(files, flow, tensors, planning)
    for step in (_put_beside, _derive_config, _state_quantization, _state_dtype):
        step(folder)
    return list(folder.files.values())


def note_config(tensors: Sequence[LazyTensor], convention: catalog.Convention, planning: Planning) -> None:
    """Say what the consumer will miss where no side files are written."""
    if convention.config is not None and any(tensor.scheme is not None for tensor in tensors):
        planning.note(
            f"{convention.name}: loaders need a {CONFIG} with the {KEY} of these tensors; it is written with"
            " the other side files, into a folder"
        )


@dataclass
class _Folder:
    """What will stand beside the weights, so far, and what it must be true of."""

    files: dict[str, SideFile]
    flow: Flow
    tensors: Sequence[LazyTensor]
    planning: Planning

    def json(self, name: str) -> Json | None:
        """The content of a file; None where it is missing or no JSON object."""
        if (side := self.files.get(name)) is None:
            return None
        if isinstance(side.content, Path):
            return read_json(side.content)
        return small_json.object_or_none(side.content)

    def put(self, name: str, content: Json) -> None:
        """Write a file, with the indent that its own writers use."""
        text = small_json.spell(content, indent=2 if name == CONFIG else 4)
        self.files[name] = SideFile(name, f"{text}\n".encode())

    @property
    def convention(self) -> catalog.Convention | None:
        """The one that is written."""
        name = self.planning.convention
        return None if name is None else catalog.convention(name)


def _put_beside(folder: _Folder) -> None:
    """What stages write beside the weights."""
    for name, content in folder.planning.beside.items():
        folder.files[name] = SideFile(name, content)


def _derive_config(folder: _Folder) -> None:
    """The configuration of the class that a new spelling of the names belongs to, if no stage wrote one."""
    if folder.planning.beside or not any(step.respells for step in folder.flow.steps):
        return
    source = folder.json(CONFIG)
    own = folder.files.pop(CONFIG, None)
    shapes = _shapes(folder)
    family = catalog.detect(list(shapes))
    derived = None if family is None else family.config(shapes, source)
    if derived is None:
        theirs = "the source has none" if own is None else "that of the source is another program's"
        why = f"{theirs}, and tensors do not tell all of it: put that of the published model beside them"
        folder.planning.warn(f"no {CONFIG} is written: {why}")
    elif own is not None and derived == source:
        folder.files[CONFIG] = own
    else:
        text = json.dumps(derived, indent=2, sort_keys=True)
        folder.files[CONFIG] = SideFile(CONFIG, f"{text}\n".encode())


def _shapes(folder: _Folder) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of the output; of those that are stored quantized as they came, their own, not
    those of their codes, of which two may be in a byte. None where that is not certain.
    """
    shapes = {tensor.name: tensor.spec.shape for tensor in folder.tensors}
    stored = stored_quantized(folder.tensors)
    if stored.tensors:
        from .recognise import decipher  # most runs do without

        before = folder.planning.metadata
        now = {key: text for key, text in {**before, **folder.planning.replaced}.items() if text is not None}
        planning = replace(
            folder.planning, metadata={**torchao.without(now), **torchao.listing(folder.tensors, before)}
        )
        try:
            _, readings = decipher(folder.tensors, planning, stored=stored)
        except PlanError:  # nothing that only renames asks; of FP8 every reading has the shapes of the codes
            dtypes = {tensor.name: tensor.spec.dtype.name for tensor in folder.tensors}
            return shapes if all(dtypes[one].startswith("F8") for one in stored.tensors) else {}
        for codes, reading in readings.items():
            shapes.pop(codes)
            shapes[reading.name] = reading.spec.shape
    return shapes


def _state_quantization(folder: _Folder) -> None:
    """Put ``quantization_config`` into config.json, take it out, or let it say what is left."""
    planning, convention = folder.planning, folder.convention
    config = folder.json(CONFIG)
    if config is None and CONFIG in folder.files:
        planning.warn(f"{CONFIG} is no JSON object: it goes along as it is")
    method = None if convention is None else convention.config
    if method is not None and convention is not None:
        from .config import table

        statement = table.state(folder.tensors, method, planning)
        if statement is not None:
            _replace_statement(folder, config, statement, convention)
            return
    if config is not None and (fault := malformed(config)) is not None:
        planning.warn(f"{CONFIG}: {fault}: loaders refuse it; it goes along as it is")
    if planning.respelled:
        config = _respell_statement(folder, config)
    if not planning.decoded:
        return
    from .config import table  # all dialects: most runs do without

    stated = config is not None and bool(statements(config))
    if stated or any(name in folder.files for name in table.BESIDE):
        if planning.coded:
            _list_decoded(folder, config)
        else:
            _remove_statement(folder, config)


def _respell_statement(folder: _Folder, config: Json | None) -> Json | None:
    """Let what the source says of modules speak of their new names; returns config.json."""
    from .config import table
    from .config.respelled import respelled

    changed = copy.deepcopy(config)
    stated = [] if changed is None else statements(changed)
    beside = {name: content for name in table.BESIDE if (content := folder.json(name)) is not None}
    left: dict[str, None] = {}
    for modules in folder.planning.respelled:
        for holder, key in stated:
            holder[key], patterns = respelled(holder[key], modules)
            left |= dict.fromkeys(patterns)
        for name in beside:
            beside[name], patterns = respelled(beside[name], modules)
            left |= dict.fromkeys(patterns)
    for name, content in beside.items():
        if content != folder.json(name):
            folder.put(name, content)
    if changed is not None and changed != config:
        folder.put(CONFIG, changed)
    if left:
        folder.planning.warn(
            f"{CONFIG}: {KEY} speaks of {', '.join([*left][:4])}, which fits names that have changed: left as"
            " it is"
        )
    return changed


def _replace_statement(
    folder: _Folder, config: Json | None, statement: Statement, convention: catalog.Convention
) -> None:
    """Say how the output is quantized, instead of how the source was."""
    from .config import table

    planning = folder.planning
    if config is None:
        if CONFIG not in folder.files:
            planning.note(f"no {CONFIG} is written: loaders need one with the {KEY} of these tensors")
        return
    if (beyond := table.beyond_codes(config)) is not None:
        raise PlanError(
            f"{CONFIG} says {beyond}, without which its tensors are not those of the model",
            hint="take a source without it, or take it out if it is not true",
        )
    if (statements(config) or malformed(config)) and not planning.decoded:
        planning.warn(f"{CONFIG}: {KEY} of the source is replaced")
    config = {**without_statements(config), **statement.keys, KEY: statement.config}
    if (decoded_to := dtype.decoded_to(folder.tensors, convention)) is not None:
        config = _with_dtype(config, dtype.TORCH_NAMES[decoded_to], planning)
    folder.put(CONFIG, config)
    for name in table.BESIDE:
        folder.files.pop(name, None)
    for name, content in statement.files.items():
        folder.put(name, content)


def _with_dtype(config: Json, wanted: str, planning: Planning) -> Json:
    """The configuration with the dtype to which the consumer decodes, whatever the model had."""
    keys = [key for key in dtype.DTYPE_KEYS if key in config] or [dtype.DTYPE_KEYS[-1]]
    if any(config.get(key) != wanted for key in keys):
        before = config.get(keys[0], "not said")
        planning.note(
            f"{CONFIG}: {keys[0]} is {wanted}, to which its tensors are decoded, instead of {before}"
        )
    return dtype.with_dtype(config, wanted)


def _list_decoded(folder: _Folder, config: Json | None) -> None:
    """Name the decoded layers as those that are not quantized."""
    from .config import table

    planning = folder.planning
    decoded = [tensor.name for tensor in folder.tensors if tensor.source in planning.decoded]
    coded = [tensor.name for tensor in folder.tensors if tensor.source in planning.coded]
    if config is not None and statements(config):
        folder.put(CONFIG, table.leave_out(config, decoded, coded))
    for name in table.BESIDE:
        if (beside := folder.json(name)) is not None:
            folder.put(name, table.leave_out_beside(name, beside, decoded, coded))
    planning.note(f"{CONFIG}: {KEY} lists the decoded layers as not quantized")


def _remove_statement(folder: _Folder, config: Json | None) -> None:
    """Say nothing of how tensors are quantized: none is any longer as the source said."""
    from .config import table

    for name in table.BESIDE:
        folder.files.pop(name, None)
    if config is not None:
        folder.put(CONFIG, without_statements(config))
    now = "stored otherwise" if any(tensor.scheme is not None for tensor in folder.tensors) else "decoded"
    folder.planning.note(f"{CONFIG}: {KEY} of the source is left out, its tensors are {now}")


def _state_dtype(folder: _Folder) -> None:
    """Let ``dtype`` (``torch_dtype``) of config.json be that of the weights, where they changed theirs.

    That is where all float matrices that are not quantized have one dtype. A config that says none stays so.
    """
    if not any(step.retypes for step in folder.flow.steps):
        return
    if folder.convention is not None and dtype.decoded_to(folder.tensors, folder.convention) is not None:
        return  # that dtype is said already, whatever the weights that are kept have
    config, name = folder.json(CONFIG), dtype.dtype_of_weights(folder.tensors)
    if config is None or name is None:
        return
    if (changed := dtype.with_own_dtype(config, name)) is not None:
        folder.put(CONFIG, changed)


def index(
    files: Sequence[PlannedFile], layout: str, stem: str, convention: catalog.Convention
) -> list[SideFile]:
    """The index that the consumer expects beside several files."""
    name = convention.index_name(layout, stem=stem)
    if name is None or len(files) == 1:
        return []
    weight_map = {place.name: file.name for file in files for place in file.places}
    if convention.files.total_size == "files":
        total = sum(file.size for file in files)
    else:
        total = sum(place.spec.nbytes for file in files for place in file.places)
    text = json.dumps(
        {"metadata": {"total_size": total}, "weight_map": weight_map},
        indent=2,
        sort_keys=convention.files.sort_keys,
    )
    return [SideFile(name, f"{text}\n".encode())]
