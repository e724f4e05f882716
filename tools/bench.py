"""The record of speed: measure a machine into one JSON file, and make BENCHMARKS.md's tables of such files.

    python tools/bench.py run NAME --work DIR [--disk DIR] [--blocks 10] [--rounds 3] [--only start,...]
        [--before TREE] [--minutes N] [--records DIR]
    python tools/bench.py tables [--check]

``run`` makes a checkpoint with the names and shapes of Wan2.1-14B in DIR, which may be memory, runs the
benchmarks one after the other, each with its yardstick in the same run, and writes
``tools/records/NAME.json``: the machine, versions, the time, and the rows of every table. Parts that are
there already and not asked for stay. What is cold is measured on ``--disk``, and left out without it; what
was before in another checkout, ``--before``, in turns with this one. After so many ``--minutes`` no further
part begins.

``tables`` puts what the records say between the lines ``<!-- record NAME PART -->`` and ``<!-- end -->`` of
BENCHMARKS.md; with ``--check`` it only says, by its exit code, whether they are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
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
        disk: a folder on a disk, for what is measured cold; None where there is none.
        before: a checkout of another state, to be measured in turns with this one.
    """

    source: Path
    work: Path
    rounds: int
    disk: Path | None = None
    before: Path | None = None


def _start(setting: Setting) -> Sequence[Row]:
    import bench_start

    figures = bench_start.measure(list(bench_start.CASES), ROOT / "fixtures" / "wan_tiny", setting.rounds * 4)
    return [
        {"command": name, "processor s": row["cpu"], "wall s": row["wall"], "/ import numpy": row["ratio"]}
        for name, row in figures.items()
    ]


def _kernels(setting: Setting) -> Sequence[Row]:
    import bench_kernels

    rows: list[Row] = []
    for case, (name, options) in bench_kernels.CASES.items():
        one = bench_kernels.measure(name, options, "BF16", (1024, 5120), setting.rounds * 2)
        rows.append({"kernel": case, "GB/s": one["encode_gb_s"], "/ memcpy": one["ratio"]})
    return rows


def _limit(setting: Setting) -> Sequence[Row]:
    import bench_limit

    figures = bench_limit.measure(setting.source, setting.work, _threads(), setting.rounds)
    return [{"way": name, "wall s": wall, "kernel s": kernel} for name, (wall, kernel) in figures.items()]


def _cold(setting: Setting) -> Sequence[Row]:
    import bench_limit
    import bench_run

    if setting.disk is None:
        return []
    setting.disk.mkdir(parents=True, exist_ok=True)
    source, out = setting.disk / "cold_source.safetensors", setting.disk / "cold.safetensors"
    shutil.copyfile(setting.source, source)
    figures = bench_limit.cold(source, setting.disk, [2, 4], setting.rounds)
    runs = []
    for _ in range(setting.rounds):
        runs.append(bench_run.measure("int8", _command(source, out, "int8"), source, out, "cold"))
        bench_run.clean(out)
    source.unlink()
    figures["int8, synced"] = min(one.wall for one in runs), 0.0
    least = figures["cat"][0]
    return [{"way": name, "wall s": wall, "/ cat": wall / least} for name, (wall, _) in figures.items()]


def _workers(setting: Setting) -> Sequence[Row]:
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


def _command(source: Path, out: Path, scheme: str) -> list[str]:
    return [sys.executable, "-m", "transcode", "run", str(source), str(out), "--scheme", scheme, "-q"]


def _growth(setting: Setting) -> Sequence[Row]:
    return apart("bench_growth.py", "--rounds", str(min(setting.rounds, 2)))


def _moe(setting: Setting) -> Sequence[Row]:
    return apart("bench_moe.py", "--work", str(setting.work))


def apart(script: str, *arguments: str) -> Sequence[Row]:
    """The rows of a benchmark that is run as a process of its own: the most memory of what it starts begins
    with that of who starts it, and this one has compiled kernels.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, str(ROOT / "tools" / script), *arguments, "--json", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows: Sequence[Row] = json.loads(out.read_text("utf-8"))["rows"]
    return rows


def _peers(setting: Setting) -> Sequence[Row]:
    """Whole processes, page cache hot, one round: the slow ones are minutes apart from the fast."""
    import bench_run

    tools = ROOT / "tools" / "baselines"
    out = setting.work / "peer.safetensors"

    def python(script: str, *more: str) -> list[str]:
        return [sys.executable, str(tools / script), str(setting.source), str(out), *more]

    ours = {
        f"transcode {scheme}": _command(setting.source, out, scheme) for scheme in ("int8", "nvfp4", "fp8")
    }
    cases: dict[str, tuple[str | None, list[str]]] = {
        "cat": (None, ["sh", "-c", f"cat {shlex.quote(str(setting.source))} > /dev/null"]),
        "cp": (None, ["cp", str(setting.source), str(out)]),
        **{name: (None, command) for name, command in ours.items()},
        "load all, LightX2V's way, int8": ("torch", python("load_all.py", "--scheme", "int8")),
        "load all, LightX2V's way, fp8": ("torch", python("load_all.py", "--scheme", "fp8")),
        "comfy-kitchen int8": ("comfy_kitchen", python("quantizers.py", "--by", "comfy_kitchen")),
        "torchao int8": ("torchao", python("quantizers.py", "--by", "torchao")),
        "torchao fp8": ("torchao", python("quantizers.py", "--by", "torchao", "--scheme", "fp8")),
        "llm-compressor FP8_DYNAMIC": ("llmcompressor", python("model_free_ptq.py")),
    }
    rows: list[Row] = []
    for name, (package, command) in cases.items():
        if package is not None and find_spec(package) is None:
            rows.append(
                {"way": name, "wall s": None, "/ cp": None, "CPU s": None, "peak MB": "not installed"}
            )
            continue
        rounds = setting.rounds if package is None else 1
        every = []
        for _ in range(rounds):
            every.append(bench_run.measure(name, command, setting.source, out, "hot"))
            bench_run.clean(out)
        one = min(every, key=lambda run: run.wall)
        rows.append(
            {"way": name, "wall s": one.wall, "/ cp": one.wall, "CPU s": one.user + one.system,
             "peak MB": str(round(one.rss / 1e6))}
        )  # fmt: skip
    least = next(row["wall s"] for row in rows if row["way"] == "cp")
    return [{**row, "/ cp": row["wall s"] and row["wall s"] / least} for row in rows]


_OF_TREE = "import sys; sys.path[0] = sys.argv.pop(1); from transcode.cli import main; main()"
"""The command line of a checkout: the folder in which this one is run comes first otherwise."""


def _before(setting: Setting) -> Sequence[Row]:
    """The same commands of two checkouts in turns, each with caches of its own; the least of the rounds."""
    import bench_growth
    import bench_start

    if setting.before is None:
        return []
    model = setting.work / "many.safetensors"
    bench_growth.write_file(model, range(10_000))
    tiny, out = str(ROOT / "fixtures" / "wan_tiny"), str(setting.work / "before_out")
    commands = {
        "--help": ["--help"],
        "inspect, tiny": ["inspect", tiny],
        "run --scheme int8, tiny": ["run", tiny, out, "--scheme", "int8", "-q"],
        "run --scheme nvfp4, tiny": ["run", tiny, out, "--scheme", "nvfp4", "-q"],
        "inspect, 10,000 tensors": ["inspect", str(model)],
        "run --scheme int8 -n, 10,000 tensors": ["run", str(model), out, "--scheme", "int8", "-n"],
    }
    trees = {"before": setting.before, "now": ROOT}
    least: dict[tuple[str, str], tuple[float, float]] = {}
    for number in range(setting.rounds * 3 + 1):
        for case, arguments in commands.items():
            for tree, path in trees.items():
                own = setting.work / f"caches of {tree}"
                environment = {
                    **os.environ,
                    "PYTHONPYCACHEPREFIX": str(own / "bytecode"),
                    "NUMBA_CACHE_DIR": str(own / "kernels"),
                    "XDG_CACHE_HOME": str(own / "home"),
                }
                environment.pop("PYTHONDONTWRITEBYTECODE", None)
                figure = bench_start.start(["-c", _OF_TREE, str(path), *arguments], environment)
                shutil.rmtree(out, ignore_errors=True)
                if number:  # the first compiles
                    least[case, tree] = min(least.get((case, tree), figure), figure)
    for tree in trees:
        shutil.rmtree(setting.work / f"caches of {tree}", ignore_errors=True)
    model.unlink()
    return [
        {"command": case, "before, processor s": least[case, "before"][0],
         "now, processor s": least[case, "now"][0],
         "now / before": least[case, "now"][0] / least[case, "before"][0],
         "now, wall s": least[case, "now"][1]}
        for case in commands
    ]  # fmt: skip


PARTS: Mapping[str, Callable[[Setting], Sequence[Row]]] = {
    "start": _start,
    "workers": _workers,
    "moe": _moe,
    "peers": _peers,
    "growth": _growth,
    "cold": _cold,
    "before": _before,
    "kernels": _kernels,
    "limit": _limit,
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


def run(
    name: str,
    work: Path,
    blocks: int,
    rounds: int,
    only: Sequence[str],
    *,
    disk: Path | None = None,
    before: Path | None = None,
    minutes: float = float("inf"),
    records: Path | None = None,
) -> Path:
    """Measure, and write the record after each part. Returns where it is.

    A part that fails is told, and stays as it was; the others go on.
    """
    import make_checkpoint

    began = time.monotonic()
    records = records or RECORDS
    records.mkdir(parents=True, exist_ok=True)
    path = records / f"{name}.json"
    record = json.loads(path.read_text("utf-8")) if path.exists() else {"tables": {}}
    work.mkdir(parents=True, exist_ok=True)
    source = work / "source.safetensors"
    setting = Setting(source, work, rounds, disk, before)
    record["machine"] = _machine()
    for part in only:
        if time.monotonic() - began > 60 * minutes:
            print(f"{part}: no time is left for it", file=sys.stderr)
            continue
        if not source.exists() and part not in _WITHOUT_SOURCE:
            make_checkpoint.main([str(source), "--blocks", str(blocks)])
        print(f"{part} ...", file=sys.stderr)
        try:
            rows = PARTS[part](setting)
        except (Exception, SystemExit) as error:
            print(f"{part}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        if not rows:
            continue
        record["tables"][part] = {"when": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0], "rows": rows}
        if source.exists() and part not in _WITHOUT_SOURCE:
            record["tables"][part]["source bytes"] = source.stat().st_size
        path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    source.unlink(missing_ok=True)
    return path


_WITHOUT_SOURCE = {"start", "kernels", "growth", "moe", "before"}


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
    one.add_argument("--disk", type=Path, help="folder on a disk, for what is measured cold")
    one.add_argument("--before", type=Path, help="another checkout, measured in turns with this one")
    one.add_argument("--minutes", type=float, default=float("inf"), help="after these no part begins")
    one.add_argument("--records", type=Path, help="folder of the record, if not tools/records")
    one.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    two = commands.add_parser("tables", help="put the records into BENCHMARKS.md")
    two.add_argument("--check", action="store_true", help="only say whether they are there")
    given = parser.parse_args(arguments)
    if given.command == "run":
        only = given.only.split(",")
        if unknown := set(only) - PARTS.keys():
            parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
        print(
            run(
                given.name,
                given.work,
                given.blocks,
                given.rounds,
                only,
                disk=given.disk,
                before=given.before,
                minutes=given.minutes,
                records=given.records,
            )
        )
        return 0
    text = PAGE.read_text("utf-8")
    filled = fill(text, _load)
    if given.check:
        return int(text != filled)
    PAGE.write_text(filled, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
