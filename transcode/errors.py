"""The errors that transcode raises for a user's mistakes, and the exit code each one means."""

from __future__ import annotations

from os import PathLike

__all__ = ["DataError", "FormatError", "Interrupted", "PlanError", "RecipeError", "TranscodeError"]


class TranscodeError(Exception):
    """Something the user can act on, told in one line: ``file: tensor: what, value; what to do``.

    Args:
        what: what is wrong, with the offending value.
        file: the file (or folder) it concerns.
        tensor: the tensor it concerns.
        hint: what to do about it.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        file: str | PathLike[str] | None = None,
        tensor: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.file = None if file is None else str(file)
        self.tensor = tensor
        self.hint = hint
        where = [part for part in (self.file, tensor) if part is not None]
        told = ": ".join([*where, what]) + (f"; {hint}" if hint else "")
        super().__init__(told.replace("\n", "\\n").replace("\r", "\\r"))  # names from files may hold them


class FormatError(TranscodeError):
    """A file does not hold what its format demands: a bad header, a truncated file, a wrong index."""


class RecipeError(TranscodeError):
    """A recipe, a flag or a catalog file says something that cannot be meant; carries ``file:line``."""


class PlanError(TranscodeError):
    """A recipe cannot be carried out on this source: found before anything is written."""


class DataError(TranscodeError):
    """The values of a tensor cannot be converted (NaN, Inf, overflow): found while running."""


class Interrupted(TranscodeError):
    """The user stopped the run."""

    exit_code = 130
