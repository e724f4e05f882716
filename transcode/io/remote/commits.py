"""Files of a repository on the hub, written by huggingface_hub: all of them in one commit.

What the hub stores beside git it knows by its SHA-256, and takes it as a whole: so each file is in memory as
a whole before it is sent, and files must be small for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ...core.paths import unsigned
from ...errors import FormatError, TranscodeError
from .. import hub
from .address import Address
from .repository import of_network
from .store import missing

__all__ = ["Commits"]


class Commits:
    """A folder of a repository.

    Args:
        prefix: of it.
    """

    ordered = False
    copies = 2

    def __init__(self, prefix: Address) -> None:
        name = f"{prefix.authority}/{prefix.key}".rstrip("/")
        repository = hub.parse(f"{hub.PREFIX}{name}")
        if repository is None or "/" not in repository.repo:
            raise FormatError("is no name on the hub", file=str(prefix), hint="write hf://org/name")
        self._prefix = prefix
        self._repository = repository
        self._operations: list[Any] = []
        self._parent: str | None = None
        try:
            from huggingface_hub import HfApi
        except ImportError:
            raise missing("huggingface_hub", "hub", "hf", str(prefix)) from None
        self._api: Any = HfApi(library_name="transcode")

    def part(self, size: int) -> int:
        """All of it."""
        return max(size, 1)

    def existing(self) -> set[str]:
        """See :class:`.target.Target`. What is written later goes onto the commit of which this tells."""
        repository = self._repository
        with self._told("cannot be listed"):
            info = self._api.repo_info(repository.repo, revision=repository.revision)
            self._parent = info.sha
            tree = list(self._api.list_repo_tree(repository.repo, revision=info.sha, recursive=True))
        return _below((one.path for one in tree if hasattr(one, "size")), repository.inner)

    def unfinished(self) -> int:
        """See :class:`.target.Target`: what no commit names the hub shows to nobody."""
        return 0

    def begin(self, name: str, size: int) -> _File:
        """See :class:`.target.Target`."""
        return _File(self, name)

    def put(self, name: str, content: bytes) -> None:
        """See :class:`.target.Target`."""
        self._operations.append(self._add(name, content))

    def send(self, name: str, content: bytes) -> None:
        """Have the hub store a file, which appears with the commit."""
        operation = self._add(name, content)
        with self._told("cannot be sent"):
            self._api.preupload_lfs_files(
                self._repository.repo, [operation], revision=self._repository.revision, num_threads=1
            )
        self._operations.append(operation)

    def _add(self, name: str, content: bytes) -> Any:
        from huggingface_hub import CommitOperationAdd

        path = f"{self._repository.inner}/{name}".lstrip("/")
        return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)

    def commit(self) -> None:
        """Have all files appear, if nobody has changed the branch since it was listed."""
        with self._told("cannot be committed"):
            self._api.create_commit(
                self._repository.repo,
                self._operations,
                commit_message="Written by transcode",
                revision=self._repository.revision,
                parent_commit=self._parent,
            )

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """The errors of huggingface_hub as ours."""
        from huggingface_hub import errors

        url = str(self._prefix)
        try:
            yield
        except errors.RepositoryNotFoundError:
            raise FormatError(
                f"is not on the hub ({self._api.endpoint}), or not for this account",
                file=url,
                hint=f"create it: hf repo create {self._repository.repo}; or log in: hf auth login",
            ) from None
        except errors.RevisionNotFoundError:
            raise FormatError("has no such branch on the hub", file=url) from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            raise TranscodeError(
                f"{what}: the hub answers {status}: {unsigned(str(error.server_message or ''))}".rstrip(": "),
                file=url,
                hint="has somebody changed the branch meanwhile?" if status in (409, 412) else None,
            ) from None
        except TranscodeError:
            raise
        except Exception as error:
            if not of_network(error) and not isinstance(error, RuntimeError | ValueError):
                raise
            cause = f": {error.__cause__}" if error.__cause__ is not None else ""
            said = unsigned(f"{error}{cause}").partition("\n")[0]
            raise TranscodeError(f"{what}: {said}", file=url) from None


class _File:
    def __init__(self, commits: Commits, name: str) -> None:
        self._commits = commits
        self._name = name

    def send(self, number: int, data: bytearray) -> None:
        self._commits.send(self._name, bytes(data))

    def place(self) -> None:
        """It appears with the commit."""

    def drop(self) -> None:
        """What no commit names the hub removes by itself."""


def _below(names: Iterable[str], prefix: str) -> set[str]:
    """Of keys those right below a prefix, without it."""
    start = f"{prefix.rstrip('/')}/".lstrip("/")
    return {name[len(start) :] for name in names if name.startswith(start) and "/" not in name[len(start) :]}
