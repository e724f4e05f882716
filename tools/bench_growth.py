"""What facts cost as models grow: whole processes on sparse files of many tensors, and of many shards.

    python tools/bench_growth.py [--json OUT] [--rounds N] [--tensors N,N,...] [--shards N] [CASE ...]

Files are made for the run, of holes where the tensors are: only headers are read, or copied. Each case runs
on the smallest model and on each larger one in turns, round by round; the least processor time (user and
system) of all rounds counts. What a tensor costs is that of the larger model over that of the smallest,
divided by the tensors that it has more; likewise memory. Where it grows in proportion, the figures of a case
are alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CASES: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "SRC"),
    "run -n": ("run", "SRC", "DST", "--max-shard-size", "50MB", "-n"),
    "run -n int8": ("run", "SRC", "DST", "--scheme", "int8", "-n"),
    "meta set": ("meta", "set", "SRC", "a=b"),
}
SMALL = 100
"""Tensors of the model whose cost is that of the start."""

SHAPE = (64, 64)
_NBYTES = 2 * SHAPE[0] * SHAPE[1]


def name_of(number: int) -> str:
    """As a mixture of experts has them: ten experts of three matrices to a layer."""
    layer, place = divmod(number, 30)
    matrix = ("gate_proj", "up_proj", "down_proj")[place % 3]
    return f"model.layers.{layer}.mlp.experts.{place // 3}.{matrix}.weight"


def write_file(path: Path, numbers: range) -> None:
    """A safetensors file of some tensors in BF16, whose bytes are a hole."""
    entries = {
        name_of(number): {
            "dtype": "BF16",
            "shape": SHAPE,
            "data_offsets": [at * _NBYTES, (at + 1) * _NBYTES],
        }
        for at, number in enumerate(numbers)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + len(numbers) * _NBYTES)


def write_shards(folder: Path, tensors: int, shards: int) -> None:
    """A folder of shards with its index."""
    folder.mkdir()
    weight_map = {}
    for shard in range(shards):
        numbers = range(shard * tensors // shards, (shard + 1) * tensors // shards)
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        write_file(folder / name, numbers)
        weight_map.update({name_of(number): name for number in numbers})
    index = {"metadata": {"total_size": tensors * _NBYTES}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def spent(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[float, int]:
    """Seconds of the processor, and most bytes of memory, of one process.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "transcode", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
    )  # what goes wrong is said where the tool says its own
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def measure(names: Sequence[str], models: Mapping[str, Path], rounds: int, folder: Path) -> dict[str, Any]:
    """The least seconds and bytes of each case on each model."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for number in range(rounds + 1):
        for name in names:
            for model, path in models.items():
                if name == "meta set" and path.is_dir():
                    continue  # it edits one file
                places = {"SRC": str(path), "DST": str(folder / "out")}
                seconds, nbytes = spent([places.get(word, word) for word in CASES[name]], environment)
                least = figures[name].get(model)
                if number == 0:  # writes bytecode, and reads what lies on no page yet
                    continue
                figures[name][model] = [
                    seconds if least is None else min(least[0], seconds),
                    nbytes if least is None else min(least[1], nbytes),
                ]
    return figures


def rows(
    figures: Mapping[str, Mapping[str, Sequence[float]]], tensors: Mapping[str, int]
) -> list[dict[str, Any]]:
    """A row for each case and model but the smallest: all of it, and what a tensor more costs."""
    table = []
    for case, by_model in figures.items():
        start = by_model["start"]
        for model, (seconds, nbytes) in by_model.items():
            if model != "start":
                more = tensors[model] - tensors["start"]
                table.append(
                    {
                        "case": case,
                        "model": model,
                        "seconds": round(seconds, 4),
                        "us_per_tensor": round(1e6 * (seconds - start[0]) / more, 2),
                        "bytes_per_tensor": round((nbytes - start[1]) / more),
                    }
                )
    return table


def run(names: Sequence[str], tensors: Sequence[int], shards: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of some cases, see :func:`rows`, on files of so many tensors and on a model of many shards."""
    return _run(names, tensors, shards, rounds)[1]


def _run(
    names: Sequence[str], tensors: Sequence[int], shards: int, rounds: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        counts = {"start": SMALL, **{str(count): count for count in tensors}}
        models = {model: folder / f"{model}.safetensors" for model in counts}
        for model, count in counts.items():
            write_file(models[model], range(count))
        if shards:
            model = f"{shards} shards"
            counts[model], models[model] = 10 * shards, folder / "shards"
            write_shards(models[model], counts[model], shards)
        figures = measure(names, models, max(rounds, 1), folder)
        shutil.rmtree(folder / "bytecode", ignore_errors=True)
    return figures, rows(figures, counts)


def main() -> None:
    """Print a line for each case and model."""
    parser = argparse.ArgumentParser(description="Cost of facts for growing models.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only cases that start with this")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write a record of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tensors", default="1000,10000,100000", help="how many tensors the files have")
    parser.add_argument(
        "--shards", type=int, default=1000, help="files of a model of as many shards; 0: none"
    )
    arguments = parser.parse_args()
    wanted = tuple(arguments.cases)
    names = [name for name in CASES if not wanted or name.startswith(wanted)]
    counts = [int(text) for text in arguments.tensors.split(",")]
    figures, table = _run(names, counts, arguments.shards, arguments.rounds)
    for row in table:
        print(
            f"{row['case']:12} {row['model']:>12}  {row['seconds']:8.3f} s"
            f"  {row['us_per_tensor']:8.2f} us and {row['bytes_per_tensor']:6d} bytes a tensor"
        )
    if arguments.json is not None:
        record = {
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            "python": platform.python_version(),
            "rounds": arguments.rounds,
            "start": {case: round(by_model["start"][0], 4) for case, by_model in figures.items()},
            "rows": table,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
