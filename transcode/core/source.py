"""What a flow starts from: tensors, the files that hold them, and what lies beside these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from .records import dataclass
from .tensor import LazyTensor

__all__ = ["Input", "Source", "SourceFile", "Twin", "Whose"]


@dataclass(frozen=True)
class Whose:
    """What a user says of how a source is quantized, where it leaves several possible.

    Attributes:
        convention: whose names and layouts it has; None to find it.
        scheme: the scheme; None to find it.
    """

    convention: str | None = None
    scheme: str | None = None

    def __bool__(self) -> bool:
        return self.convention is not None or self.scheme is not None


class Input(Protocol):
    """A file that a run reads, as it was when it was opened."""

    @property
    def url(self) -> str:
        """Where it is, as messages name it."""

    @property
    def path(self) -> Path | None:
        """The local file; None where there is none."""

    @property
    def size(self) -> int:
        """Bytes of it."""

    @property
    def identity(self) -> tuple[int | str, ...]:
        """By what it is known to be the same."""

    def verify(self) -> None:
        """Raise FormatError if it is not what it was."""


class SourceFile(Protocol):
    """One weight file of a source."""

    @property
    def path(self) -> Path:
        """Where it is."""


class Source(Protocol):
    """What a flow starts from."""

    @property
    def path(self) -> Path:
        """What the user named."""

    @property
    def tensors(self) -> Sequence[LazyTensor]:
        """All tensors, in the order in which their bytes are best read."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The source's own metadata."""

    @property
    def files(self) -> Sequence[SourceFile]:
        """The weight files."""

    @property
    def inputs(self) -> Sequence[Input]:
        """The weight files, as they were when they were opened."""

    @property
    def side_files(self) -> Sequence[Path]:
        """Small files beside the weights that belong to the model: config, tokenizer..."""

    @property
    def stem(self) -> str:
        """What the names of the weight files begin with."""

    @property
    def notes(self) -> Sequence[str]:
        """Remarks on how the source was read."""

    @property
    def twins(self) -> Sequence[Twin]:
        """The two models that it is of, where these take turns; none where it is one."""


@dataclass(frozen=True, slots=True)
class Twin:
    """One of two models of one architecture that take turns, such as Wan 2.2's.

    Attributes:
        noise: which steps it takes, ``high`` or ``low``.
        name: its folder, or the stem of its file.
        source: the model.
    """

    noise: str
    name: str
    source: Source
