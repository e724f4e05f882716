"""Files mapped read-only, with the memory that they occupy bounded over the whole process.

A map costs nothing until it is touched, but every touched page counts as the process's own until it is let
go. So what is handed out is lent to a worker's scratch. What comes back from there, when the worker begins
its next tile, is counted over all maps, and after each :data:`BATCH` the pages behind it are let go. Letting
go never invalidates a view, as a page that is looked at again comes back from the page cache; but then it
stays, which is why nothing is let go that is still in use.

A file may be cut, or its disk fail, while it is being read, and looking at a page that is gone kills the
process. So the kernel is asked for pages before they are handed out, and answers with an error; what happens
between that and the look is survived (:mod:`..numerics.faults`) and told by :meth:`MappedFile.verify`. Where
it could not be survived, bytes that the process itself will look at are read, not mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import FormatError
from . import system
from .bytes import read_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..numerics.faults import Watch

    Raw = NDArray[np.uint8]

__all__ = ["AHEAD", "BATCH", "MAX_OPEN", "MappedFile"]

BATCH = 32 << 20
"""Bytes that came back, over all files, between two releases of pages."""

AHEAD = 32 << 20
"""Bytes that the kernel is asked to read before a sequential reader wants them."""

MAX_OPEN = 64
"""Files kept open at once in the process; the least recently used is closed and opened again when needed."""

_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))
"""Opening a pipe that took the name of a file would wait for whoever writes into it."""

_PAGE = mmap.PAGESIZE
_MOST = 1 << 30  # bytes of one read: macOS and Windows refuse 2 GiB
_CAN_ADVISE = hasattr(os, "posix_fadvise")


class _Map(mmap.mmap):
    """A map that may be watched, as long as it and its views live."""

    watch: Watch | None = None

    def survives(self, address: int, note: ctypes.c_uint64) -> bool:
        """Whether looking at pages that are gone sets a note, and does not kill; the map begins there."""
        if self.watch is None:
            from ..numerics import faults

            self.watch = faults.watch(address, len(self), note)
        return self.watch is not None

    def __del__(self) -> None:
        if self.watch is not None:
            self.watch.end()


class _Open:
    """An open file and its map. It closes when nobody refers to it, so that eviction never hurts a reader."""

    __slots__ = ("drop_cache", "fd", "high", "low", "map", "turn")

    def __init__(self, fd: int, map: _Map | None, drop_cache: bool) -> None:
        self.fd = fd
        self.map = map
        self.drop_cache = drop_cache
        self.low = self.high = -1  # where the last reader was, and how far ahead the kernel was asked to read
        self.turn = threading.Lock()  # for platforms without positional reads

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "fd"):  # else an interrupt came while it was made
            close(self.fd)

    def release(self, begin: int, end: int) -> None:
        """Let go of the pages of a range."""
        begin -= begin % _PAGE
        end += -end % _PAGE
        if self.map is not None:
            system.let_go(self.map, begin, min(end, len(self.map)))
        if self.drop_cache and _CAN_ADVISE:
            system.drop_cache(self.fd, begin, end - begin)

    def follow(self, begin: int, end: int) -> int:
        """Note where a reader is; returns where read-ahead should start, up to ``high``, or -1.

        Only readers that go through the file in order are helped: a look at one tensor should read no more.
        """
        low, high = self.low, self.high
        self.low = begin
        if low < 0 or not low - AHEAD <= begin <= high + AHEAD:
            self.high = end
            return -1
        if end + AHEAD // 2 <= high:
            return -1
        self.high = end + AHEAD
        return max(end, high)


@dataclass(frozen=True, slots=True)
class _Range:
    open: _Open
    begin: int
    end: int


class _Pool:
    """The open files of the process, and the ranges handed out since pages were last released."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[object, _Open] = OrderedDict()
        self._gone: deque[object] = deque()
        self._back: deque[_Range] = deque()  # filled without the lock: a scratch may end anywhere
        self._pending: list[_Range] = []
        self._size = 0  # of what is pending

    def get(self, key: object, make: Callable[[], _Open]) -> _Open:
        """The open file of a key, opened where it is not.

        A disk may take long to open a file: others read meanwhile. Of two that open the same one, that of the
        first to come back is kept, and the other's is closed.
        """
        with self._lock:
            self._bury()
            opened = self._had(key)
        if opened is not None:
            return opened
        fresh = make()
        evicted = []  # closed behind the lock
        with self._lock:
            opened = self._had(key)
            if opened is not None:
                return opened
            self._open[key] = fresh
            while len(self._open) > MAX_OPEN:
                evicted.append(self._open.popitem(last=False)[1])
                self._forget(evicted[-1])
        return fresh

    def _had(self, key: object) -> _Open | None:
        opened = self._open.get(key)
        if opened is not None:
            self._open.move_to_end(key)
        return opened

    def hand_out(self, open: _Open, begin: int, end: int, scratch: Scratch) -> None:
        scratch.borrow(partial(self._back.append, _Range(open, begin, end)))
        with self._lock:
            self._collect()
            ahead, limit = open.follow(begin, end), open.high
            released: list[_Range] = []
            if self._size >= BATCH:
                self._size = 0
                released, self._pending = self._pending, []
        if ahead >= 0 and _CAN_ADVISE:
            os.posix_fadvise(open.fd, ahead, limit - ahead, os.POSIX_FADV_WILLNEED)
        for item in _merged(released):
            item.open.release(item.begin, item.end)

    def close(self, key: object) -> None:
        with self._lock:
            self._gone.append(key)
            self._bury()

    def abandon(self, key: object) -> None:
        """As :meth:`close`, when the garbage collector finds that nobody can read the file any more.

        It may come to that anywhere, also while this very thread holds the lock: then the next reader closes.
        """
        self._gone.append(key)
        if self._lock.acquire(blocking=False):
            try:
                self._bury()
            finally:
                self._lock.release()

    def _bury(self) -> None:
        while self._gone:
            open = self._open.pop(self._gone.popleft(), None)
            if open is not None:
                self._forget(open)

    def _collect(self) -> None:
        while self._back:
            item = self._back.popleft()
            self._pending.append(item)
            self._size += max(item.end - item.begin, _PAGE)  # a page is the least that is touched

    def _forget(self, open: _Open) -> None:
        self._collect()
        for item in self._pending:
            if item.open is open:
                open.release(item.begin, item.end)
        self._pending = [item for item in self._pending if item.open is not open]
        if open.drop_cache and _CAN_ADVISE:
            system.drop_cache(open.fd, 0, 0)


def _merged(ranges: list[_Range]) -> Iterable[_Range]:
    ranges.sort(key=lambda item: (id(item.open), item.begin))
    last: _Range | None = None
    for item in ranges:
        if last is not None and item.open is last.open and item.begin <= last.end + _PAGE:
            last = _Range(last.open, last.begin, max(last.end, item.end))
            continue
        if last is not None:
            yield last
        last = item
    if last is not None:
        yield last


_POOL = _Pool()

_Key = tuple[Path, tuple[int, ...], bool, bool]


class _Alive:
    """What is alive of a file while anything refers to it."""

    __slots__ = ("__weakref__", "key", "lost", "turn")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.lost = ctypes.c_uint64()  # not 0 once a page was gone when it was looked at
        self.turn = threading.Lock()


_ALIVE: weakref.WeakValueDictionary[_Key, _Alive] = weakref.WeakValueDictionary()
_ALIVE_LOCK = threading.RLock()  # the garbage collector may come here anywhere


def _alive(key: _Key) -> _Alive:
    """The one of all equal files."""
    with _ALIVE_LOCK:
        alive = _ALIVE.get(key)
        if alive is None:
            alive = _ALIVE[key] = _Alive(key)
            weakref.finalize(alive, _POOL.abandon, key).atexit = False
        return alive


@dataclass(frozen=True, repr=False, init=False)
class MappedFile:
    """A file whose bytes are read where they lie; opened at the first read, and closed when many are open.

    It is a value: the path, and by what the file is known to be the same. What is alive of it, the
    descriptor and the map, is the process's, and shared by all that are equal. Thread-safe.

    Args:
        path: the file.
        mmap: map the file; else, and where mapping fails, read into the worker's scratch.
        drop_cache: also drop what was read from the kernel's page cache (Linux).

    Raises:
        OSError: there is no such file.

    Attributes:
        path: the file.
        identity: its size, time of modification and inode, when it was first seen. Not the device, as
            that is another number on each machine that has a share mounted.
    """

    path: Path
    identity: tuple[int, ...]
    mmap: bool
    drop_cache: bool

    def __init__(self, path: str | PathLike[str], *, mmap: bool = True, drop_cache: bool = False) -> None:
        self.__setstate__((Path(path), _identity(os.stat(path)), mmap, drop_cache))

    def __getstate__(self) -> _Key:
        return self.path, self.identity, self.mmap, self.drop_cache

    def __setstate__(self, state: _Key) -> None:
        for name, value in zip(("path", "identity", "mmap", "drop_cache"), state, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_alive", _alive(state))

    @property
    def url(self) -> str:
        """The path, as text."""
        return str(self.path)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.identity[0]

    @property
    def _here(self) -> _Alive:
        alive: _Alive = self.__dict__["_alive"]
        return alive

    def __repr__(self) -> str:
        return f"MappedFile({str(self.path)!r})"

    def open(self) -> IO[bytes]:
        """A reader of its own at the first byte, of whatever has the name now."""
        return system.open_file(self.path)

    def close(self) -> None:
        """Close the file. Views of it stay valid; a later read opens it again."""
        _POOL.close(self._here.key)

    def verify(self) -> None:
        """Raise FormatError if the file was changed, replaced or removed since, or a page of it lost."""
        try:
            now = _identity(os.stat(self.path))
        except OSError as error:
            raise FormatError(f"cannot be read any more: {error.strerror}", file=self.path) from None
        if now != self.identity:
            raise FormatError("was changed since planning began", file=self.path, hint="plan again")
        self._check_lost()

    def _check_lost(self) -> None:
        if self._here.lost.value:
            raise FormatError(
                "was cut while it was being read, or its disk could not read it",
                file=self.path,
                hint="start again",
            )

    def bytes(self, begin: int, end: int, scratch: Scratch, *, view: bool = True) -> Raw:
        """Bytes ``begin`` to ``end`` of the file: a read-only view if allowed, or a copy in ``scratch``.

        Raises:
            FormatError: the file was changed or cut since it was opened.
        """
        import numpy as np  # here, for commands that look at facts alone

        assert 0 <= begin <= end
        if begin == end:
            return np.frombuffer(b"", np.uint8)
        open = self._opened(end)
        _POOL.hand_out(open, begin, end, scratch)
        if open.map is not None and view:
            mapped = np.frombuffer(open.map, np.uint8, end - begin, begin)
            address = mapped.ctypes.data
            if scratch.untouched or self._survives(open.map, address - begin):
                with suppress(OSError):
                    if system.populate(address, mapped.nbytes):
                        return mapped
        return self._copy(open, begin, end, scratch)  # which says what is wrong, or gets around it

    def copy(self, begin: int, end: int, fd: int, offset: int) -> int:
        """See :meth:`.bytes.Bytes.copy`."""
        open = self._opened(end)
        copied = system.copy_range(open.fd, fd, begin, offset, end - begin)
        if self.drop_cache:
            system.drop_cache(open.fd, begin, copied)
        return copied

    def _opened(self, end: int) -> _Open:
        """The open file. Raises FormatError if it lacks bytes up to ``end``, or any that it had."""
        open = _POOL.get(self._here.key, self._reopen)
        # The tensors behind a cut are gone, whatever these bytes are.
        size = os.fstat(open.fd).st_size
        if size < max(end, self.size):
            raise FormatError(
                f"has {size} bytes, {max(end, self.size)} were expected",
                file=self.path,
                hint="was it changed while it was being read?",
            )
        self._check_lost()
        return open

    def rows(self, offset: int, spec: Spec, start: int, stop: int, scratch: Scratch) -> Array:
        """See :func:`.bytes.read_rows`."""
        return read_rows(self, offset, spec, start, stop, scratch)

    def _survives(self, map: _Map, address: int) -> bool:
        with self._here.turn:
            return map.survives(address, self._here.lost)

    def _reopen(self) -> _Open:
        try:
            fd = os.open(self.path, _FLAGS)
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror}", file=self.path) from None
        mapped: _Map | None = None
        try:
            if _identity(os.fstat(fd)) != self.identity:
                raise FormatError("was changed since its header was read", file=self.path, hint="start again")
            if self.mmap:
                mapped = _map(fd)
        except BaseException:
            os.close(fd)
            raise
        return _Open(fd, mapped, self.drop_cache)

    def _copy(self, open: _Open, begin: int, end: int, scratch: Scratch) -> Raw:
        out: Raw = scratch.take((end - begin,), "u1")
        view = memoryview(out)  # type: ignore[arg-type]  # numpy arrays are buffers, before 3.12 unknown to typing
        done = 0
        while done < end - begin:
            try:
                got = self._read(open, view[done:], begin + done)
            except OSError as error:
                raise FormatError(
                    f"cannot be read at byte {begin + done}: {error.strerror}", file=self.path
                ) from None
            if got == 0:
                raise FormatError(f"ends at byte {begin + done}, expected {end}", file=self.path)
            done += got
        out.flags.writeable = False
        return out

    @staticmethod
    def _read(open: _Open, out: memoryview, at: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(open.fd, [out[:_MOST]], at)
        with open.turn:
            os.lseek(open.fd, at, os.SEEK_SET)
            piece = os.read(open.fd, min(len(out), _MOST))
        out[: len(piece)] = piece
        return len(piece)


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _map(fd: int) -> _Map | None:
    try:
        return _Map(fd, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # file systems that cannot map, address space used up
        return None
