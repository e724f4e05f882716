"""SHA-256 of what a run writes: of each file and each stored tensor, while others still convert.

Tiles are written in any order, and a digest goes from the first byte to the last. So threads of their own
follow what is written: each file is hashed up to where it is whole from its beginning, each tensor once all
of it is there. What is hashed is read back from the file: it is what a reader would get.

The digests stand in the report; and beside the files in one of coreutils' format, see :func:`text`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ..core.output import Place
from ..core.records import dataclass
from ..errors import FormatError, TranscodeError
from ..plan.plan import Plan
from .journal import Ranges
from .pace import Pace

__all__ = ["BESIDE", "FOLDER", "Digests", "Hashing", "beside", "differing", "load", "of_file", "text"]

_HEAD = "# transcode-checksums-1"
_TENSOR = "#tensor "
_BLOCK = 4 << 20
_STRIDE = 16 << 20
"""Bytes of a file that must be there before its thread goes on."""

FOLDER = "SHA256SUMS"
BESIDE = ".sha256"


@dataclass(frozen=True)
class Digests:
    """SHA-256, in hexadecimal.

    Attributes:
        files: by name, side files too.
        tensors: by file and the stored name; of the bytes of the values, as they lie there.
        sources: of the files that were read, by path, where that was asked for.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"files": dict(self.files), "tensors": {name: dict(of) for name, of in self.tensors.items()}}


def beside(plan: Plan) -> str:
    """What the file of digests is called: ``SHA256SUMS`` in a folder, ``NAME.sha256`` beside a file."""
    return FOLDER if plan.folder else f"{plan.destination.name}{BESIDE}"


def text(digests: Digests) -> str:
    """Digests as ``sha256sum -c`` checks them; those of tensors stand in comments, which it skips."""
    lines = [_HEAD, *(f"{digest}  {name}" for name, digest in sorted(digests.files.items()))]
    for file, tensors in sorted(digests.tensors.items()):
        lines += (f"{_TENSOR}{digest}  {json.dumps([file, name])}" for name, digest in tensors.items())
    return "".join(f"{line}\n" for line in lines)


def load(path: Path) -> Digests | None:
    """The digests beside an output; None where there are none.

    Raises:
        FormatError: the file is none of digests.
    """
    where = path / FOLDER if path.is_dir() else path.with_name(path.name + BESIDE)
    try:
        content = where.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot be read: {error}", file=where) from None
    files: dict[str, str] = {}
    tensors: dict[str, dict[str, str]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        digest, _, name = line.removeprefix(_TENSOR).partition("  ")
        if line.startswith("#") and not line.startswith(_TENSOR):
            continue
        try:
            if len(bytes.fromhex(digest)) != hashlib.sha256().digest_size:
                raise ValueError
            if line.startswith(_TENSOR):
                file, tensor = json.loads(name)
                tensors.setdefault(file, {})[tensor] = digest
            else:
                files[name] = digest
        except (ValueError, TypeError):
            raise FormatError(f"line {number} is none of digests", file=where) from None
    return Digests(files, tensors)


def of_file(path: Path, begin: int = 0, end: int | None = None) -> str:
    """The SHA-256 of a file, or of some bytes of it. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return _hashed(hashlib.sha256(), file, begin, path.stat().st_size if end is None else end).hexdigest()


def _hashed(
    digest: hashlib._Hash, file: Any, begin: int, end: int, on: Callable[[int], None] | None = None
) -> hashlib._Hash:
    block = memoryview(bytearray(min(_BLOCK, max(end - begin, 1))))
    file.seek(begin)
    while begin < end:
        count = file.readinto(block[: end - begin])
        if not count:
            raise OSError(f"ends at byte {begin} of {end}")
        digest.update(block[:count])
        begin += count
        if on is not None:
            on(count)
    return digest


class _File:
    """What is there of one file, and how far it is hashed."""

    def __init__(self, size: int, places: Sequence[Place], offset: int) -> None:
        self.there = Ranges()
        self.size = size
        self.digest = hashlib.sha256()
        self.position = 0
        self.busy = False
        self.bounds = [(offset + place.begin, offset + place.end, place.name) for place in places]
        self.begins = [begin for begin, _, _ in self.bounds]
        self.waiting = set(range(len(self.bounds)))
        self.tensors: dict[str, str] = {}

    def front(self) -> int:
        """How many bytes from the first on are there."""
        return next((end for begin, end in self.there if begin == 0), 0)

    def whole(self, begin: int, end: int) -> list[int]:
        """Tensors that ``begin`` to ``end`` made whole, by their numbers."""
        numbers = []
        number = max(bisect_right(self.begins, begin) - 1, 0)
        while number < len(self.bounds) and self.bounds[number][0] <= end:
            low, high, _ = self.bounds[number]
            if number in self.waiting and not any(self.there.missing(low, high)):
                self.waiting.discard(number)
                numbers.append(number)
            number += 1
        return numbers


class Hashing:
    """Follows the files of a plan while they are written; thread-safe.

    Args:
        plan: whose files.
        open_file: gives one of them for reading, by its number in the plan.
        sources: files that are read, to be hashed too.
        threads: how many hash.
        pace: how fast sources may be read.
    """

    def __init__(
        self,
        plan: Plan,
        open_file: Callable[[int], BinaryIO],
        sources: Sequence[Path],
        threads: int,
        pace: Pace,
    ) -> None:
        self._plan = plan
        self._open = open_file
        self._pace = pace
        self._stop = threading.Event()
        self._files = [_File(file.size, file.places, len(file.header)) for file in plan.files]
        self._jobs: deque[Callable[[], None]] = deque(partial(self._source, path) for path in sources)
        self._sources: dict[str, str] = {}
        self._condition = threading.Condition()
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        for number, file in enumerate(plan.files):
            self.wrote(number, 0, len(file.header))
            self.wrote(number, file.size - len(file.tail), file.size)
        self._threads = [
            threading.Thread(target=self._work, name=f"checksum-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def wrote(self, number: int, begin: int, end: int) -> None:
        """Bytes of a file are there."""
        file = self._files[number]
        with self._condition:
            file.there.add(begin, end)
            for tensor in file.whole(begin, end):
                self._jobs.append(partial(self._tensor, number, tensor))
            self._condition.notify()

    def finish(self) -> Digests:
        """All is written: what is left is hashed.

        Raises:
            OSError: a file could not be read back.
        """
        for number, file in enumerate(self._files):
            self.wrote(number, 0, file.size)  # gaps, and what an earlier run wrote
        with self._condition:
            self._ended = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error
        names = [file.name for file in self._plan.files]
        return Digests(
            {name: file.digest.hexdigest() for name, file in zip(names, self._files, strict=True)},
            {
                name: {tensor: file.tensors[tensor] for _, _, tensor in file.bounds}
                for name, file in zip(names, self._files, strict=True)
            },
            dict(sorted(self._sources.items())),
        )

    def stop(self) -> None:
        """Let go: nothing is wanted any more. Returns when no thread reads."""
        self._stop.set()
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                job()
        except _Stopped:
            pass
        except BaseException as error:
            with self._condition:
                self._error = self._error or error
                self._stopped = True
                self._condition.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """The next file that can go on, then tensors and sources; waits for one. None at the end."""
        with self._condition:
            while not self._stopped:
                behind = False
                for number, file in enumerate(self._files):
                    behind = behind or file.position < file.size
                    front = file.front()
                    if not file.busy and (
                        front - file.position >= _STRIDE or file.position < front == file.size
                    ):
                        file.busy = True
                        return partial(self._follow, number, front)
                if self._jobs:
                    return self._jobs.popleft()
                if self._ended and not behind:
                    self._condition.notify_all()
                    return None
                self._condition.wait()
            return None

    def _go_on(self, nbytes: int) -> None:
        if self._stopped:
            raise _Stopped

    def _paced(self, nbytes: int) -> None:
        self._stop.wait(self._pace.spend(nbytes))
        self._go_on(nbytes)

    def _follow(self, number: int, front: int) -> None:
        file = self._files[number]
        with self._open(number) as stream:
            _hashed(file.digest, stream, file.position, front, self._go_on)
        with self._condition:
            file.position, file.busy = front, False
            self._condition.notify_all()

    def _tensor(self, number: int, tensor: int) -> None:
        file = self._files[number]
        begin, end, name = file.bounds[tensor]
        with self._open(number) as stream:
            file.tensors[name] = _hashed(hashlib.sha256(), stream, begin, end, self._go_on).hexdigest()

    def _source(self, path: Path) -> None:
        with open(path, "rb", buffering=0) as stream:
            size = path.stat().st_size
            self._sources[str(path)] = _hashed(hashlib.sha256(), stream, 0, size, self._paced).hexdigest()


class _Stopped(Exception):
    """Nobody wants the digest any more."""


def differing(path: Path, digests: Digests) -> Iterator[tuple[str, str]]:
    """What is not as its digest says: tensors, or files where none of theirs differs; each with what."""
    folder = path if path.is_dir() else path.parent
    for name, digest in digests.files.items():
        where = folder / name
        try:
            if of_file(where) == digest:
                continue
            wrong = list(_wrong(where, digests.tensors.get(name, {})))
        except OSError as error:
            yield name, f"cannot be read: {error.strerror or error}"
            continue
        except TranscodeError as error:  # damaged where its tensors are told
            yield name, f"is not what its SHA-256 says: {error}"
            continue
        yield from ((tensor, f"is not what its SHA-256 says ({name})") for tensor in wrong)
        if not wrong:
            yield name, "is not what its SHA-256 says, though the values of its tensors are"


def _wrong(path: Path, tensors: Mapping[str, str]) -> Iterator[str]:
    from ..containers.source import open_source

    if not tensors:
        return
    with open_source(path) as source:
        extents = {
            tensor.name: next(iter(tensor.value.extents().get("values", ())), None)
            for tensor in source.tensors
        }
    for name, digest in tensors.items():
        extent = extents.get(name)
        if extent is None or of_file(path, extent.begin, extent.begin + extent.nbytes) != digest:
            yield name
