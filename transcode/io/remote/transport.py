"""HTTP as objects are read with it: kept connections, redirections, proxies, and answers in the words of
:mod:`.store`.
"""

from __future__ import annotations

import base64
import http.client
import netrc
import os
import socket
import ssl
import threading
import urllib.request
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from ...core.paths import unsigned
from ...errors import FormatError
from .address import Address, is_remote, parse
from .store import Fault

__all__ = ["TIMEOUT", "Answer", "authorization", "request", "waiting"]

TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""

_MOST_HOPS = 6
_KEPT = 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524})
_BROKEN = (http.client.HTTPException, OSError)

_Origin = tuple[str, str, int]
_idle: dict[_Origin, deque[http.client.HTTPConnection]] = {}
_lock = threading.Lock()


class Answer:
    """An answer whose body is still to come; a context manager, which keeps the connection if it is whole.

    Attributes:
        status: as HTTP has it.
        headers: of it.
        hops: the headers of the answers that redirected to it.
        url: of which it is the answer.
    """

    def __init__(
        self,
        origin: _Origin,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        url: str,
    ) -> None:
        self._origin = origin
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = response.headers
        self.hops: list[http.client.HTTPMessage] = []
        self.url = url

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._response.isclosed() and not self._response.will_close:
            with _lock:
                kept = _idle.setdefault(self._origin, deque(maxlen=_KEPT))
                kept.append(self._connection)
        else:
            self._connection.close()

    def read(self, size: int) -> bytes:
        """Up to so many bytes of the body; none at its end.

        Raises:
            Fault: the connection broke, or nothing came for long.
        """
        try:
            return self._response.read(size)
        except _BROKEN as error:
            raise Fault(_words(error)) from None

    def refuse(self, url: str) -> None:
        """Raise what an answer means that is none of those that were hoped for."""
        what = f"{self.status} {self._response.reason}".rstrip()
        if self.status in _AGAIN:
            raise Fault(f"the server answers {what}", waiting(self.headers.get("Retry-After")))
        hint = None
        if self.status in (401, 403):
            hint = "is it public, or does ~/.netrc know its host? signatures of URLs end after some time"
        raise FormatError(f"cannot be read: the server answers {what}", file=url, hint=hint)


def request(method: str, url: str, headers: Mapping[str, str]) -> Answer:
    """Ask, and follow redirections. What authorizes goes to no other host.

    Raises:
        Fault: no connection, or no answer.
        FormatError: it redirects in a circle, or to what is not encrypted.
    """
    hops: list[http.client.HTTPMessage] = []
    sent = dict(headers)
    for _ in range(_MOST_HOPS):
        answer = _once(method, url, sent)
        where = answer.headers.get("Location")
        if answer.status not in _REDIRECTS or where is None:
            answer.hops = hops
            return answer
        hops.append(answer.headers)
        with answer:
            while answer.read(1 << 16):
                pass
        target = urljoin(url, where)
        if not is_remote(target) or not target.lower().startswith("http"):
            raise FormatError(f"leads to {unsigned(target)}, which is no https://", file=unsigned(url))
        _check_target(target)
        if urlsplit(target)[:2] != urlsplit(url)[:2]:
            sent = {name: value for name, value in sent.items() if name.lower() != "authorization"}
        url = target
    raise FormatError(f"is redirected more than {_MOST_HOPS} times", file=unsigned(url))


def authorization(address: Address) -> dict[str, str]:
    """The header by which ``~/.netrc`` (``$NETRC``) lets in to a host, if it does."""
    host = urlsplit(f"//{address.authority}").hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return {}
    if known is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{known[0]}:{known[2]}".encode()).decode()}


def _check_target(url: str) -> None:
    """Refuse what is not encrypted. The query of a target is not kept: it is asked for anew each time."""
    parse(url.partition("?")[0])


def _once(method: str, url: str, headers: Mapping[str, str]) -> Answer:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    origin = parts.scheme, parts.hostname or "", parts.port or (443 if secure else 80)
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    sent = {"Host": parts.netloc, "User-Agent": "transcode", "Accept-Encoding": "identity", **headers}
    while True:
        with _lock:
            kept = _idle.get(origin)
            connection = kept.pop() if kept else None
        fresh = connection is None
        try:
            if connection is None:
                connection = _connect(origin)
            connection.request(method, target, headers=sent)
            return Answer(origin, connection, connection.getresponse(), url)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise Fault("nobody knows its host just now") from None
            raise FormatError("its host is not known", file=unsigned(url)) from None
        except _BROKEN as error:
            if connection is not None:
                connection.close()
            if fresh:  # else the server has closed what was kept, and a new one may do
                raise Fault(_words(error)) from None


def _connect(origin: _Origin) -> http.client.HTTPConnection:
    scheme, host, port = origin
    proxy = urllib.request.getproxies().get(scheme)
    if proxy is not None and not urllib.request.proxy_bypass(host):
        via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        tunnel = _plain(scheme, via.hostname or "", via.port or 8080)
        more = {}
        if via.username is not None:
            token = base64.b64encode(f"{via.username}:{via.password or ''}".encode()).decode()
            more["Proxy-Authorization"] = f"Basic {token}"
        tunnel.set_tunnel(host, port, more)
        return tunnel
    return _plain(scheme, host, port)


def _plain(scheme: str, host: str, port: int) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=_context())
    return http.client.HTTPConnection(host, port, timeout=TIMEOUT)


_CONTEXTS: list[ssl.SSLContext] = []


def _context() -> ssl.SSLContext:
    if not _CONTEXTS:  # reading the certificates takes 20 ms
        _CONTEXTS.append(ssl.create_default_context())
    return _CONTEXTS[0]


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {TIMEOUT:.0f} seconds"
    if isinstance(error, ssl.SSLError):
        return f"no encrypted connection: {error.reason or error}"
    if isinstance(error, http.client.IncompleteRead):
        return "the stream broke off"
    return getattr(error, "strerror", None) or f"the connection broke ({type(error).__name__})"


def waiting(header: str | None) -> float | None:
    """The seconds that ``Retry-After`` asks for, as a number or as a date."""
    if header is None:
        return None
    with suppress(ValueError):
        return max(float(header), 0)
    with suppress(ValueError, TypeError):
        return max((parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds(), 0)
    return None
