"""The errors that transcode raises for a user's mistakes, and the exit code each one means."""

from __future__ import annotations

import re
from os import PathLike

from .voice import Voice, spoken

__all__ = [
    "DataError",
    "FormatError",
    "Interrupted",
    "NoWeights",
    "PlanError",
    "RecipeError",
    "TranscodeError",
    "unsigned",
]


def unsigned(text: str) -> str:
    """A text without what would let somebody in: URLs in it have no query and no password left."""
    if ":/" not in text:
        return text
    text = re.sub(r"([A-Za-z][A-Za-z\d+.-]+):/{1,2}[^/\s?#@]*:[^/\s?#@]*@", r"\1://", text)
    return re.sub(r"([A-Za-z][A-Za-z\d+.-]+:/{1,2}[^\s?#\"'<>]*)[?#][^\s\"'<>)]*", r"\1", text)


class TranscodeError(Exception):
    """Something the user can act on, told in one line: ``file: tensor: what, value; what to do``.

    Its texts name options as whoever called knows them (:mod:`.voice`): Python callers read of
    ``force=True``, the command line's users of ``--force``.

    Args:
        what: what is wrong, with the offending value.
        file: the file (or folder) it concerns.
        tensor: the tensor it concerns.
        hint: what to do about it.
    """

    exit_code = 2
    voices: tuple[Voice, ...] | None = None
    """To whom it speaks; None: to whoever reads it."""

    def __init__(
        self,
        what: str,
        *,
        file: str | PathLike[str] | None = None,
        tensor: str | None = None,
        hint: str | None = None,
    ) -> None:
        self._what = what
        self.file = None if file is None else unsigned(str(file))
        self.tensor = tensor
        self._hint = hint
        super().__init__(str(self))

    @property
    def what(self) -> str:
        """What is wrong, with the offending value."""
        return unsigned(spoken(self._what, self.voices))

    @property
    def hint(self) -> str | None:
        """What to do about it."""
        return None if self._hint is None else unsigned(spoken(self._hint, self.voices))

    def advise(self, more: str) -> None:
        """Add to what to do about it."""
        self._hint = more if self._hint is None else f"{self._hint}; {more}"
        self.args = (str(self),)

    def found_in(self, *names: str) -> None:
        """Say which of several models' tensors of one name it is about: the name that ends in that one."""
        for name in names:
            if self.tensor is not None and name.endswith(f"/{self.tensor}"):
                self.tensor = name
                self.args = (str(self),)
                return

    def __str__(self) -> str:
        where = [part for part in (self.file, self.tensor) if part is not None]
        message = ": ".join([*where, self.what]) + (f"; {self.hint}" if self._hint else "")
        return message.replace("\n", "\\n").replace("\r", "\\r")  # names from files may hold them


class FormatError(TranscodeError):
    """A file does not hold what its format demands: a bad header, a truncated file, a wrong index."""


class NoWeights(FormatError):
    """There is a folder, and no checkpoint in it, or several, of which none is said."""


class RecipeError(TranscodeError):
    """A recipe, a flag or a catalog file says something that cannot be meant; carries ``file:line``."""


class PlanError(TranscodeError):
    """A recipe cannot be carried out on this source: found before anything is written."""


class DataError(TranscodeError):
    """The values of a tensor cannot be converted (NaN, Inf, overflow): found while running."""


class Interrupted(TranscodeError):
    """The user stopped the run."""

    exit_code = 130
