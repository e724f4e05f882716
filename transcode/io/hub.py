"""Repositories of the Hugging Face hub in its local cache: found there, never downloaded.

The layout is that of huggingface_hub (``constants.py``, ``file_download.py``, ``utils/_shared_blobs.py``)::

    CACHE/models--ORG--NAME/refs/main                  a commit, as text
    CACHE/models--ORG--NAME/snapshots/COMMIT/x         a link to ../../blobs/ETAG, or the file itself
    CACHE/models--ORG--NAME/blobs/ETAG[.*.incomplete]  bytes, or what a download has so far
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from ..core.paths import expanded, home, unsigned
from ..errors import FormatError

__all__ = [
    "Repository",
    "Snapshot",
    "cache",
    "explaining",
    "find",
    "is_explicit",
    "looks_like_id",
    "parse",
    "recorded",
    "repository_of",
]

PREFIX = "hf:"

# validate_repo_id of huggingface_hub (utils/_validators.py); the revision as HfFileSystem has it.
_PART = r"[A-Za-z0-9_](?:[\w\-.]{0,94}[A-Za-z0-9_])?"
# Compiled when a name asks for them: most paths are of files that are there.
_ID = (
    rf"(?P<repo>{_PART}(?:/{_PART})?)(?:@(?P<revision>refs/(?:convert|pr)/[^/@]+|[^/@]+))?(?:/(?P<inner>.*))?"
)
_BARE = rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>refs/(?:convert|pr)/[^/@]+|[^/@]+))?(?:/(?P<inner>.*))?"
_LONGEST = 200
_MOST = 100_000
"""Names of a snapshot that are looked at."""
_SHORT = 7
"""Digits of a commit, where people read it."""


def cache() -> Path:
    """Where huggingface_hub keeps repositories, by the environment variables that it reads."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(variable):
            return expanded(os.path.expandvars(os.environ[variable])) / below
    own = os.environ.get("XDG_CACHE_HOME")
    above = expanded(own) if own else (home() or Path(".")) / ".cache"
    return above / "huggingface" / "hub"


class Repository(NamedTuple):
    """A name on the hub, as a user gave it.

    Attributes:
        repo: ``org/name``; few old ones have no ``org/``.
        revision: a branch, a tag or a commit, which may be shortened; None for ``main``.
        inner: the file or folder in it; empty for all of it.
    """

    repo: str
    revision: str | None = None
    inner: str = ""

    @property
    def folder(self) -> Path:
        """Its folder in the cache, which need not exist."""
        return cache() / f"models--{self.repo.replace('/', '--')}"

    @property
    def download(self) -> str:
        """The command that brings it into the cache."""
        more = f" --revision {self.revision}" if self.revision is not None else ""
        return f"hf download {self.repo}{more}"

    def commits(self) -> list[str]:
        """The revisions of which the cache has a snapshot, sorted."""
        return sorted(path.name for path in (self.folder / "snapshots").glob("*") if path.is_dir())

    def reference(self, name: str) -> str | None:
        """The commit that the cache knows a branch or a tag by."""
        if any(part in ("", ".", "..") for part in name.split("/")):
            return None
        path = self.folder / "refs" / name
        if not path.is_file():  # opening a pipe would wait for whoever writes into it
            return None
        try:
            with open(path, encoding="ascii") as file:
                commit = file.read(_LONGEST).strip()
        except (OSError, ValueError):
            return None
        return commit if re.fullmatch(r"\w+", commit) else None

    def commit(self) -> str:
        """The commit whose snapshot is meant.

        Raises:
            FormatError: the cache has none, or several and none of them is ``main``.
        """
        commits = self.commits()
        if not self.folder.is_dir() or not commits:
            raise self.error(f"is not in the hub cache {cache()}", f"download it first: {self.download}")
        wanted = "main" if self.revision is None else self.revision
        commit = self.reference(wanted)
        if commit is not None and commit in commits:
            return commit
        there = ", ".join(self._described(commits))
        if commit is not None:
            raise self.error(
                f"has no files of {wanted} ({commit[:_SHORT]}) in the hub cache, only of {there}",
                f"{self.download}, or name hf:{self.repo}@REVISION",
            )
        if self.revision is None:
            if len(commits) == 1:
                return commits[0]
            raise self.error(
                f"has {len(commits)} revisions in the hub cache, and none of them is main: {there}",
                f"say which: hf:{self.repo}@{commits[0][:_SHORT]}",
            )
        begun = [one for one in commits if one.startswith(wanted)] if len(wanted) >= 4 else []
        if wanted in commits or len(begun) == 1:
            return wanted if wanted in commits else begun[0]
        raise self.error(f"has no revision {wanted} in the hub cache, only {there}", self.download)

    def _described(self, commits: list[str]) -> Iterator[str]:
        refs = self.folder / "refs"
        names: dict[str, list[str]] = {}
        for path in sorted(refs.rglob("*")):
            name = path.relative_to(refs).as_posix()
            if path.is_file() and (commit := self.reference(name)) is not None:
                names.setdefault(commit, []).append(name)
        for commit in commits:
            known = names.get(commit)
            yield f"{commit[:_SHORT]} ({', '.join(known)})" if known else commit[:_SHORT]

    def error(self, what: str, hint: str) -> FormatError:
        """An error that names it as a user would."""
        revision = f"@{self.revision}" if self.revision is not None else ""
        return FormatError(what, file=f"{PREFIX}{self.repo}{revision}", hint=hint)


class Snapshot(NamedTuple):
    """A repository, or something in it, where it lies in the cache.

    Attributes:
        path: the file or folder.
        repository: what was asked for.
        commit: the revision that it is of.
    """

    path: Path
    repository: Repository
    commit: str

    @property
    def name(self) -> str:
        """What it is, on every machine: ``org/name@1a2b3c4`` or ``org/name@1a2b3c4/file``."""
        inner = f"/{self.repository.inner}" if self.repository.inner else ""
        return f"{self.repository.repo}@{self.commit[:_SHORT]}{inner}"

    @property
    def note(self) -> str:
        """What a user should know of how it was found."""
        wanted = self.repository.revision or "main"
        is_named = self.repository.reference(wanted) == self.commit
        of = f" ({wanted})" if is_named else ""
        return f"reads {self.repository.repo} from the hub cache, revision {self.commit[:_SHORT]}{of}"

    def unfinished(self) -> int:
        """How many downloads into the repository's cache were begun and not ended."""
        return sum(1 for _ in (self.repository.folder / "blobs").glob("*.incomplete"))

    def explain(self, error: FormatError) -> FormatError:
        """The error, with what to do about it where it may be that the download was cut short."""
        if not (count := self.unfinished()):
            return error
        files = "1 file is" if count == 1 else f"{count} files are"
        return type(error)(
            error.what,
            file=error.file,
            tensor=error.tensor,
            hint=f"{files} not wholly downloaded (.incomplete): {self.repository.download}",
        )


def parse(text: str) -> Repository | None:
    """The repository that a text names, ``hf:org/name@revision/inner``; None where it is no such name.

    Without ``hf:`` it may be a path just as well: ``org/name`` and what goes on so.
    """
    explicit = is_explicit(text)
    if explicit and os.sep == "\\":
        text = text.replace("\\", "/")
    match = re.fullmatch(*((_ID, text[len(PREFIX) :]) if explicit else (_BARE, text)), re.ASCII)
    if match is None:
        return None
    repo, inner = match["repo"], (match["inner"] or "").rstrip("/")
    if "--" in repo or ".." in repo or ".." in inner.split("/"):
        return None
    return Repository(repo, match["revision"], inner)


def is_explicit(text: str) -> bool:
    """Whether a text says that it is a name on the hub; ``hf://`` is a URL."""
    return text.startswith(PREFIX) and not text.startswith(f"{PREFIX}/")


def looks_like_id(text: str) -> bool:
    """Whether a text that is no path can only be meant as ``org/name``."""
    repository = parse(text)
    first = text.split("/", 1)[0]
    return repository is not None and not repository.inner and not os.path.isdir(first)


def find(path: str | PathLike[str]) -> Snapshot | None:
    """What a path names in the hub's cache; None where it names a local file or folder, or nothing at all.

    What exists under its own name is never looked for in the cache.

    Raises:
        FormatError: it is said to be a name on the hub (``hf:``) and is none, or is not in the cache, or not
            whole there, or it is not clear which revision is meant.
    """
    text = os.fspath(path)
    if os.path.lexists(text):
        return None
    repository = parse(text)
    explicit = is_explicit(text)
    if repository is None:
        if explicit:
            raise FormatError(
                "is no name on the hub",
                file=text,
                hint="write hf:org/name or hf:org/name@revision",
            )
        return None
    if not explicit and not repository.folder.is_dir():
        return None
    commit = repository.commit()
    snapshot = Snapshot(repository.folder / "snapshots" / commit / repository.inner, repository, commit)
    if not os.path.lexists(snapshot.path):
        raise snapshot.explain(
            repository.error(
                f"has no {repository.inner} in the hub cache, revision {commit[:_SHORT]}",
                f"{repository.download}",
            )
        )
    _refuse_lost(snapshot)
    return snapshot


@contextmanager
def explaining(path: str | PathLike[str]) -> Iterator[Snapshot | None]:
    """:func:`find`; and errors of the block say if the download of what was found was cut short."""
    snapshot = find(path)
    try:
        yield snapshot
    except FormatError as error:
        if snapshot is None:
            raise
        raise snapshot.explain(error) from None


def recorded(path: str) -> str:
    """What the record of an output says of a file that went into it: no folder of this machine."""
    snapshot = find(path)
    return Path(unsigned(path)).name if snapshot is None else snapshot.name


def _refuse_lost(snapshot: Snapshot) -> None:
    """Files of a snapshot are links; their bytes go when somebody cleans up, or never came."""
    below = snapshot.path.rglob("*") if snapshot.path.is_dir() else iter((snapshot.path,))
    for path in islice(below, _MOST):
        if path.is_symlink() and not path.exists():
            root = snapshot.repository.folder / "snapshots" / snapshot.commit
            raise snapshot.repository.error(
                f"is not whole in the hub cache: {path.relative_to(root).as_posix()} is a link to no bytes",
                snapshot.repository.download,
            )


def repository_of(url: str) -> Repository | None:
    """The repository that the address of a page or a file on the hub names."""
    match = re.match(
        r"(?:hf:/{1,2}|https?:/{1,2}(?:www\.)?(?:huggingface\.co|hf\.co)/)(?:models/)?(?P<rest>.+)", url, re.I
    )
    if match is None:
        return None
    rest = re.sub(r"[?#].*", "", match["rest"]).rstrip("/")
    page = re.fullmatch(rf"({_PART}/{_PART})/(?:tree|blob|resolve|raw)/([^/]+)(?:/(.*))?", rest)
    if page is not None:
        return Repository(page[1], None if page[2] == "main" else page[2], page[3] or "")
    return parse(rest)
