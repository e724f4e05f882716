"""DeepCompressor's checkpoint folder as one source (``deepcompressor/app/diffusion/ptq.py``).

``model.pt`` holds the weights as they are after fake quantization, smoothed and without what the low-rank
branch takes; ``scale.pt`` their scales; ``smooth.pt`` (optional) smoothing factors by module, and flags;
``branch.pt`` (optional) the low-rank branches by module. Weights keep their names; all else is named after
its file, as in ``scale.pt/blocks.0.attn.to_q.weight.scale.0``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from os import PathLike

from ...core.dtypes import DTYPES
from ...core.expr import Constant
from ...core.paths import located
from ...core.spec import Spec
from ...core.tensor import LazyTensor, plain
from ...errors import FormatError
from ...io.bytes import Bytes
from ...io.folder import File, Folder
from ...io.named import locate
from ..checkpoint import Source, SourceFile
from ..torch.pickle import read_object, read_tensors
from .names import BRANCH, MODEL, SCALE, SMOOTH

__all__ = ["open_checkpoint", "open_folder"]


def open_checkpoint(path: str | PathLike[str], *, mmap: bool = True, drop_cache: bool = False) -> Source:
    """Open such a folder of the local file system: no tensor is read.

    Raises:
        FormatError: a file is missing or damaged.
    """
    place = locate(path)
    if isinstance(place, File):
        raise FormatError(
            "is a file, not a folder", file=place.url, hint="point at the folder that DeepCompressor saved to"
        )
    return open_folder(place, mmap=mmap, drop_cache=drop_cache)


def open_folder(folder: Folder, *, mmap: bool = True, drop_cache: bool = False) -> Source:
    """As :func:`open_checkpoint`, of a folder wherever it lies."""

    def open_file(name: str) -> Bytes:
        try:
            return folder.open(name, mmap=mmap, drop_cache=drop_cache)
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror}", file=folder.at(name).url) from None

    for name in (MODEL, SCALE):
        if folder.size(name) is None:
            raise FormatError(
                "is missing",
                file=folder.at(name).url,
                hint="point at the folder that DeepCompressor saved to",
            )
    model = open_file(MODEL)
    weights, _, notes = read_tensors(model)
    tensors = list(weights)
    files = [SourceFile(located(model.url), model.size, len(weights), {})]
    inputs = [model]
    for name in (SCALE, SMOOTH, BRANCH):
        if folder.size(name) is None:
            notes.append(f"{name} is not there, which it need not be")
            continue
        file = open_file(name)
        value = read_object(file)
        if not isinstance(value, Mapping):
            raise FormatError(f"holds a {type(value).__name__}, not a dict", file=file.url)
        leaves = list(_leaves(f"{name}/", value, file.url))
        tensors += leaves
        files.append(SourceFile(located(file.url), file.size, len(leaves), {}))
        inputs.append(file)
    path = located(folder.url)
    return Source(path, tuple(files), tuple(tensors), {}, (), path.name, tuple(notes), tuple(inputs))


def _leaves(prefix: str, value: Mapping[object, object], file: str) -> Iterator[LazyTensor]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _leaves(f"{name}.", item, file)
        elif isinstance(item, LazyTensor):
            yield item.evolve(name=name, source=name)
        elif isinstance(item, (bool, float)):
            yield _scalar(name, item)
        elif item is not None:
            raise FormatError(
                f"is a {type(item).__name__}, neither a tensor nor a flag", file=file, tensor=name
            )


def _scalar(name: str, value: bool | float) -> LazyTensor:
    """A flag or a number as a tensor of one element."""
    if isinstance(value, bool):
        spec, data = Spec(DTYPES["BOOL"], ()), bytes([value])
    else:
        spec, data = Spec(DTYPES["F64"], ()), struct.pack("<d", value)
    return plain(name, spec, Constant(spec, data))
