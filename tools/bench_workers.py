"""Measure conversions by the number of workers, over the limit that the machine sets to the same bytes.

    python tools/bench_workers.py SRC --work DIR [--workers default,1,4] [--rounds 2] [--json FILE] [SCHEME]

The limit of a scheme is :func:`bench_limit.limit`: all of SRC is read in blocks, twice what the scheme looks
at before, and as many bytes are written as it writes, into a file whose blocks are reserved, by the number of
threads that does it fastest.
Start-up is not counted: the seconds of a run are those that its report tells. SRC lies in the page cache.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bench_limit

__all__ = ["SCHEMES", "Row", "measure"]

SCHEMES = ("int8", "fp8", "mxfp8", "mxfp4", "nvfp4")
_THREADS = (2, 4, 8)
"""Numbers of threads of which the fastest sets the limit: with more the kernel is slower."""


@dataclass
class Row:
    """One scheme with one number of workers: the least of all rounds.

    Attributes:
        workers: as asked for, ``default`` for none.
        seconds: of the conversion, without start-up.
        user, kernel: seconds of processor time of the whole process.
        limit: seconds that reading and writing the same bytes takes.
        ratio: ``seconds / limit``.
    """

    scheme: str
    workers: str
    seconds: float
    user: float
    kernel: float
    limit: float = 0.0
    ratio: float = 0.0


def measure(
    source: Path, work: Path, schemes: Sequence[str], workers: Sequence[str], rounds: int
) -> list[Row]:
    """Every scheme with every number of workers, and its limit, in turns."""
    size = source.stat().st_size
    best: dict[tuple[str, str], Row] = {}
    limits: dict[str, float] = {}
    out = work / "out.safetensors"
    for scheme in schemes:  # kernels are compiled, and SRC is read, before anything is measured
        _run(source, out, scheme, "default")
        out.unlink()
    for _ in range(rounds):
        for scheme in schemes:
            for count in workers:
                row, passes = _run(source, out, scheme, count)
                share = out.stat().st_size / size
                out.unlink()
                key = scheme, count
                if key not in best or row.seconds < best[key].seconds:
                    best[key] = row
            for threads in _THREADS:
                seconds = bench_limit.limit(source, out, share, passes, threads)
                limits[scheme] = min(limits.get(scheme, seconds), seconds)
    for row in best.values():
        row.limit = limits[row.scheme]
        row.ratio = row.seconds / row.limit
    return list(best.values())


def _run(source: Path, out: Path, scheme: str, workers: str) -> tuple[Row, float]:
    """A conversion, and how often it reads all of the source."""
    command = [sys.executable, "-m", "transcode", "run", str(source), str(out), "--scheme", scheme, "--json"]
    if workers != "default":
        command += ["--workers", workers]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout)
    row = Row(
        scheme,
        workers,
        report["seconds"],
        after.ru_utime - before.ru_utime,
        after.ru_stime - before.ru_stime,
    )
    return row, report["bytes_read"] / report["bytes_in"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure conversions by the number of workers.")
    parser.add_argument("src", type=Path, help="a file of BF16 tensors")
    parser.add_argument("schemes", nargs="*", default=SCHEMES, metavar="SCHEME")
    parser.add_argument("--work", type=Path, required=True, help="folder to write in")
    parser.add_argument("--workers", default=f"default,1,4,{os.cpu_count()}", help="numbers of workers")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    rows = measure(given.src, given.work, given.schemes, given.workers.split(","), given.rounds)
    for row in rows:
        print(
            f"{row.scheme:8} {row.workers:>8} workers {row.seconds:7.2f} s   limit {row.limit:6.2f} s"
            f"   ratio {row.ratio:5.2f}   {row.user:6.1f} s user {row.kernel:6.1f} s kernel"
        )
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
