"""The record of speed: measure a machine into one JSON file, and make BENCHMARKS.md's tables of such files.

    python tools/bench.py run NAME --work DIR [--blocks 10] [--rounds 3] [--only start,kernels,...]
    python tools/bench.py tables [--check]

``run`` makes a checkpoint with the names and shapes of Wan2.1-14B in DIR, runs the benchmarks one after the
other, each with its yardstick in the same run, and writes ``tools/records/NAME.json``: the machine, versions,
the time, and the rows of every table. Parts that are there already and not asked for stay.

``tables`` puts what the records say between the lines ``<!-- record NAME PART -->`` and ``<!-- end -->`` of
BENCHMARKS.md; with ``--check`` it only says, by its exit code, whether they are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PARTS", "RECORDS", "fill", "render"]

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "tools" / "records"
PAGE = ROOT / "BENCHMARKS.md"

Row = Mapping[str, Any]
"""A line of a table: names of columns and their values."""


@dataclass(frozen=True)
class Setting:
    """Where the parts measure.

    Attributes:
        source: a checkpoint of BF16 tensors, in one file.
        work: a folder on the file system that is written.
        rounds: how often each is measured; the least counts.
    """

    source: Path
    work: Path
    rounds: int


def _start(setting: Setting) -> list[Row]:
    import bench_start

    figures = bench_start.measure(list(bench_start.CASES), ROOT / "fixtures" / "wan_tiny", setting.rounds * 4)
    return [
        {"command": name, "processor s": row["cpu"], "wall s": row["wall"], "/ import numpy": row["ratio"]}
        for name, row in figures.items()
    ]


def _kernels(setting: Setting) -> list[Row]:
    import bench_kernels

    rows: list[Row] = []
    for case, (name, options) in bench_kernels.CASES.items():
        one = bench_kernels.measure(name, options, "BF16", (1024, 5120), setting.rounds * 2)
        rows.append({"kernel": case, "GB/s": one["encode_gb_s"], "/ memcpy": one["ratio"]})
    return rows


def _limit(setting: Setting) -> list[Row]:
    import bench_limit

    figures = bench_limit.measure(setting.source, setting.work, _threads(), setting.rounds)
    return [{"way": name, "wall s": wall, "kernel s": kernel} for name, (wall, kernel) in figures.items()]


def _cold(setting: Setting) -> list[Row]:
    import bench_limit
    import bench_run

    figures = bench_limit.cold(setting.source, setting.work, [2, 4], setting.rounds)
    out = setting.work / "cold.safetensors"
    command = [
        sys.executable,
        "-m",
        "transcode",
        "run",
        str(setting.source),
        str(out),
        "--scheme",
        "int8",
        "-q",
    ]
    runs = []
    for _ in range(setting.rounds):
        runs.append(bench_run.measure("int8", command, setting.source, out, "cold"))
        bench_run.clean(out)
    figures["int8, synced"] = min(one.wall for one in runs), 0.0
    least = figures["cat"][0]
    return [{"way": name, "wall s": wall, "/ cat": wall / least} for name, (wall, _) in figures.items()]


def _workers(setting: Setting) -> list[Row]:
    import bench_workers

    counts = ["default", *map(str, _threads())]
    rows = bench_workers.measure(setting.source, setting.work, bench_workers.SCHEMES, counts, setting.rounds)
    return [
        {"scheme": row.scheme, "workers": row.workers, "s": row.seconds, "limit s": row.limit,
         "/ limit": row.ratio, "user s": row.user, "kernel s": row.kernel}
        for row in rows
    ]  # fmt: skip


def _threads() -> list[int]:
    most = os.cpu_count() or 1
    return [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= most and (count != 2 or most < 8)]


PARTS: Mapping[str, Callable[[Setting], list[Row]]] = {
    "start": _start,
    "kernels": _kernels,
    "limit": _limit,
    "workers": _workers,
    "cold": _cold,
}


def _machine() -> dict[str, Any]:
    model = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    import numba
    import numpy

    from transcode import __version__

    return {
        "processors": os.cpu_count(),
        "model": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "transcode": __version__,
    }


def run(name: str, work: Path, blocks: int, rounds: int, only: Sequence[str]) -> Path:
    """Measure, and write the record after each part. Returns where it is."""
    import make_checkpoint

    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{name}.json"
    record = json.loads(path.read_text("utf-8")) if path.exists() else {"tables": {}}
    work.mkdir(parents=True, exist_ok=True)
    source = work / "source.safetensors"
    if not source.exists() and set(only) - {"start", "kernels"}:
        make_checkpoint.main([str(source), "--blocks", str(blocks)])
    record["machine"] = _machine()
    for part in only:
        print(f"{part} ...", file=sys.stderr)
        rows = PARTS[part](Setting(source, work, rounds))
        record["tables"][part] = {"when": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0], "rows": rows}
        if source.exists():
            record["tables"][part]["source bytes"] = source.stat().st_size
        path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    source.unlink(missing_ok=True)
    return path


def render(record: Mapping[str, Any], part: str) -> str:
    """A table of Markdown, and the line that says where and when it was measured."""
    table, machine = record["tables"][part], record["machine"]
    columns = list(table["rows"][0])
    numbers = {column for column in columns if not isinstance(table["rows"][0][column], str)}
    lines = [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('---:' if column in numbers else '---' for column in columns)}|",
    ]
    lines += [f"| {' | '.join(_cell(row[column]) for column in columns)} |" for row in table["rows"]]
    size = f", {table['source bytes'] / 1e9:.1f} GB" if "source bytes" in table else ""
    about = f"{table['when']}, {machine['processors']} processors ({machine['model']}),"
    about += (
        f" Linux {machine['kernel']}, Python {machine['python']}, load {table['load']:.1f} at the end{size}."
    )
    return "\n".join([about, "", *lines])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
    return str(value)


_PLACE = re.compile(r"(<!-- record (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, load: Callable[[str], Mapping[str, Any]]) -> str:
    """A page with all its tables as the records have them.

    Args:
        text: the page.
        load: gives a record by its name.
    """

    def place(match: re.Match[str]) -> str:
        return f"{match[1]}{render(load(match[2]), match[3])}\n{match[4]}"

    return _PLACE.sub(place, text)


def _load(name: str) -> Mapping[str, Any]:
    record: Mapping[str, Any] = json.loads((RECORDS / f"{name}.json").read_text("utf-8"))
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(description="The record of speed.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="measure this machine")
    one.add_argument("name", help="of the record")
    one.add_argument("--work", type=Path, required=True, help="folder to measure in")
    one.add_argument("--blocks", type=int, default=10, help="of the checkpoint: 10 are 8.6 GB")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    two = commands.add_parser("tables", help="put the records into BENCHMARKS.md")
    two.add_argument("--check", action="store_true", help="only say whether they are there")
    given = parser.parse_args(arguments)
    if given.command == "run":
        only = given.only.split(",")
        if unknown := set(only) - PARTS.keys():
            parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
        print(run(given.name, given.work, given.blocks, given.rounds, only))
        return 0
    text = PAGE.read_text("utf-8")
    filled = fill(text, _load)
    if given.check:
        return int(text != filled)
    PAGE.write_text(filled, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
