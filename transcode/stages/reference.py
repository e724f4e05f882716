"""A GGUF file that the output is to be like: what its header says stands in the output's, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from ..consumers import record
from ..containers.source import open_source
from ..core.flow import Transform
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.tensor import LazyTensor
from ..core.text import count
from ..core.typed import Typed
from ..errors import FormatError
from ..voice import called

__all__ = ["ARCHITECTURE", "Heading"]

ARCHITECTURE = "general.architecture"
_FILE_TYPE = "general.file_type"
_GENERAL = (ARCHITECTURE, "general.type", "general.alignment")
_OTHERS = ("general.", "quantize.", "split.")
"""Beginnings of keys that speak of one file and of whose model it is, but for :data:`_GENERAL`."""


def _is_heading(key: str, value: str) -> bool:
    """Whether a key of a GGUF file says what its model is: architecture, sizes, vocabulary, template."""
    own = key == record.KEY or (key.startswith(_OTHERS) and key not in _GENERAL)
    return isinstance(value, Typed) and not own


@dataclass(frozen=True)
class Heading(Transform):
    """The header of another file, before any other stage asks for it.

    Args:
        path: of that file, or of a folder of its parts.
        typed: its choice of types is copied, too, and so its word for their mix.
    """

    kind: ClassVar[str] = "head"

    path: str
    typed: bool

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Open it, and let metadata be as it has it.

        What a GGUF source says of its own model goes: two headers would be mixed.

        Raises:
            FormatError: it is no GGUF file.
        """
        source = open_source(self.path)
        header = {key: value for key, value in source.metadata.items() if _is_heading(key, value)}
        if not header.get(ARCHITECTURE):
            raise FormatError(
                f"has no {ARCHITECTURE}: like takes a GGUF file of a model", file=source.path,
                hint=f"name such a file, or leave {called('like', self.path)} out",
            )  # fmt: skip
        planning.reference = source
        planning.inputs.append(source)
        gone = (key for key, value in planning.metadata.items() if _is_heading(key, value))
        planning.replaced |= {**dict.fromkeys(gone), **header}
        if self.typed and _FILE_TYPE in source.metadata:
            planning.replaced[_FILE_TYPE] = source.metadata[_FILE_TYPE]
        keys = count(len(header), "key")
        planning.note(f"like {source.path.name}: header of {header[ARCHITECTURE]}, {keys}")
        yield from tensors
