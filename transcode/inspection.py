"""What a checkpoint holds: the facts that ``transcode inspect`` prints and ``tc.inspect`` returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from .consumers import inspection
from .consumers.inspection import Logical, Quantized, missing_scales
from .containers.source import open_source
from .core import arguments
from .core.patterns import Patterns
from .core.records import dataclass
from .core.shown import Overview, Shown, Table
from .core.spec import Spec, tallied
from .core.text import count, size
from .core.uncollected import uncollected

__all__ = ["InspectedFile", "Inspection", "inspect"]


@dataclass(frozen=True, slots=True)
class InspectedFile:
    """One weight file: where it is, its bytes, and how many tensors it holds."""

    path: Path
    size: int
    tensors: int


@dataclass(frozen=True, repr=False)
class Inspection(Shown):
    """Facts of a checkpoint, from its headers.

    Attributes:
        path: what was looked at.
        family: name of the model family; None where none is recognised.
        family_title: that in words.
        files: the weight files.
        metadata: of all files; where they disagree the first one's, and a note says so.
        side_files: config, tokenizer and other small files beside them.
        notes: what a user should know of how it was read.
        tensors: dtype and shape of the chosen tensors, by name, in the order of their bytes.
        total: how many tensors there are, chosen or not.
        logical: weights with their scales, of which a part is chosen.
        kinds: what it is or holds beside, in words: ``LoRA``, ``text encoder``, ``VAE inside``.
        quantized: how; None where nothing is.
        made: the record of how it was made: ``version``, ``steps`` (kinds, with the scheme), ``digest``.
        unused: patterns that matched no tensor.
        lost: stored names of codes whose scales are missing.
        components: the models of an all-in-one file, for ``--component``, each with how many tensors it has.
    """

    path: Path
    family: str | None
    family_title: str | None
    files: tuple[InspectedFile, ...]
    metadata: Mapping[str, str]
    side_files: tuple[Path, ...]
    notes: tuple[str, ...]
    tensors: Mapping[str, Spec]
    total: int
    logical: tuple[Logical, ...]
    kinds: tuple[str, ...]
    quantized: Quantized | None
    made: Mapping[str, Any] | None
    unused: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    components: tuple[tuple[str, int], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the chosen tensors."""
        return sum(spec.nbytes * times for spec, times in tallied(self.tensors.values()))

    @property
    def dtypes(self) -> dict[str, tuple[int, int]]:
        """By name of a dtype, how many of the chosen tensors have it, and their bytes."""
        dtypes: dict[str, tuple[int, int]] = {}
        for spec, times in tallied(self.tensors.values()):
            number, nbytes = dtypes.get(spec.dtype.name, (0, 0))
            dtypes[spec.dtype.name] = (number + times, nbytes + spec.nbytes * times)
        return dtypes

    def to_json(self) -> dict[str, Any]:
        """All of it, as ``transcode inspect --json`` prints it."""
        return {
            "path": str(self.path),
            "family": self.family,
            "kinds": list(self.kinds),
            "components": dict(self.components),
            "quantized": None if self.quantized is None else self.quantized.to_json(),
            "lost_scales": list(self.lost),
            "made": None if self.made is None else dict(self.made),
            "files": [
                {"path": str(file.path), "size": file.size, "tensors": file.tensors} for file in self.files
            ],
            "metadata": dict(self.metadata),
            "side_files": [str(side) for side in self.side_files],
            "notes": list(self.notes),
            "bytes": self.nbytes,
            "tensors": [
                {"name": name, "dtype": spec.dtype.name, "shape": list(spec.shape), "nbytes": spec.nbytes}
                for name, spec in self.tensors.items()
            ],
        }

    def overview(self) -> Overview:
        """Family, sizes, dtypes, metadata."""
        held = f"{count(len(self.tensors), 'tensor')}, {size(self.nbytes)}, {count(len(self.files), 'file')}"
        dtypes = (
            f"{name} ({count(number, 'tensor')}, {size(nbytes)})"
            for name, (number, nbytes) in self.dtypes.items()
        )
        lines = [
            f"family {'unknown' if self.family is None else f'{self.family}: {self.family_title}'}",
            *([f"is {', '.join(self.kinds)}"] if self.kinds else []),
            *([f"quantized: {self.quantized}"] if self.quantized is not None else []),
            *([missing_scales(self.lost)] if self.lost else []),
            f"dtypes {', '.join(dtypes)}",
        ]
        if self.metadata:
            lines.append(f"metadata {', '.join(list(self.metadata)[:12])}")
        lines += [f"note: {note}" for note in self.notes[:3]]
        rows = (
            (name, spec.dtype, list(spec.shape), size(spec.nbytes)) for name, spec in self.tensors.items()
        )
        table = Table(("tensor", "dtype", "shape", "size"), rows, len(self.tensors), (3,))
        return Overview(f"Inspection of {self.path}: {held}", lines, (table,))


@uncollected()
def inspect(
    path: str | PathLike[str], patterns: str | Iterable[str] = (), *, root_key: str | None = None
) -> Inspection:
    """Say what a checkpoint holds: reads headers, no tensor, and needs no numpy.

    Args:
        path: anything that ``open`` takes.
        patterns: only tensors that match one of them: globs over whole name components, or ``re:...``.
        root_key: which nested dictionary of a PyTorch file holds the tensors, if it cannot be guessed.

    Raises:
        FormatError: no weights there, or damaged ones.
        RecipeError: a pattern is none.
    """
    chosen = arguments.texts("inspect: patterns", patterns)
    selector = Patterns(chosen)
    with open_source(arguments.path("inspect", path), root_key=root_key) as source:
        inspected = inspection.inspect(source)
        tensors = {
            tensor.name: tensor.spec
            for tensor in source.tensors
            if not chosen or selector.first(tensor.name) is not None
        }
    family = inspected.family
    return Inspection(
        source.path,
        None if family is None else family.name,
        None if family is None else family.title,
        tuple(InspectedFile(file.path, file.size, file.tensors) for file in source.files),
        source.metadata,
        source.side_files,
        source.notes,
        tensors,
        len(source.tensors),
        inspected.tensors
        if len(tensors) == len(source.tensors)
        else tuple(
            one for one in inspected.tensors if any(part.name in tensors for part in one.parts.values())
        ),
        inspected.kinds,
        inspected.quantized,
        inspected.made,
        tuple(selector.unused()),
        inspected.lost,
        inspected.components,
    )
