"""Reading ahead: what a run will read is fetched in large ranges, some of them at a time, before it asks.

A run says in advance which bytes it will read, in its order (:class:`Expected`). What lies side by side is
joined and cut into chunks; of these some are on their way while others are read, and none is kept that has
been read. So the memory that this takes is bounded, whatever the size of the model, and nothing is fetched
that is not read. What nobody announced is fetched as it is asked for.
"""

from __future__ import annotations

import queue
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable
from mmap import mmap
from typing import NamedTuple

from ...errors import FormatError

__all__ = ["AT_ONCE", "CHUNK", "WINDOW", "Expected", "Range", "expected"]

CHUNK = 4 << 20
"""Most bytes of one request."""

WINDOW = 32 << 20
"""Bytes of chunks that are on their way, or there and not read."""

AT_ONCE = 8
"""Requests at a time."""

_GAP = 64
"""A gap is fetched with what lies around it if that is so many times larger."""

Fetch = Callable[[int, int, memoryview, threading.Event], None]
"""Fetches bytes from and to into memory, unless it is given up."""


class Range(NamedTuple):
    """Bytes that will be read.

    Attributes:
        key: the file, by whatever tells it from others.
        fetch: how its bytes are fetched.
        begin, end: which of them.
    """

    key: object
    fetch: Fetch
    begin: int
    end: int


class _Chunk:
    """Bytes that are fetched with one request.

    Attributes:
        begin, end: of them.
        left: those that nobody has read yet; gaps are none.
        data: the bytes; None before and after.
        error: why they did not come.
        ready: set when they are there, or will never be.
    """

    __slots__ = ("begin", "data", "end", "error", "fetch", "left", "number", "ready", "started")

    def __init__(self, number: int, fetch: Fetch, begin: int, end: int) -> None:
        self.number = number
        self.fetch = fetch
        self.begin = begin
        self.end = end
        self.left = 0
        self.data: mmap | None = None
        self.error: BaseException | None = None
        self.ready = threading.Event()
        self.started = False


class Expected:
    """What will be read, and what of it is on its way: between :meth:`begin` and :meth:`end`.

    Args:
        ranges: in the order in which they will be read. What stands twice is read twice.
    """

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._lock = threading.Lock()
        self._chunks: list[_Chunk] = []
        self._passes: dict[object, list[list[_Chunk]]] = {}
        self._held = 0  # bytes of chunks that are started and not read
        self._todo: queue.SimpleQueue[_Chunk | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.ended = threading.Event()
        self.nbytes = 0
        for run in _joined(ranges):
            self._add(run)

    def begin(self) -> None:
        """From now on readers find it."""
        for key in self._passes:
            _CURRENT[key] = self

    def end(self) -> None:
        """Fetch nothing more; who waits for something is told so. It may be called at any time, again."""
        with self._lock:
            self.ended.set()
            for key in self._passes:
                if _CURRENT.get(key) is self:
                    del _CURRENT[key]
            for chunk in self._chunks:
                if chunk.started and not chunk.ready.is_set():
                    chunk.error = FormatError("reading was given up")
                    chunk.ready.set()
                chunk.data = None
            for _ in self._threads:
                self._todo.put(None)

    def _add(self, run: _Run) -> None:
        """Cut a run into chunks, in the first pass over its file in which nothing of it is read before."""
        passes = self._passes.setdefault(run.key, [])
        for chunks in passes:
            place = bisect_right(chunks, run.begin, key=_begin)
            if not (place and chunks[place - 1].end > run.begin) and (
                place == len(chunks) or chunks[place].begin >= run.end
            ):
                break
        else:
            chunks, place = [], 0
            passes.append(chunks)
        first = len(self._chunks)
        for begin in range(run.begin, run.end, CHUNK):
            number = len(self._chunks)
            self._chunks.append(_Chunk(number, run.fetch, begin, min(begin + CHUNK, run.end)))
        chunks[place:place] = self._chunks[first:]
        for begin, end in run.parts:
            self.nbytes += end - begin
            for chunk in self._chunks[first + (begin - run.begin) // CHUNK :]:
                if chunk.begin >= end:
                    break
                chunk.left += min(end, chunk.end) - max(begin, chunk.begin)

    def read(self, key: object, begin: int, end: int, out: memoryview) -> list[tuple[int, int]]:
        """Put what is known of a range into memory.

        Returns:
            The ranges that were not announced, or have been read: they are to be fetched.

        Raises:
            FormatError: it cannot be read.
        """
        missing: list[tuple[int, int]] = []
        at = begin
        while at < end:
            chunk, stop = self._find(key, at, end)
            if chunk is None:
                missing.append((at, stop))
            else:
                data = self._wait(chunk)
                if data is None:
                    missing.append((at, stop))
                else:
                    out[at - begin : stop - begin] = memoryview(data)[at - chunk.begin : stop - chunk.begin]
                    self._spend(chunk, stop - at)
            at = stop
        return missing

    def _find(self, key: object, at: int, end: int) -> tuple[_Chunk | None, int]:
        """The chunk from which a byte is read, and where it or the gap before the next one ends."""
        stop = end
        with self._lock:
            for chunks in self._passes.get(key, ()):
                number = bisect_right(chunks, at, key=_begin) - 1
                if number >= 0 and at < chunks[number].end and chunks[number].left > 0:
                    return chunks[number], min(end, chunks[number].end)
                if number + 1 < len(chunks):
                    stop = min(stop, max(chunks[number + 1].begin, at + 1))
        return None, stop

    def _wait(self, chunk: _Chunk) -> mmap | None:
        with self._lock:
            self._start(chunk)
            for following in self._chunks[chunk.number + 1 : chunk.number + 1 + WINDOW // CHUNK * 8]:
                if self._held + following.end - following.begin > WINDOW:
                    break
                if following.left > 0:
                    self._start(following)
        chunk.ready.wait()
        data = chunk.data
        if chunk.error is not None:
            raise chunk.error
        return data

    def _start(self, chunk: _Chunk) -> None:
        if chunk.started or self.ended.is_set():
            if self.ended.is_set():
                chunk.ready.set()
            return
        chunk.started = True
        self._held += chunk.end - chunk.begin
        self._make_room(chunk)
        self._todo.put(chunk)
        if len(self._threads) < AT_ONCE:
            thread = threading.Thread(target=self._work, name=f"ahead-{len(self._threads)}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # fewer do as well
                if not self._threads:
                    raise
                return
            self._threads.append(thread)

    def _make_room(self, wanted: _Chunk) -> None:
        """Let go of chunks of which something was left unread, once they are too many: the first ones."""
        for chunk in self._chunks[: wanted.number]:
            if self._held <= 2 * WINDOW:
                return
            if chunk.started and chunk.ready.is_set() and chunk.data is not None:
                self._drop(chunk)

    def _drop(self, chunk: _Chunk) -> None:
        chunk.left = 0
        if chunk.data is not None:
            chunk.data = None
            self._held -= chunk.end - chunk.begin

    def _spend(self, chunk: _Chunk, nbytes: int) -> None:
        with self._lock:
            chunk.left -= nbytes
            if chunk.left <= 0:
                self._drop(chunk)

    def _work(self) -> None:
        while (chunk := self._todo.get()) is not None:
            if self.ended.is_set():
                continue
            data = mmap(-1, chunk.end - chunk.begin)  # whose memory the system has back at once
            try:
                with memoryview(data) as view:
                    chunk.fetch(chunk.begin, chunk.end, view, self.ended)
            except BaseException as error:
                chunk.error = error
            with self._lock:
                if not self.ended.is_set():
                    chunk.data = data
            chunk.ready.set()


def _begin(chunk: _Chunk) -> int:
    return chunk.begin


_CURRENT: dict[object, Expected] = {}
"""Of each file what is expected to be read of it."""


def expected(key: object) -> Expected | None:
    """What was announced of a file, while that is being read."""
    return _CURRENT.get(key)


class _Run:
    """Ranges that are fetched together.

    Attributes:
        parts: the ranges; between them there may be small gaps.
    """

    def __init__(self, first: Range) -> None:
        self.key = first.key
        self.fetch = first.fetch
        self.begin = first.begin
        self.end = first.end
        self.parts = [(first.begin, first.end)]

    def takes(self, more: Range) -> bool:
        """Whether a range is fetched with it; then it is part of it."""
        gap = more.begin - self.end
        if more.key != self.key or gap < 0 or gap * _GAP > min(self.end - self.begin, more.end - more.begin):
            return False
        self.end = more.end
        self.parts.append((more.begin, more.end))
        return True


def _joined(ranges: Iterable[Range]) -> Iterable[_Run]:
    run: _Run | None = None
    for one in ranges:
        if one.begin == one.end or (run is not None and run.takes(one)):
            continue
        if run is not None:
            yield run
        run = _Run(one)
    if run is not None:
        yield run
