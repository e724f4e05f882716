"""Measure whole runs of commands on a checkpoint, side by side with a copy of it.

    python tools/bench_run.py SRC --work DIR --rounds 3 \\
        --command 'int8 = transcode run {src} {dst}.safetensors --scheme int8' \\
        --command 'load all = python tools/baselines/load_all.py {src} {dst}.safetensors'

Each round runs, one after the other, ``cat SRC > /dev/null``, ``cp SRC`` and every command, so that a machine
that drifts drifts for all of them; ratios are taken within a round, and their median is told. Time is that of
the whole process and the sync of what it wrote. Before a ``hot`` run the source is read into the page cache,
before a ``cold`` one it is put out of it.

Memory is read from /proc while the process runs: the peak of its RSS, and the peaks of its anonymous and its
file-backed pages, which are sampled. Page cache that no process maps is not a process's memory. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Run", "Summary", "measure", "summarise", "table"]

MIB = 1 << 20
INTERVAL = 0.004


@dataclass(frozen=True)
class Run:
    """One measured process. Seconds and bytes; memory is the peak of one process.

    Attributes:
        wall: from start until all it wrote is on the disk.
        exit: from start until it ended.
        rss: peak resident set, exact.
        anonymous: peak of private memory, sampled.
        file: peak of resident mapped file pages, sampled.
        smaps_anonymous: the largest anonymous size that smaps_rollup told, counted page by page; 0 if never.
        samples: how often memory was looked at.
        written: bytes of the files it left.
    """

    name: str
    mode: str
    wall: float
    exit: float
    user: float
    system: float
    rss: int
    anonymous: int
    file: int
    smaps_anonymous: int
    samples: int
    written: int


class _Memory(threading.Thread):
    """Samples the memory of one process until it is gone."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = {"VmHWM": 0, "RssAnon": 0, "RssFile": 0}
        self.smaps = 0
        self.samples = 0
        self._ended = threading.Event()

    def run(self) -> None:
        look = 0.0
        while not self._ended.wait(INTERVAL):
            now = time.monotonic()
            try:
                self._status()
                if now >= look:
                    self._rollup()
                    # The kernel walks the page tables for this: keep it below 2 % of the time.
                    look = now + max(0.05, 50 * (time.monotonic() - now))
            except (FileNotFoundError, ProcessLookupError):
                return

    def _status(self) -> None:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in self.peak:
                self.peak[key] = max(self.peak[key], int(value.split()[0]) * 1024)
                self.samples += key == "VmHWM"

    def _rollup(self) -> None:
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                # The last one would be that of a process which is giving its memory back.
                self.smaps = max(self.smaps, int(line.split()[1]) * 1024)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def files_of(path: Path) -> list[Path]:
    """The files that make up a file or a folder."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def sync(path: Path) -> int:
    """Wait until a file or folder is on the disk; returns its bytes."""
    size = 0
    for file in files_of(path):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        size += file.stat().st_size
    return size


def chill(path: Path) -> None:
    """Put a file or folder out of the page cache."""
    for file in files_of(path):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # dirty pages would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm(path: Path) -> None:
    """Bring a file or folder into the page cache."""
    buffer = bytearray(4 * MIB)
    for file in files_of(path):
        with open(file, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def clean(dst: Path) -> None:
    """Remove every output whose name begins with that of ``dst``."""
    for path in dst.parent.glob(dst.name + "*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def measure(name: str, command: Sequence[str], src: Path, dst: Path, mode: str) -> Run:
    """Run one command from a clean start: outputs named ``dst*`` removed, the source hot or cold."""
    clean(dst)
    os.sync()
    if mode == "cold":
        chill(src)
    else:
        warm(src)
    log = dst.parent / "bench_run.log"
    with open(log, "w+") as output:
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        memory = _Memory(process.pid)
        memory.start()
        # wait4 rather than Popen.wait: it tells this child's own use.
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.monotonic()
        process.returncode = os.waitstatus_to_exitcode(status)
        written = sum(sync(path) for path in dst.parent.glob(dst.name + "*"))
        done = time.monotonic()
        memory.stop()
        if process.returncode != 0:
            output.seek(0)
            raise SystemExit(f"{name}: exit {process.returncode}\n{output.read()[-4000:]}")
    log.unlink()
    # VmHWM misses the last milliseconds. ru_maxrss doesn't, but starts at what this process had at the fork.
    exact = usage.ru_maxrss * 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Run(
        name,
        mode,
        wall=done - began,
        exit=ended - began,
        user=usage.ru_utime,
        system=usage.ru_stime,
        rss=exact if exact > own else memory.peak["VmHWM"],
        anonymous=memory.peak["RssAnon"],
        file=memory.peak["RssFile"],
        smaps_anonymous=memory.smaps,
        samples=memory.samples,
        written=written,
    )


@dataclass(frozen=True)
class Summary:
    """All runs of one command in one mode: medians of times, largest memory."""

    name: str
    mode: str
    runs: int
    wall: float
    wall_min: float
    wall_max: float
    cpu: float
    ratio: float
    rate: float
    rss: int
    anonymous: int
    file: int
    written: int


def summarise(runs: Sequence[Run], size: int, base: str = "cp") -> list[Summary]:
    """One line for each command and mode, in order of first appearance.

    ``ratio`` is the median, over rounds, of a command's wall time over that of ``base`` in the same round;
    ``rate`` is bytes of source per second of the median wall time.
    """
    found: list[Summary] = []
    for name, mode in dict.fromkeys((run.name, run.mode) for run in runs):
        mine = [run for run in runs if (run.name, run.mode) == (name, mode)]
        bases = [run for run in runs if (run.name, run.mode) == (base, mode)]
        wall = statistics.median(run.wall for run in mine)
        found.append(
            Summary(
                name,
                mode,
                runs=len(mine),
                wall=wall,
                wall_min=min(run.wall for run in mine),
                wall_max=max(run.wall for run in mine),
                cpu=statistics.median(run.user + run.system for run in mine),
                ratio=statistics.median(a.wall / b.wall for a, b in zip(mine, bases, strict=True)),
                rate=size / wall,
                rss=max(run.rss for run in mine),
                anonymous=max(run.anonymous for run in mine),
                file=max(run.file for run in mine),
                written=mine[0].written,
            )
        )
    return found


def table(summaries: Sequence[Summary], base: str = "cp") -> str:
    """A Markdown table of summaries."""
    head = [
        "command",
        "cache",
        "wall s (min to max)",
        f"/ {base}",
        "GB/s",
        "CPU s",
        "peak RSS MiB",
        "anon",
        "file",
    ]
    rows = [
        [
            one.name,
            one.mode,
            f"{one.wall:.2f} ({one.wall_min:.2f} to {one.wall_max:.2f})",
            f"{one.ratio:.2f}",
            f"{one.rate / 1e9:.2f}",
            f"{one.cpu:.2f}",
            *(f"{value / MIB:.0f}" for value in (one.rss, one.anonymous, one.file)),
        ]
        for one in summaries
    ]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(work: Path) -> dict[str, str | int]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    mount = subprocess.run(
        ["stat", "-f", "-c", "%T", str(work)], capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": mount,
    }


def rounds(
    commands: Sequence[tuple[str, str]], src: Path, work: Path, modes: Sequence[str], count: int
) -> Iterator[Run]:
    """Measure everything ``count`` times in turn."""
    dst = work / "bench_run_output"
    values = {"src": str(src), "dst": str(dst)}
    plain = [
        (
            "cat",
            ["sh", "-c", f"cat {' '.join(shlex.quote(str(file)) for file in files_of(src))} > /dev/null"],
        ),
        ("cp", ["cp", "-r", str(src), str(dst)]),
    ]
    given = [(name, [word.format(**values) for word in shlex.split(line)]) for name, line in commands]
    for _ in range(count):
        for mode in modes:
            for name, command in (*plain, *given):
                run = measure(name, command, src, dst, mode)
                clean(dst)
                yield run


def _command(text: str) -> tuple[str, str]:
    name, equals, line = text.partition("=")
    if not equals or not line.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME = COMMAND")
    return name.strip(), line.strip()


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("src", type=Path, help="a checkpoint: file or folder")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for outputs, on the disk to be measured"
    )
    parser.add_argument(
        "--command", type=_command, action="append", default=[], metavar="'NAME = COMMAND'", dest="commands",
        help="a command to measure; {src} and {dst} are put in, and outputs must be named {dst}*",
    )  # fmt: skip
    parser.add_argument("--mode", choices=("hot", "cold", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every run and the machine there")
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    modes = ("cold", "hot") if options.mode == "both" else (options.mode,)
    src = options.src.resolve()
    size = sum(file.stat().st_size for file in files_of(src))
    found: list[Run] = []
    for run in rounds(options.commands, src, options.work.resolve(), modes, options.rounds):
        found.append(run)
        print(f"{run.mode:4} {run.name:24} {run.wall:8.2f} s  RSS {run.rss / MIB:6.0f} MiB", file=sys.stderr)
    print(table(summarise(found, size)))
    if options.json is not None:
        report = {
            "machine": machine(options.work),
            "source": {"path": src.name, "bytes": size},
            "runs": [asdict(run) for run in found],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
