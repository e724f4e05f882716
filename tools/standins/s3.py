"""A stand-in for S3: one bucket, as the API reference of Amazon S3 has it, as far as it is used.

Objects are among the files of the server, which has ranges, tags and faults. ``tools/attacks/remote.py`` asks
moto's server the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote

from .server import Site


@dataclass
class Bucket:
    """A bucket.

    Attributes:
        name: of it.
        uploads: parts by number of uploads that have neither ended nor been dropped, by key and id.
        asked: what was asked, without reads.
        refuses: a number of a part that is not taken.
    """

    name: str = "bucket"
    uploads: dict[tuple[str, str], dict[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuses: int | None = None

    def on(self, site: Site) -> None:
        """Answer on a server."""
        self.site = site
        site.answer = lambda handler, path: self._answer(handler, path)

    def key(self, path: str) -> str:
        return unquote(path).removeprefix(f"/{self.name}/")

    @property
    def objects(self) -> dict[str, bytes]:
        """All that has appeared, by key."""
        return {self.key(path): data for path, data in self.site.files.items()}

    def _answer(self, handler: BaseHTTPRequestHandler, path: str) -> bool:
        query = parse_qs(handler.path.partition("?")[2], keep_blank_values=True)
        key = self.key(path)
        if handler.command == "GET" and "uploads" in query:
            return self._unfinished(handler, query["prefix"][0])
        if handler.command in ("GET", "HEAD"):
            return self._list(handler, query) if "list-type" in query else False
        body = _body(handler)
        self.asked.append(f"{handler.command} {key} {' '.join(sorted(query))}".strip())
        upload = key, query.get("uploadId", [""])[0]
        if handler.command == "POST" and "uploads" in query:
            number = f"upload-{len(self.asked)}"
            self.uploads[key, number] = {}
            text = f"<Bucket>{self.name}</Bucket><Key>{key}</Key><UploadId>{number}</UploadId>"
            return _send(handler, 200, "InitiateMultipartUploadResult", text)
        if handler.command == "DELETE":
            self.uploads.pop(upload, None)
            return _send(handler, 204)
        if handler.command == "PUT" and "partNumber" in query:
            part = int(query["partNumber"][0])
            if part == self.refuses:
                return _send(handler, 403, "Error", "<Code>AccessDenied</Code><Message>no</Message>")
            self.uploads[upload][part] = body
            return _send(handler, 200, tag=_tag(body))
        if handler.command == "POST":
            parts = self.uploads.pop(upload)
            named = [int(one) for one in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
            assert named == sorted(parts), (named, sorted(parts))
            assert all(len(parts[one]) >= 5 << 20 for one in named[:-1])
            self._put(path, b"".join(parts[one] for one in named))
            return _send(
                handler, 200, "CompleteMultipartUploadResult", f"<Key>{key}</Key><ETag>&quot;x&quot;</ETag>"
            )
        self._put(path, body)
        return _send(handler, 200, tag=_tag(body))

    def _put(self, path: str, data: bytes) -> None:
        self.site.files[path] = data

    def _list(self, handler: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> bool:
        prefix = query.get("prefix", [""])[0]
        below = {key: data for key, data in self.objects.items() if key.startswith(prefix)}
        names = {key: data for key, data in below.items() if "/" not in key[len(prefix) :]}
        folders = {prefix + key[len(prefix) :].partition("/")[0] + "/" for key in below if key not in names}
        items = [
            f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><ETag>{self._tag(key)}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, data in sorted(names.items())
        ]
        items += [f"<CommonPrefixes><Prefix>{one}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        return _send(handler, 200, "ListBucketResult", f"<IsTruncated>false</IsTruncated>{''.join(items)}")

    def _unfinished(self, handler: BaseHTTPRequestHandler, prefix: str) -> bool:
        items = [
            f"<Upload><Key>{key}</Key><UploadId>{number}</UploadId></Upload>"
            for key, number in self.uploads
            if key.startswith(prefix)
        ]
        text = f"<Bucket>{self.name}</Bucket><IsTruncated>false</IsTruncated>{''.join(items)}"
        return _send(handler, 200, "ListMultipartUploadsResult", text)

    def _tag(self, key: str) -> str:
        return self.site.tag(f"/{self.name}/{key}").replace('"', "&quot;")


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    """What is sent, in whichever of the ways of S3's clients."""
    if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
        raw = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    else:
        raw = b""
        while size := int(handler.rfile.readline(), 16):
            raw += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
    if "aws-chunked" not in handler.headers.get("Content-Encoding", ""):
        return raw
    data = b""
    while True:
        head, _, raw = raw.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if not size:
            return data
        data, raw = data + raw[:size], raw[size + 2 :]


def _tag(data: bytes) -> str:
    return f'"{md5(data).hexdigest()}"'


def _send(
    handler: BaseHTTPRequestHandler, status: int, name: str = "", text: str = "", tag: str | None = None
) -> bool:
    content = f'<?xml version="1.0"?><{name}>{text}</{name}>'.encode() if name else b""
    handler.send_response(status)
    if tag is not None:
        handler.send_header("ETag", tag)
    handler.send_header("Content-Type", "application/xml")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
    return True
