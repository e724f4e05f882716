"""Which store a URL is in, and what of it this process has asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from ...errors import FormatError
from .. import hub
from .address import Address, parse
from .store import Store

__all__ = ["store_of"]

_STORES: dict[str, Store] = {}
_lock = threading.Lock()


def store_of(url: str) -> tuple[Store, str]:
    """The store of a URL, and its key in it. Stores live as long as the process, with what they know.

    Raises:
        FormatError: it is no place that can be read, or a package is missing.
    """
    address = parse(url)
    opened, root, key = _KINDS[address.scheme](address)
    with _lock:
        store = _STORES.get(root)
    if store is None:
        fresh = opened()
        with _lock:
            store = _STORES.setdefault(root, fresh)
    return store, key


_Opened = tuple[Callable[[], Store], str, str]
"""What makes a store, what it is known by, and the key of an address in it."""


def _web(address: Address) -> _Opened:
    from .web import Web

    root = address._replace(key="")
    return lambda: Web(root), str(root), address.key


def _bucket(address: Address) -> _Opened:
    from .buckets import Bucket

    root = address._replace(key="")
    return lambda: Bucket(root), str(root), address.key


def _hub(address: Address) -> _Opened:
    from .repository import Hub

    rest = f"{address.authority}/{address.key}".rstrip("/")
    repository = hub.parse(f"{hub.PREFIX}{rest}")
    if repository is None:
        raise FormatError(
            "is no name on the hub", file=str(address), hint="write hf://org/name or hf://org/name@revision"
        )
    whole = repository._replace(inner="")
    return lambda: Hub(whole), f"hf://{whole.repo}@{whole.revision}", repository.inner


_KINDS: Mapping[str, Callable[[Address], _Opened]] = {
    "https": _web,
    "http": _web,
    "hf": _hub,
    "s3": _bucket,
    "gs": _bucket,
    "az": _bucket,
    "memory": _bucket,
}
