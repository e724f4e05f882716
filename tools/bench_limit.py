"""Measure what a machine's memory and file system allow: the limits that conversions are compared with.

    python tools/bench_limit.py SRC --work DIR [--threads 1,2,4,8,16] [--rounds 3] [--json FILE] [--cold]

Each round does, for every number of threads: read all of SRC in blocks; read all and write half as much at
planned offsets (what int8 of BF16 does), with blocks reserved before and without; read and write all; copy
in the kernel (``copy_file_range``). Once a round it runs ``cp``. What is told is the least of the rounds, in
seconds, and seconds of processor time in the kernel. SRC is read into the page cache first. Linux only.

With ``--cold`` SRC is taken out of the page cache before each, and what is written is synced: what ``cat``
takes, and what reading all and writing half takes of a disk that does both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from transcode.io import system

__all__ = ["Figure", "cold", "limit", "measure"]

BLOCK = 4 << 20
"""Bytes of one read; of each so much is written as is asked for, in pieces of :data:`WRITE`."""

WRITE = 1 << 20
"""Bytes of one write: larger ones make the kernel look for larger runs of free memory."""

Figure = tuple[float, float]
"""Seconds of wall time, and of processor time in the kernel."""


def measure(source: Path, work: Path, threads: Sequence[int], rounds: int) -> dict[str, Figure]:
    """The least wall time of each way over all rounds, with the system time of that round.

    Args:
        source: a file to read.
        work: folder on the file system that is written; what is written there is removed again.
    """
    size = source.stat().st_size
    best: dict[str, Figure] = {}

    def note(name: str, action: Callable[[], None]) -> None:
        figure = _timed(action)
        best[name] = min(best.get(name, figure), figure)

    for _ in range(rounds):
        _read_all(source, None, size, 0.0, 2, reserve=False)
        note("cp", lambda: _run("cp", str(source), str(work / "copy")))
        (work / "copy").unlink()
        for count in threads:
            for name, share, reserve in (
                ("read", 0.0, False),
                ("read, reserve and write half", 0.5, True),
                ("read and write half", 0.5, False),
                ("read, reserve and write all", 1.0, True),
                ("read and write all", 1.0, False),
            ):
                out = work / "out" if share else None
                note(
                    f"{name}, {count} threads",
                    lambda out=out, share=share, count=count, reserve=reserve: _read_all(  # type: ignore[misc]
                        source, out, size, share, count, reserve=reserve
                    ),
                )
                if out is not None:
                    out.unlink()
            for reserve in (True, False):
                note(
                    f"copy in the kernel{', reserved' if reserve else ''}, {count} threads",
                    lambda count=count, reserve=reserve: _copy(  # type: ignore[misc]
                        source, work / "out", size, count, reserve=reserve
                    ),
                )
                (work / "out").unlink()
    return best


def cold(source: Path, work: Path, threads: Sequence[int], rounds: int) -> dict[str, Figure]:
    """As :func:`measure`, of a file that is on its disk only, and until what is written is on its own."""
    size = source.stat().st_size
    best: dict[str, Figure] = {}

    def note(name: str, action: Callable[[], None]) -> None:
        _evict(source)
        figure = _timed(action)
        best[name] = min(best.get(name, figure), figure)

    def copied() -> None:
        _run("cp", str(source), str(work / "copy"))
        _run("sync", str(work / "copy"))

    for _ in range(rounds):
        note("cat", lambda: _run("sh", "-c", f"cat {shlex.quote(str(source))} > /dev/null"))
        note("cp and sync", copied)
        (work / "copy").unlink()
        for count in threads:

            def half(count: int = count) -> None:
                _read_all(source, work / "out", size, 0.5, count, reserve=True, durable=True)

            note(f"read, reserve, write half, sync, {count} threads", half)
            (work / "out").unlink()
    return best


def limit(source: Path, out: Path, share: float, passes: float, threads: int) -> float:
    """Seconds in which a conversion's bytes can be read and written, without any work on them.

    Args:
        source: a file to read, from the page cache.
        out: file to write, which is removed again.
        share: bytes that are written over those that are read, into blocks that are reserved first.
        passes: how often all is read: more than once where a look at whole tensors comes first.
        threads: that share the blocks.
    """
    size = source.stat().st_size
    began = time.perf_counter()
    if passes > 1:
        _read_all(source, None, int(size * (passes - 1)), 0.0, threads, reserve=False)
    _read_all(source, out, size, share, threads, reserve=True)
    seconds = time.perf_counter() - began
    out.unlink()
    return seconds


def _evict(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _timed(action: Callable[[], None]) -> Figure:
    def system() -> float:
        return sum(
            resource.getrusage(who).ru_stime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )

    before, began = system(), time.perf_counter()
    action()
    return time.perf_counter() - began, system() - before


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _each_block(size: int, threads: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(begin, end)`` for all blocks of a file from so many threads, in order."""
    begins = iter(range(0, size, BLOCK))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def loop() -> None:
        try:
            while True:
                with lock:
                    begin = next(begins, None)
                if begin is None:
                    return
                work(begin, min(begin + BLOCK, size))
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=loop) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def _opened(out: Path, size: int, reserve: bool) -> int:
    fd = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    if reserve:
        os.posix_fallocate(fd, 0, size)
    else:
        os.ftruncate(fd, size)
    return fd


def _read_all(
    source: Path,
    out: Path | None,
    size: int,
    share: float,
    threads: int,
    *,
    reserve: bool,
    durable: bool = False,
) -> None:
    fd = os.open(source, os.O_RDONLY)
    target = None if out is None else _opened(out, int(size * share), reserve)
    own = threading.local()

    def work(begin: int, end: int) -> None:
        if not hasattr(own, "buffer"):
            own.buffer = memoryview(bytearray(BLOCK))
        block = own.buffer[: end - begin]
        os.preadv(fd, [block], begin)
        if target is not None:
            low, high = int(begin * share), int(end * share)
            for at in range(0, high - low, WRITE):
                os.pwrite(target, block[at : min(at + WRITE, high - low)], low + at)
            if durable:
                system.start_writeback(target, low, high - low)

    _each_block(size, threads, work)
    os.close(fd)
    if target is not None:
        if durable:
            os.fsync(target)
        os.close(target)


def _copy(source: Path, out: Path, size: int, threads: int, *, reserve: bool) -> None:
    fd, target = os.open(source, os.O_RDONLY), _opened(out, size, reserve)

    def work(begin: int, end: int) -> None:
        while begin < end:
            begin += os.copy_file_range(fd, target, end - begin, begin, begin)

    _each_block(size, threads, work)
    os.close(fd)
    os.close(target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure what memory and file system allow.")
    parser.add_argument("src", type=Path, help="a file")
    parser.add_argument("--work", type=Path, required=True, help="folder to write in")
    parser.add_argument("--threads", default="1,2,4,8,16", help="numbers of threads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures and the machine there")
    parser.add_argument("--cold", action="store_true", help="from the disk, and onto it")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    ways = cold if given.cold else measure
    figures = ways(given.src, given.work, [int(text) for text in given.threads.split(",")], given.rounds)
    size = given.src.stat().st_size
    for name, (wall, kernel) in figures.items():
        print(f"{name:44} {wall:7.2f} s  {kernel:7.2f} s in the kernel  {size / wall / 1e9:6.1f} GB/s")
    if given.json is not None:
        machine = {"processors": os.cpu_count(), "kernel": platform.release(), "bytes": size}
        given.json.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
