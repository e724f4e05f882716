"""DeepCompressor's checkpoint folder as one source (``deepcompressor/app/diffusion/ptq.py``).

``model.pt`` holds the weights as they are after fake quantization, smoothed and without what the low-rank
branch takes; ``scale.pt`` their scales; ``smooth.pt`` (optional) smoothing factors by module, and flags;
``branch.pt`` (optional) the low-rank branches by module. Weights keep their names; all else is named after
its file, as in ``scale.pt/blocks.0.attn.to_q.weight.scale.0``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ..core.dtypes import DTYPES
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.tensor import LazyTensor, Piece, plain
from ..errors import FormatError
from ..io.local import MappedFile
from .source import Source, SourceFile

__all__ = ["BRANCH", "MODEL", "SCALE", "SMOOTH", "is_checkpoint", "open_checkpoint"]

MODEL, SCALE, SMOOTH, BRANCH = "model.pt", "scale.pt", "smooth.pt", "branch.pt"
"""The files of the folder."""


def is_checkpoint(path: str | PathLike[str]) -> bool:
    """Whether a path is a folder with the two files that every such checkpoint has."""
    return all((Path(path) / name).is_file() for name in (MODEL, SCALE))


def open_checkpoint(path: str | PathLike[str], *, mmap: bool = True, drop_cache: bool = False) -> Source:
    """Open the folder: no tensor is read.

    Raises:
        FormatError: a file is missing or damaged.
    """
    from .torch.pickle import read_pickle, read_tensors

    folder = Path(path)
    for name in (MODEL, SCALE):
        if not (folder / name).is_file():
            raise FormatError(
                "is missing", file=folder / name, hint="point at the folder that DeepCompressor saved to"
            )
    try:
        model = MappedFile(folder / MODEL, mmap=mmap, drop_cache=drop_cache)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=folder / MODEL) from None
    weights, _, notes = read_tensors(model)
    tensors = list(weights)
    files = [SourceFile(model.path, model.size, len(weights), {})]
    for name in (SCALE, SMOOTH, BRANCH):
        file = folder / name
        if not file.is_file():
            notes.append(f"{name} is not there, which it need not be")
            continue
        value = read_pickle(file, mmap=mmap, drop_cache=drop_cache)
        if not isinstance(value, Mapping):
            raise FormatError(f"holds a {type(value).__name__}, not a dict", file=file)
        found = list(_leaves(f"{name}/", value, file))
        tensors += found
        files.append(SourceFile(file, file.stat().st_size, len(found), {}))
    return Source(folder, tuple(files), tuple(tensors), {}, (), folder.name, tuple(notes), (model,))


def _leaves(prefix: str, value: Mapping[Any, Any], file: Path) -> Iterator[LazyTensor]:
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
    import numpy as np  # every opening of a source looks whether it is such a folder

    spec = Spec(DTYPES["BOOL" if isinstance(value, bool) else "F64"], ())
    data = np.array([value], spec.dtype.carrier)

    def read(start: int, stop: int, scratch: Scratch) -> Iterator[Piece]:
        yield Piece("values", 0, data[start:stop])

    return plain(name, spec, read)
