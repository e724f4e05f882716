"""Objects of S3, Google Cloud Storage, Azure and their like, read by obstore.

Which account, endpoint and region, obstore takes from the environment and from where a machine runs:
``AWS_*``, ``GOOGLE_*``, ``AZURE_*``. Nothing of that is looked at here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from ...core.paths import unsigned
from ...errors import FormatError
from .address import Address
from .store import HEAD, Changed, Facts, Fault, Listing, missing

__all__ = ["Bucket", "connected"]

_PIECE = 1 << 20

_MEMORY: dict[str, Any] = {}
_ONCE = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}


def connected(address: Address, *, patient: bool = False) -> Any:
    """The store of obstore that a bucket is in.

    Args:
        patient: obstore tries again by itself.

    Raises:
        FormatError: obstore is not installed, or refuses the name.
    """
    url = f"{address.scheme}://{address.authority}"
    try:
        from obstore import exceptions, store
    except ImportError:
        raise missing("obstore", "remote", address.scheme, url) from None
    if address.scheme == "memory":
        return _MEMORY.setdefault(address.authority, store.MemoryStore())
    # Attempts are counted here: of how often it tried, obstore says nothing.
    how: dict[str, Any] = {
        "client_options": {"connect_timeout": "10s", "timeout": "600s", "allow_http": _allows_http()},
        "retry_config": {"max_retries": 8, "retry_timeout": timedelta(minutes=5)} if patient else _ONCE,
    }
    kinds: Mapping[str, Callable[..., Any]] = {
        "s3": store.S3Store,
        "gs": store.GCSStore,
        "az": store.AzureStore,
    }
    try:
        return kinds[address.scheme](address.authority, **how)
    except exceptions.BaseError as error:
        raise FormatError(f"obstore refuses it: {words(error)}", file=url) from None


def _allows_http() -> bool:
    """Whether the environment says so in obstore's way, which options of a client would hide from it."""
    names = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in names)


class Bucket:
    """A bucket (Azure: a container), by the names of its objects."""

    def __init__(self, root: Address) -> None:
        self._root = root
        self._store = connected(root)

    def facts(self, key: str, *, head: int = HEAD) -> Facts | None:
        """See :class:`.store.Store`. The first bytes come along."""
        import obstore

        with self._told(key):
            try:
                answer = obstore.get(self._store, key, options={"range": (0, head)})
                facts = _facts(answer.meta)
                return Facts(facts.size, facts.tag, bytes(answer.bytes()))
            except FileNotFoundError:
                return None
            except obstore.exceptions.GenericError:
                # An object without bytes has no range; for all else this fails in the same way.
                facts = _facts(obstore.head(self._store, key))
                if facts.size:
                    raise
                return facts

    def listing(self, key: str) -> Listing:
        """See :class:`.store.Store`."""
        import obstore

        with self._told(key):
            listed = obstore.list_with_delimiter(self._store, key.rstrip("/") or None)
        files = {item["path"].rpartition("/")[2]: _facts(item) for item in listed["objects"]}
        return Listing(
            files, tuple(path.rstrip("/").rpartition("/")[2] for path in listed["common_prefixes"])
        )

    def stream(self, key: str, begin: int, end: int, facts: Facts) -> Generator[bytes, None, None]:
        """See :class:`.store.Store`."""
        import obstore

        options: Any = {"range": (begin, end)}
        if facts.tag.startswith('"'):
            options["if_match"] = facts.tag
        with self._told(key):
            try:
                answer = obstore.get(self._store, key, options=options)
                now = _facts(answer.meta)
            except obstore.exceptions.PreconditionError:
                raise Changed("its ETag is no longer what it was") from None
            except FileNotFoundError:
                raise Changed("it is not there any more") from None
            if (now.size, now.tag) != (facts.size, facts.tag):
                raise Changed(f"it has {now.size} bytes and the tag {now.tag}")
            if tuple(answer.range) != (begin, end):
                raise Fault(f"asked for bytes {begin} to {end}, the store sends {tuple(answer.range)}")
            for piece in answer.stream(min_chunk_size=_PIECE):
                yield memoryview(piece)  # type: ignore[misc]  # as good as bytes to who copies it

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """The errors of obstore, in the words of :mod:`.store`."""
        from obstore import exceptions

        url = str(self._root._replace(key=key))
        try:
            yield
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise FormatError(
                f"cannot be read: {words(error)}",
                file=url,
                hint="obstore takes credentials from the environment: AWS_*, GOOGLE_*, AZURE_*",
            ) from None
        except FileNotFoundError:
            raise FormatError("no such bucket or object", file=url) from None
        except (exceptions.GenericError, OSError) as error:
            said = words(error)
            status = re.search(r"status code: (\d{3})", said)
            if status is not None and status[1].startswith("4") and status[1] not in ("408", "429"):
                raise FormatError(f"cannot be read: {said}", file=url) from None
            raise Fault(said) from None
        except exceptions.BaseError as error:
            raise FormatError(f"cannot be read: {words(error)}", file=url) from None


def words(error: BaseException) -> str:
    """The first line of what obstore says, without what may be a signature."""
    return unsigned(str(error).partition("\n")[0])[:300]


def _facts(item: Mapping[str, Any]) -> Facts:
    tag = item.get("e_tag") or item.get("version") or item["last_modified"].isoformat()
    return Facts(item["size"], tag)
