"""URLs, where a local path is asked for."""

from __future__ import annotations

import os
import re
from os import PathLike

from ..core.paths import unsigned
from ..errors import FormatError, PlanError

__all__ = ["instead", "refuse_output", "refuse_url", "remote", "remote_url", "written_out"]

# A path object has only one slash left of the two, and one letter is a drive of Windows.
_URL = r"(?i)[a-z][a-z\d+.-]+:/"
_WRITTEN = "s3://, gs://, az:// and hf://"
_READ = "https://, hf://, s3://, gs:// and az://"
_STORE = r"(?i)(hf|s3|gs|gcs|az|abfss?|wasbs?|oss|cos|obs|r2|ms|modelscope|huggingface|file):"


def refuse_url(path: str | PathLike[str], *, stdin: str = "standard input cannot be read here") -> None:
    """Refuse a path to read that is a URL or standard input, and no file or folder of that name either.

    Args:
        stdin: why not ``-``.

    Raises:
        FormatError: with what to do.
    """
    text = os.fspath(path)
    if os.path.lexists(text):
        return
    if text == "-":
        raise FormatError(stdin, file=text, hint="name a file or a folder")
    if remote(text):
        from . import hub  # most paths are no names on it

        if hub.is_explicit(text):
            return
        raise FormatError(
            "is a URL, and a local file or folder is needed here"
            if remote_url(text)
            else "is a URL of a kind that is not read",
            file=unsigned(written_out(text)),
            hint=instead(text)
            or f"{'' if remote_url(text) else f'{_READ} are; else '}download it, and name the file or folder",
        )


def refuse_output(
    path: str | PathLike[str], *, stdout: str, hint: str = "name a file", elsewhere: bool = False
) -> None:
    """Refuse a path to write that is a URL, a name on the hub or standard output.

    Args:
        stdout: why not ``-``.
        hint: what to write instead of it.
        elsewhere: URLs of kinds that are written pass.

    Raises:
        PlanError: with what to do.
    """
    text = os.fspath(path)
    if text == "-":
        raise PlanError(stdout, file=text, hint=hint)
    if not remote(text) or os.path.lexists(text) or (elsewhere and remote_url(text) is not None):
        return
    from . import hub

    known = hub.parse(text) if text.startswith(hub.PREFIX) else None
    what, instead_of_it = "is a URL", "write to a local path, and upload what appears there"
    if known is not None:
        what = "is a name on the hub"
        if elsewhere:
            instead_of_it = f"to the hub itself: hf://{text[len(hub.PREFIX) :]}; or {instead_of_it}"
    elif elsewhere:
        instead_of_it = f"{_WRITTEN} are written; or {instead_of_it}"
    raise PlanError(
        f"{what}, and only local files and folders are written"
        if not elsewhere or known
        else f"{what} of a kind that is not written",
        file=unsigned(written_out(text)),
        hint=(instead(text) if text.lower().startswith("file:") else None) or instead_of_it,
    )


def remote_url(path: str | PathLike[str]) -> str | None:
    """The text of a path that is a URL of a kind that is read, and no file or folder; None for all else."""
    text = os.fspath(path)
    if ":/" not in text or os.path.lexists(text):
        return None
    from .remote.address import is_remote  # most paths are none

    return text if is_remote(text) else None


def remote(text: str) -> bool:
    """Whether a text is a URL, or ``hf:org/name`` and the like, and not a path."""
    return ":" in text and (re.match(_URL, text) or re.match(_STORE, text)) is not None


def written_out(text: str) -> str:
    """A URL with both slashes, of which a path object has left one."""
    return re.sub(r"^([A-Za-z][A-Za-z\d+.-]+):/(?!/)", r"\1://", text)


def instead(text: str) -> str | None:
    """What to do about a URL that names a local file, or a model of the hub; None for all others."""
    if text.lower().startswith("file:"):
        return f"write the path, /{text[5:].lstrip('/')}"
    from . import hub

    repository = hub.repository_of(text)
    if repository is None:
        return None
    revision = f"@{repository.revision}" if repository.revision is not None else ""
    inner = f"/{repository.inner}" if repository.inner else ""
    name = f"{repository.repo}{revision}{inner}"
    return f"write hf://{name}, or hf:{name} after {repository.download}"
