"""Measure ``transcode meta`` as whole processes, and loading and saving with safetensors beside it.

    python tools/bench_meta.py --work DIR [--size 28GB] [--dense 1GB] [--rounds 5] [--json]

The large file has the header of a video transformer's blocks, and its data are a hole: what an edit of
metadata costs does not depend on what the tensors hold. The dense file is full of bytes, because
``load_file`` and ``save_file`` read and write them all. For each command: median and best wall time of the
process with its start-up, its processor time, bytes that it handed to write calls and bytes that it caused to
go to the disk (``/proc/PID/io``: header, record and output together), and peak RSS. Linux only; the files are
removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transcode.containers.safetensors.header import Entry, read, render
from transcode.core.dtypes import dtype
from transcode.core.spec import Spec

__all__ = ["Row", "main"]

_UNITS = {"GB": 10**9, "MB": 10**6, "GIB": 1 << 30, "MIB": 1 << 20}
_LOAD_SAVE = (
    "import sys; from safetensors import safe_open; from safetensors.torch import load_file, save_file\n"
    "path, out = sys.argv[1:]\n"
    "metadata = safe_open(path, 'pt').metadata() or {}\n"
    "save_file(load_file(path), out, {**metadata, 'author': 'me'})"
)


@dataclass(frozen=True)
class Row:
    """One command: seconds, bytes."""

    name: str
    file_size: int
    header: int
    wall: float
    best: float
    cpu: float
    written: int
    to_disk: int
    rss: int


def facts(total: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of transformer blocks of width 5120, until they fill ``total`` bytes of BF16."""
    block, left = 0, total
    while left > 0:
        layers = [(f"{kind}.{part}", (5120, 5120)) for kind in ("self_attn", "cross_attn") for part in "qkvo"]
        layers += [("ffn.0", (13824, 5120)), ("ffn.2", (5120, 13824))]
        for layer, shape in layers:
            for name, size in ((f"{layer}.weight", shape), (f"{layer}.bias", (1, shape[0]))):
                yield f"blocks.{block}.{name}", size
                left -= 2 * size[0] * size[1]
                if left <= 0:
                    return
        block += 1


def make(path: Path, total: int, *, align: int, room: int, dense: bool) -> None:
    """A file of about ``total`` bytes."""
    entries, at = [], 0
    for name, shape in facts(total):
        spec = Spec(dtype("BF16"), shape)
        entries.append(Entry(name, spec, at, at + spec.nbytes))
        at += spec.nbytes
        if at >= total:
            break
    metadata = {"format": "pt", "author": "nobody", "config": json.dumps({"layers": list(range(100))})}
    head = render(entries, metadata, align=align, room=room)
    with open(path, "wb") as file:
        file.write(head)
        if dense:
            block = os.urandom(1 << 20)
            for start in range(0, at, len(block)):
                file.write(block[: at - start])
        file.truncate(len(head) + at)
        file.flush()
        os.fsync(file.fileno())


def run(command: list[str]) -> tuple[float, float, int, int, int]:
    """Wall and processor seconds, bytes written by calls, bytes caused to go to the disk, peak RSS."""
    begun = time.perf_counter()
    null = os.open(os.devnull, os.O_WRONLY)
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    wall = time.perf_counter() - begun
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    _, status, usage = os.wait4(pid, 0)
    os.close(null)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"failed: {' '.join(command)}")
    return (
        wall,
        usage.ru_utime + usage.ru_stime,
        int(io["wchar"]),
        int(io["write_bytes"]),
        usage.ru_maxrss * 1024,
    )


def measure(
    name: str, path: Path, rounds: int, prepare: Callable[[], None], command: Callable[[int], list[str]]
) -> Row:
    """Median of rounds, each on a fresh file."""
    found = []
    for number in range(rounds):
        prepare()
        header = read(path).data_start
        size = path.stat().st_size
        os.sync()
        found.append(run(command(number)))
    wall, cpu, written, to_disk, rss = (statistics.median(column) for column in zip(*found, strict=True))
    best = min(wall for wall, *_ in found)
    return Row(name, size, header, wall, best, cpu, int(written), int(to_disk), int(rss))


def nothing() -> None:
    """The file of the round before will do."""


def bench(work: Path, size: int, dense: int, rounds: int) -> list[Row]:
    """All measurements."""
    meta = [sys.executable, "-m", "transcode", "meta"]
    path, out = work / "bench_meta.safetensors", work / "bench_meta.out"

    def fresh(total: int, align: int, room: int, full: bool) -> Callable[[], None]:
        return lambda: make(path, total, align=align, room=room, dense=full)

    large = fresh(size, 4096, 4096, False)
    tight = fresh(size, 8, 0, False)
    change = [*meta, "set", str(path)]
    try:
        rows = [
            measure("meta get", path, rounds, large, lambda _: [*meta, "get", str(path)]),
            measure(
                "meta diff", path, rounds, large, lambda _: [*meta, "diff", *[str(path)] * 2, "--tensors"]
            ),
            measure("meta set, fits", path, rounds, large, lambda n: [*change, f"author=me {n}"]),
            measure("meta set, grows", path, rounds, tight, lambda _: [*change, "author=" + "x" * 5000]),
        ]
        if dense:
            make(path, dense, align=8, room=0, dense=True)
            load = [sys.executable, "-c", _LOAD_SAVE, str(path), str(out)]
            rows.append(measure("meta set, dense", path, rounds, nothing, lambda n: [*change, f"author={n}"]))
            rows.append(measure("safetensors load + save", path, rounds, nothing, lambda _: load))
    finally:
        for file in work.glob("bench_meta*"):
            file.unlink()
        for file in work.glob(".bench_meta*"):
            file.unlink()
    return rows


COLUMNS = (
    "command", "file, GB", "header, KB", "wall, ms", "best, ms", "CPU, ms", "written, KB", "headers",
    "to disk, KB", "RSS, MB",
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Markdown. ``headers``: bytes written over bytes of the header."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        figures = (
            f"{row.file_size / 1e9:.1f}", f"{row.header / 1e3:.1f}", f"{row.wall * 1e3:.0f}",
            f"{row.best * 1e3:.0f}", f"{row.cpu * 1e3:.0f}", f"{row.written / 1e3:.1f}",
            f"{row.written / row.header:.2f}", f"{row.to_disk / 1e3:.1f}", f"{row.rss / 1e6:.0f}",
        )  # fmt: skip
        lines.append(f"| {row.name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _size(text: str) -> int:
    for unit, factor in _UNITS.items():
        if text.upper().endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure transcode meta.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=_size, default="28GB")
    parser.add_argument("--dense", type=_size, default="1GB", help="0 leaves safetensors out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = bench(chosen.work, chosen.size, chosen.dense, chosen.rounds)
    print(json.dumps([asdict(row) for row in rows], indent=2) if chosen.json else table(rows))


if __name__ == "__main__":
    main()
