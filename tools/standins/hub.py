"""A stand-in for the hub: what its API answers of one repository, as its documentation has it."""

from __future__ import annotations

import json
from base64 import b64decode
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
        part: bytes of the parts in which large files come.
        parts, stored: what came so, by digest; whole files by digest.
        commits: how many were made.
        broken: no part is taken.
    """

    repo: str
    files: dict[str, bytes]
    token: str | None = None
    commit: str = "1a2b3c4d5e" * 4
    also: str = ""
    lasts: int | None = None
    asked: list[str] = field(default_factory=list)
    site: Site | None = None
    used: dict[str, int] = field(default_factory=dict)
    part: int = 100_000
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0
    broken: bool = False

    def of(self, path: str) -> dict[str, object]:
        data = self.files[path]
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data)}
        entry["oid"] = sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if path.endswith((".safetensors", ".gguf")):
            entry["lfs"] = {"oid": sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def on(self, site: Site) -> None:
        """Answer on a server; its large files are among those of the server."""
        self.site = site
        site.answer = lambda handler, path: self._answer(site, handler, path)
        for path, data in self.files.items():
            if "lfs" in self.of(path):
                site.files[f"/cdn/{sha256(data).hexdigest()}"] = data

    def _write(self, site: Site, handler: BaseHTTPRequestHandler, path: str) -> bool:
        """What is sent: how a file is to come, the parts of a large one, and the commit."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.asked.append(f"{handler.command} {path}")
        if path.startswith("/store/"):
            _, _, digest, number = path.split("/")
            assert "Authorization" not in handler.headers
            if self.broken:
                return self._send(handler, 403, {"error": "no"})
            self.parts.setdefault(digest, {})[int(number)] = body
            return self._send(handler, 200, None, {"ETag": f'"{number}"'})
        if path.startswith("/done/"):
            digest = path.removeprefix("/done/")
            whole = b"".join(part for _, part in sorted(self.parts[digest].items()))
            assert sha256(whole).hexdigest() == digest
            self.stored[digest] = whole
            return self._send(handler, 200, {})
        if handler.headers.get("Authorization") != f"Bearer {self.token}":
            return self._send(handler, 401, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
        asked: dict[str, list[dict[str, object]]] = {} if "/commit/" in path else json.loads(body)
        if path.endswith("/info/lfs/objects/batch"):
            objects = [self._upload(site, one) for one in asked["objects"]]
            return self._send(handler, 200, {"transfer": "multipart", "objects": objects})
        if "/preupload/" in path:
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs"
                    if str(one["path"]).endswith((".safetensors", ".gguf"))
                    else "regular",
                    "shouldIgnore": False,
                }
                for one in asked["files"]
            ]
            return self._send(handler, 200, {"files": modes})
        if path == f"/api/models/{self.repo}/commit/main":
            return self._commit(handler, [json.loads(line) for line in body.splitlines()])
        return False

    def _upload(self, site: Site, one: dict[str, object]) -> dict[str, object]:
        digest, size = str(one["oid"]), int(str(one["size"]))
        count = -(-size // self.part)
        where = {str(n + 1): f"{site.url}/store/{digest}/{n + 1}?Signature=1" for n in range(count)}
        header = {"chunk_size": str(self.part), **where}
        return {**one, "actions": {"upload": {"href": f"{site.url}/done/{digest}", "header": header}}}

    def _commit(self, handler: BaseHTTPRequestHandler, lines: list[dict[str, dict[str, str]]]) -> bool:
        if lines[0]["value"].get("parentCommit") != self.commit:
            return self._send(handler, 412, {"error": "A commit has happened since."})
        for line in lines[1:]:
            value = line["value"]
            large = str(line["key"]) == "lfsFile"
            content = self.stored[value["oid"]] if large else b64decode(value["content"])
            self.files[value["path"]] = content
        self.commits += 1
        self.commit = f"{self.commits:040}"
        assert self.site is not None
        self.on(self.site)
        return self._send(
            handler,
            200,
            {
                "commitUrl": f"https://huggingface.co/{self.repo}/commit/{self.commit}",
                "commitOid": self.commit,
            },
        )

    def _answer(self, site: Site, handler: BaseHTTPRequestHandler, path: str) -> bool:
        if handler.command in ("POST", "PUT"):
            return self._write(site, handler, path)
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
