"""A web server of this machine for tests: ranges, and faults when they are asked for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Seen:
    """A request, and the bytes of its answer's body."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0
    status: int = 0


@dataclass
class Site:
    """What a server has and does.

    Attributes:
        files: by path, without query.
        fault: called with the number of a request; says what goes wrong: ``cut`` (half way),
            ``empty``, ``429``, ``500``, ``slow``, ``wrong range``, ``other tag``, ``whole``; or None.
        tags: by path, where they are not the digest.
        seen: what was asked.
    """

    files: dict[str, bytes]
    fault: Callable[[int], str | None] = lambda number: None
    tags: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    after: str | None = "0"
    queries: dict[str, str] = field(default_factory=dict)
    answer: Callable[[BaseHTTPRequestHandler, str], bool] = lambda handler, path: False

    @property
    def sent(self) -> int:
        """Bytes of all bodies."""
        return sum(one.sent for one in self.seen)

    def tag(self, path: str) -> str:
        return self.tags.get(path) or f'"{sha256(self.files[path]).hexdigest()[:16]}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    site: Site
    lock = threading.Lock()

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        if not self.site.answer(self, self.path.partition("?")[0]):
            self._error(404, Seen(self.command, self.path, {}))

    do_PUT = do_DELETE = do_POST

    def do_GET(self) -> None:
        site = self.site
        path, _, query = self.path.partition("?")
        with self.lock:
            number = len(site.seen)
            seen = Seen(self.command, self.path, dict(self.headers))
            site.seen.append(seen)
        if site.answer(self, path):
            return
        fault = site.fault(number)
        if fault in ("429", "500", "503"):
            self._error(int(fault), seen)
            return
        if path not in site.files or query != site.queries.get(path, query):
            self._error(404 if path not in site.files else 403, seen)
            return
        data = site.files[path]
        tag = '"another"' if fault == "other tag" else site.tag(path)
        if self.headers.get("If-Match", tag) != tag:
            self._error(412, seen)
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        begin, end = (int(match[1]), min(int(match[2]) + 1, len(data))) if match else (0, len(data))
        if match and begin >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "wrong range":
            begin, end = (begin + 1, end) if end - begin > 1 else (begin, min(end + 1, len(data)))
        partial = match is not None and fault != "whole"
        if fault == "whole":
            begin, end = 0, len(data)
        seen.status = 206 if partial else 200
        self.send_response(seen.status)
        self.send_header("ETag", tag)
        self.send_header("Accept-Ranges", "bytes")
        if partial:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = memoryview(data)[begin:end]
        if fault == "cut":
            body = body[: len(body) // 2]
        if fault == "empty":
            body = body[:0]
        if fault == "slow":
            time.sleep(0.3)
        try:
            for at in range(0, len(body), 1 << 16):
                piece = body[at : at + (1 << 16)]
                seen.sent += len(piece)  # before: who reads the last piece may ask for the sum at once
                self.wfile.write(piece)
        except OSError:
            seen.sent -= len(piece)
            self.close_connection = True
        if fault in ("cut", "empty"):
            self.close_connection = True

    def _error(self, status: int, seen: Seen) -> None:
        seen.status = status
        self.send_response(status)
        if status == 429 and self.site.after is not None:
            self.send_header("Retry-After", self.site.after)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # of five connections at a time the sixth would wait for a second

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away in the middle: that is no news."""


@contextmanager
def serving(files: dict[str, bytes], **how: object) -> Iterator[Site]:
    """A server of this machine, as long as the block lasts."""
    site = Site(files, **how)  # type: ignore[arg-type]
    handler = type("Handler", (_Handler,), {"site": site, "lock": threading.Lock()})
    server = _Server(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
