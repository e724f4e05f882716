"""Repositories of models on the hub: listed by huggingface_hub, read by ranges of what it says where to find.

A branch is what it is when the repository is first asked for: all is read of that commit. The token is
huggingface_hub's (``hf auth login``, ``HF_TOKEN``), and goes to the hub alone, not to where it redirects.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from ...errors import FormatError
from ..hub import Repository
from .store import HEAD, Changed, Facts, Fault, Listing, missing
from .transport import request, waiting
from .web import check, pieces

__all__ = ["Hub", "of_network"]

_SHORT = 7
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_ENDED = frozenset({400, 401, 403, 404, 410})
"""What a place that was redirected to answers when its signature has ended."""


def of_network(error: Exception) -> bool:
    """Whether it comes of the client that huggingface_hub uses, which has changed with its versions."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS


class Hub:
    """The files of one revision of a repository.

    Args:
        repository: what was asked for; what is in it does not matter.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._targets: dict[str, str] = {}

    @property
    def url(self) -> str:
        """The repository, as messages name it."""
        revision = "" if self._repository.revision is None else f"@{self._repository.revision}"
        return f"hf://{self._repository.repo}{revision}"

    @property
    def note(self) -> str:
        """What a user should know of which revision is read."""
        wanted = self._repository.revision or "main"
        return f"reads {self._repository.repo} from the hub, revision {self.commit[:_SHORT]} ({wanted})"

    @cached_property
    def commit(self) -> str:
        """The commit that is read.

        Raises:
            Fault, FormatError: as of :meth:`.store.Store.facts`.
        """
        with self._told():
            info = self._api.repo_info(self._repository.repo, revision=self._repository.revision)
        return str(info.sha)

    @cached_property
    def _files(self) -> dict[str, Facts]:
        """All files of the commit, by path."""
        from huggingface_hub.hf_api import RepoFile

        commit = self.commit
        with self._told():
            tree = list(self._api.list_repo_tree(self._repository.repo, revision=commit, recursive=True))
        return {
            one.path: Facts(one.size, one.blob_id if one.lfs is None else one.lfs.sha256)
            for one in tree
            if isinstance(one, RepoFile)
        }

    def facts(self, key: str, *, head: int = HEAD) -> Facts | None:
        """See :class:`.store.Store`."""
        return self._files.get(key)

    def listing(self, key: str) -> Listing:
        """See :class:`.store.Store`."""
        prefix = f"{key.rstrip('/')}/".lstrip("/")
        files: dict[str, Facts] = {}
        folders: dict[str, None] = {}
        for path, facts in self._files.items():
            if path.startswith(prefix):
                name, slash, _ = path[len(prefix) :].partition("/")
                if slash:
                    folders[name] = None
                else:
                    files[name] = facts
        return Listing(files, tuple(folders))

    def stream(self, key: str, begin: int, end: int, facts: Facts) -> Generator[bytes, None, None]:
        """See :class:`.store.Store`. Where the hub redirects to is asked again as long as it answers."""
        if self.facts(key) != Facts(facts.size, facts.tag):
            raise Changed(f"revision {self.commit[:_SHORT]} holds another file of that name")
        url = f"{self.url}/{key}"
        wanted = {"Range": f"bytes={begin}-{end - 1}"}
        if (target := self._targets.get(key)) is not None:
            with request("GET", target, wanted) as answer:
                if answer.status in _ENDED:
                    self._targets.pop(key, None)
                else:
                    check(answer, begin, end, facts, url, tagged=False)
                    yield from pieces(answer)
                    return
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        asked = hf_hub_url(self._repository.repo, key, revision=self.commit, endpoint=self._api.endpoint)
        headers = {name: value for name, value in build_hf_headers().items() if name.lower() != "user-agent"}
        with request("GET", asked, {**headers, **wanted}) as answer:
            said = answer.hops[0] if answer.hops else answer.headers
            commit, linked = said.get("X-Repo-Commit"), (said.get("X-Linked-Etag") or "").strip('"')
            if commit is not None and commit != self.commit:
                raise Changed(f"the hub answers with revision {commit[:_SHORT]}")
            if linked and linked != facts.tag:
                raise Changed("the hub names another file")
            check(answer, begin, end, facts, url, tagged=False)
            if answer.hops:
                self._targets[key] = answer.url
            yield from pieces(answer)

    @cached_property
    def _api(self) -> Any:
        try:
            from huggingface_hub import HfApi
        except ImportError:
            raise missing("huggingface_hub", "hub", "hf", self.url) from None
        return HfApi(library_name="transcode")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The errors of huggingface_hub, in the words of :mod:`.store`."""
        api = self._api
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError:
            raise FormatError(
                "is gated, and this account may not read it", file=self.url, hint="ask for access on its page"
            ) from None
        except errors.RevisionNotFoundError:
            raise FormatError("has no such revision on the hub", file=self.url) from None
        except errors.RepositoryNotFoundError:
            raise FormatError(
                f"is not on the hub ({api.endpoint}), or not for this account",
                file=self.url,
                hint="is the name right? of private repositories: hf auth login",
            ) from None
        except errors.OfflineModeIsEnabled:
            raise FormatError(
                "is not asked for: HF_HUB_OFFLINE is set",
                file=self.url,
                hint=f"from the cache it is read as hf:{self._repository.repo}",
            ) from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            what = f"the hub answers {status}"
            if status in _AGAIN:
                raise Fault(what, waiting(error.response.headers.get("Retry-After"))) from None
            raise FormatError(f"cannot be read: {what}", file=self.url) from None
        except (FormatError, Fault):
            raise
        except Exception as error:
            if not of_network(error):
                raise
            raise Fault(f"the hub cannot be reached ({type(error).__name__})") from None
