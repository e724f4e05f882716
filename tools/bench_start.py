"""What it costs to start: whole processes on a tiny checkpoint, over ``python -c 'import numpy'``.

    python tools/bench_start.py [--json] [--rounds N] [--source SRC] [CASE ...]

One process of each case after the other, round by round, so that a drift of the machine meets all; the least
of all rounds counts, in seconds of the processor (user and system) and on the clock. Kernels are compiled
before, into a cache of this run's own; what that took is told, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REFERENCE = "import numpy"
RUN = ("-m", "transcode", "run", "SRC", "DST")
CASES: dict[str, tuple[str, ...]] = {
    "python": ("-c", "pass"),
    REFERENCE: ("-c", "import numpy"),
    "import llvmlite.binding": ("-c", "import llvmlite.binding"),
    "import numba": ("-c", "import numba"),
    "--help": ("-m", "transcode", "--help"),
    "inspect": ("-m", "transcode", "inspect", "SRC"),
    "run": RUN,
    "run int8": (*RUN, "--scheme", "int8"),
    "run nvfp4": (*RUN, "--scheme", "nvfp4"),
}


def start(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds of the processor and on the clock of one process.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return usage.ru_utime + usage.ru_stime, wall


def measure(names: Sequence[str], source: Path, rounds: int) -> dict[str, dict[str, float]]:
    """The least seconds of each case, and of its first process, which compiles."""
    with tempfile.TemporaryDirectory() as folder:
        destination = Path(folder, "out")
        environment = {
            **os.environ,
            "NUMBA_CACHE_DIR": str(Path(folder, "kernels")),
            "PYTHONPYCACHEPREFIX": str(Path(folder, "bytecode")),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
        places = {"SRC": str(source), "DST": str(destination)}
        figures: dict[str, dict[str, float]] = {}
        for number in range(rounds + 1):
            for name in names:
                arguments = [places.get(argument, argument) for argument in CASES[name]]
                cpu, wall = start(arguments, environment)
                shutil.rmtree(destination, ignore_errors=True)
                if number == 0:
                    figures[name] = {"first": wall, "cpu": cpu, "wall": wall}
                elif number == 1:
                    figures[name] |= {"cpu": cpu, "wall": wall}
                else:
                    figures[name]["cpu"] = min(figures[name]["cpu"], cpu)
                    figures[name]["wall"] = min(figures[name]["wall"], wall)
    for row in figures.values():
        row["ratio"] = row["cpu"] / figures[REFERENCE]["cpu"]
    return figures


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description="Cost of start-up over that of numpy.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only cases that start with this")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[1] / "fixtures" / "wan_tiny")
    arguments = parser.parse_args()
    wanted = tuple(arguments.cases)
    names = [name for name in CASES if not wanted or name == REFERENCE or name.startswith(wanted)]
    figures = measure(names, arguments.source, max(arguments.rounds, 1))
    if arguments.json:
        print(json.dumps(figures, indent=1))
        return
    for name, row in figures.items():
        print(
            f"{name:24} cpu {row['cpu']:6.3f} s   wall {row['wall']:6.3f} s   ratio {row['ratio']:5.2f}"
            f"   the first time {row['first']:6.2f} s"
        )


if __name__ == "__main__":
    main()
