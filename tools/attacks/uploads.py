"""Outputs that are on their way to another place when a run ends: nothing that is seen is half of a thing."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from standins.hub import StandIn
from standins.s3 import Bucket
from standins.server import Site, serving

from .engine import Attack, Tally, command
from .scenarios import save

__all__ = ["ATTACKS"]

_PART = 5 << 20
"""The least that S3 takes."""
_TOKEN = "hf_s3cret"
_TOLD = "uploads that did not end lie there"


@dataclass
class _Moment:
    """Ends a process at a request that changes something, before it is dealt with or when it was.

    Attributes:
        at: the number of the request, from 1 on.
        before: whether nothing is done of it.
        how: the signal.
    """

    at: int
    before: bool
    how: int
    pid: int = 0
    seen: int = 0
    known: threading.Event = field(default_factory=threading.Event)

    def on(self, site: Site) -> None:
        """Watch what a server is asked."""
        answer, lock = site.answer, threading.Lock()

        def watched(handler: BaseHTTPRequestHandler, path: str) -> bool:
            if handler.command in ("GET", "HEAD"):
                return answer(handler, path)
            with lock:
                self.seen += 1
                mine = self.seen == self.at
            if mine and self.before and self._strike():
                raise ConnectionAbortedError
            done = answer(handler, path)
            if mine and not self.before:
                self._strike()
            return done

        site.answer = watched

    def _strike(self) -> bool:
        """Send the signal; True where nothing can follow it."""
        self.known.wait()
        os.kill(self.pid, self.how)
        return self.how == signal.SIGKILL

    def begin(self, pid: int) -> None:
        """It is this process."""
        self.pid = pid
        self.known.set()


def _bucket_here(url: str) -> Callable[[], None]:
    """What a child does first: find the server where S3 would be, and send small parts."""

    def install() -> None:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            os.environ.pop(name, None)
        os.environ.update(_environment(url))
        from transcode.io.remote import multipart

        multipart._PART = _PART

    return install


def _environment(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _hub_here(url: str) -> Callable[[], None]:
    def install() -> None:
        from huggingface_hub import constants

        constants.ENDPOINT = url
        constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
        constants.HF_HUB_DISABLE_XET = True
        os.environ["HF_TOKEN"] = _TOKEN

    return install


def _words(root: Path, target: str) -> list[str]:
    return ["run", str(root / "source"), target, "--scheme", "int8", "--max-tensors", "2", "-w", "2"]


def _right(root: Path, rows: int) -> dict[str, bytes]:
    """The bytes of all files, by a local run."""
    save(root / "source", 7, rows=rows, columns=1024)
    assert command(_words(root, f"{root / 'right'}/")).code == 0
    return {path.name: path.read_bytes() for path in (root / "right").iterdir()}


def _judge(there: Mapping[str, bytes], right: Mapping[str, bytes], where: str, tally: Tally) -> None:
    """What is seen must be whole, and an index only where all that it names is."""
    for name, data in there.items():
        if data != right.get(name):
            tally.add("MIXED", f"{where}: {name} is not what it was to be")
    lacks = right.keys() - there.keys()
    if lacks and any(name.endswith(".index.json") for name in there):
        tally.add("MIXED", f"{where}: an index leads to {sorted(lacks)}")
    tally.add("all" if not lacks else "some" if there else "none")


def _interrupted(outcome: Any, how: int, where: str, tally: Tally) -> bool:
    """Judge how a run ended; whether it could clear away what it had sent."""
    if outcome.signal == signal.SIGKILL:
        tally.add("kills")
        return False
    if (wrong := outcome.fault()) is not None:
        tally.add(wrong[0], f"{where}: {wrong[1]}")
    elif outcome.code == 130 and how == signal.SIGINT:
        tally.add("interrupted")
    elif outcome.code != 0:
        tally.add("WRONG", f"{where}: exit {outcome.code}: {outcome.text[-300:]}")
    return True


@dataclass
class _Place:
    """An S3 as the attack sees it: where it is, what has appeared, how many uploads are open."""

    url: str
    objects: Callable[[], dict[str, bytes]]
    uploads: Callable[[], int]
    site: Site | None = None


@contextmanager
def _standing_in() -> Iterator[_Place]:
    with serving({}) as site:
        bucket = Bucket()
        bucket.on(site)
        yield _Place(site.url, lambda: bucket.objects, lambda: len(bucket.uploads), site)


@contextmanager
def _motos() -> Iterator[_Place]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = import_module("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    os.environ.update(_environment(url))
    urlopen(f"{url}/moto-api/reset", data=b"").close()  # all of its servers in a process hold the same
    client = import_module("boto3").client("s3")
    client.create_bucket(Bucket="bucket")

    def objects() -> dict[str, bytes]:
        keys = [one["Key"] for one in client.list_objects_v2(Bucket="bucket").get("Contents", ())]
        return {key: client.get_object(Bucket="bucket", Key=key)["Body"].read() for key in keys}

    def uploads() -> int:
        return len(client.list_multipart_uploads(Bucket="bucket").get("Uploads", ()))

    try:
        yield _Place(url, objects, uploads)
    finally:
        server.stop()


def _into_a_bucket(make: Callable[[], Any], package: str = "boto3") -> Attack:
    """Killed or interrupted at any request that writes, or at any time; then run again."""

    def attack(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        if find_spec(package) is None or find_spec("boto3") is None:
            tally.notes.append(f"{package} is not installed: not run")
            return
        import_module("boto3")  # here, so that children need not
        right, words = _right(root, 2600), [*_words(root, "s3://bucket/m/"), "--force"]
        seconds = 0.0
        for trial in range((count or 60) + (package == "moto")):  # its first one only tells how long it takes
            if time.monotonic() > until:
                break
            with make() as place:
                install, where = _bucket_here(place.url), f"trial {trial}"
                how = dice.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT))
                if place.site is not None:
                    moment = _Moment(dice.randint(1, 14), dice.random() < 0.5, how)
                    moment.on(place.site)
                    outcome = command(words, install=install, meanwhile=moment.begin)
                else:
                    if not seconds:
                        began = time.monotonic()
                        assert command(words, install=install).code == 0
                        seconds = time.monotonic() - began
                        continue
                    outcome = command(words, install=install, after=(dice.uniform(0.2, 1) * seconds, how))
                tally.add("trials")
                cleared = _interrupted(outcome, how, where, tally)
                there = {name.removeprefix("m/"): data for name, data in place.objects().items()}
                _judge(there, right, where, tally)
                left = place.uploads()
                if left and cleared:
                    tally.add("LEFTOVER", f"{where}: {left} uploads, and it was not killed")
                tally.add("left open, unseen") if left else None
                again = command(words, install=install)
                if again.code != 0 or {n.removeprefix("m/"): d for n, d in place.objects().items()} != right:
                    tally.add("WRONG", f"{where}: run again: {again.text[-300:]}")
                if (_TOLD in again.text) != bool(left):
                    tally.add("UNNAMED", f"{where}: {left} uploads are open: {again.text[:300]}")
                if place.uploads() != left:
                    tally.add("LEFTOVER", f"{where}: the run after it left {place.uploads() - left} uploads")

    return attack


def _onto_the_hub(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """Killed or interrupted at any request that writes: no commit, or one of everything."""
    if find_spec("huggingface_hub") is None:
        tally.notes.append("huggingface_hub is not installed: not run")
        return
    import_module("huggingface_hub.hf_api")
    right, words = _right(root, 64), [*_words(root, "hf://org/name/m/"), "--force"]
    for trial in range(count or 60):
        if time.monotonic() > until:
            break
        with serving({}) as site:
            hub = StandIn("org/name", {"README.md": b"old"}, token=_TOKEN)
            hub.on(site)
            moment = _Moment(dice.randint(1, 30), dice.random() < 0.5, dice.choice((9, 9, 2)))
            moment.on(site)
            outcome = command(words, install=_hub_here(site.url), meanwhile=moment.begin)
            tally.add("trials")
            where = f"trial {trial}, request {moment.at}"
            _interrupted(outcome, moment.how, where, tally)
            there = {name: data for name, data in hub.files.items() if name.startswith("m/")}
            _judge({name.removeprefix("m/"): data for name, data in there.items()}, right, where, tally)
            if there and (len(there) != len(right) or hub.commits != 1):
                tally.add("MIXED", f"{where}: {hub.commits} commits of {sorted(there)}")
            if hub.files["README.md"] != b"old" or _TOKEN in outcome.text:
                tally.add("WRONG", f"{where}: {outcome.text[-300:]}")
            again = command(words, install=_hub_here(site.url))
            if again.code != 0 or hub.files != {
                "README.md": b"old",
                **{f"m/{n}": d for n, d in right.items()},
            }:
                tally.add("WRONG", f"{where}: run again: {again.text[-300:]}")


ATTACKS: Mapping[str, Attack] = {
    "into a bucket": _into_a_bucket(_standing_in),
    "into a bucket of moto's": _into_a_bucket(_motos, "moto"),
    "onto the hub": _onto_the_hub,
}
