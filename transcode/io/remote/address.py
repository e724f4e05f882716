"""Where objects lie: URLs taken apart, and what of them may be shown.

Signatures stand in the query of a URL, passwords before its host. Neither is ever part of a value, a message
or a file: the query is kept in this process alone, beside the URL without it, and passwords are refused.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from ...core.paths import unsigned
from ...errors import FormatError

__all__ = ["SCHEMES", "Address", "is_remote", "parse", "query_of"]

SCHEMES = ("https", "http", "hf", "s3", "gs", "az", "memory")
"""Those of URLs that are read. ``memory`` is obstore's store within the process, which tests fill."""

# A path object has only one slash left of the two.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z\d+.-]+):/{1,2}(?P<authority>[^/?#]*)(?P<rest>[^?#]*)(?P<more>.*)"
)

_QUERIES: dict[str, str] = {}


class Address(NamedTuple):
    """A place.

    Attributes:
        scheme: one of :data:`SCHEMES`.
        authority: host and port, or the bucket, or the first part of a name on the hub.
        key: what lies there, without a slash at its beginning; one at its end means a folder.
    """

    scheme: str
    authority: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rstrip("/").rpartition("/")[2]

    @property
    def above(self) -> Address:
        """The folder that it lies in."""
        return self._replace(key=self.key.rstrip("/").rpartition("/")[0])

    def below(self, name: str) -> Address:
        """Something in the folder that it is."""
        return self._replace(key=f"{self.key.rstrip('/')}/{name}".lstrip("/"))


def is_remote(text: str) -> bool:
    """Whether a text is a URL of a kind that is read."""
    match = _URL.match(text)
    return match is not None and match["scheme"].lower() in SCHEMES


def parse(text: str) -> Address:
    """The place that a URL names; its query is kept for :func:`query_of`.

    Raises:
        FormatError: it holds a password, names no host, or is not encrypted.
    """
    match = _URL.fullmatch(text)
    assert match is not None, "is_remote said so"
    scheme, authority, query = match["scheme"].lower(), match["authority"], match["more"]
    web = scheme in ("http", "https")
    if "@" in authority and scheme != "hf":
        raise FormatError(
            "a password in a URL ends up in histories and logs",
            file=unsigned(text),
            hint="put it into ~/.netrc" if web else "give it to the store's library",
        )
    if not authority:
        raise FormatError("names no host" if web else "names no bucket", file=unsigned(text))
    if web and not _is_host(authority):
        raise FormatError(f"names {authority!r}, which is no host and port", file=unsigned(text))
    if scheme == "http" and not _is_loopback(authority):
        raise FormatError("is not encrypted", file=unsigned(text), hint="write https://")
    address = Address(scheme, authority, match["rest"].lstrip("/"))
    query = query.partition("#")[0].removeprefix("?")
    if query:
        if not web:
            raise FormatError("has a query, which only https:// has", file=unsigned(text))
        _QUERIES[str(address)] = query
    return address


def query_of(address: Address) -> str:
    """The query that came with a URL in this process, with its question mark; empty where none did."""
    query = _QUERIES.get(str(address))
    return f"?{query}" if query else ""


def _is_host(authority: str) -> bool:
    try:
        parts = urlsplit(f"//{authority}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port out of range, half of a bracket
        return False


def _is_loopback(authority: str) -> bool:
    host = re.sub(r":\d+$", "", authority).strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
