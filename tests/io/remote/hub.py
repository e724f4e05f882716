"""A stand-in for the hub: what its API answers of one repository, as its documentation has it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler

from .server import Site


@dataclass
class StandIn:
    """One repository of models; where its large files lie, ``/cdn/DIGEST``, tokens are not to come.

    Attributes:
        repo: ``org/name``.
        files: by path.
        token: that is asked for; None where all may read.
        commit: of ``main``.
        also: another one that it has.
        lasts: how often an address that it redirects to is answered.
    """

    repo: str
    files: dict[str, bytes]
    token: str | None = None
    commit: str = "1a2b3c4d5e" * 4
    also: str = ""
    lasts: int | None = None
    asked: list[str] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)

    def of(self, path: str) -> dict[str, object]:
        data = self.files[path]
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data)}
        entry["oid"] = sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if path.endswith((".safetensors", ".gguf")):
            entry["lfs"] = {"oid": sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def on(self, site: Site) -> None:
        """Answer on a server; its large files are among those of the server."""
        site.answer = lambda handler, path: self._answer(site, handler, path)
        for path, data in self.files.items():
            if "lfs" in self.of(path):
                site.files[f"/cdn/{sha256(data).hexdigest()}"] = data

    def _answer(self, site: Site, handler: BaseHTTPRequestHandler, path: str) -> bool:
        if path.startswith("/cdn/"):
            assert "Authorization" not in handler.headers, "a token went to where the hub redirects"
            signature = handler.path.partition("?")[2]
            self.used[signature] = self.used.get(signature, 0) + 1
            if self.lasts is not None and self.used[signature] > self.lasts:
                return self._send(handler, 403, None)
            return False
        self.asked.append(path)
        if self.token is not None and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return self._send(handler, 401, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
        api = f"/api/models/{self.repo}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{self.commit}"):
            return self._send(handler, 200, {"id": self.repo, "sha": self.commit, "siblings": [], "tags": []})
        if path.startswith(f"{api}/revision/"):
            return self._send(handler, 404, {"error": "x"}, {"X-Error-Code": "RevisionNotFound"})
        if path == f"{api}/tree/{self.commit}":
            return self._send(handler, 200, [self.of(name) for name in self.files])
        _, _, after = path.partition(f"/{self.repo}/resolve/")
        commit, _, name = after.partition("/")
        if commit in (self.commit, self.also) and name in self.files:
            facts = self.of(name)
            headers = {"X-Repo-Commit": commit}
            if "lfs" not in facts:
                site.files[path] = self.files[name]
                return False
            digest = sha256(self.files[name]).hexdigest()
            other = site.url.replace("127.0.0.1", "localhost")
            headers |= {
                "X-Linked-Size": str(facts["size"]),
                "X-Linked-Etag": f'"{digest}"',
                "Location": f"{other}/cdn/{digest}?Signature={len(self.asked)}",
            }
            return self._send(handler, 302, None, headers)
        return self._send(handler, 404, {"error": "x"}, {"X-Error-Code": "RepoNotFound"})

    @staticmethod
    def _send(
        handler: BaseHTTPRequestHandler, status: int, body: object, headers: dict[str, str] | None = None
    ) -> bool:
        content = b"" if body is None else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        return True
