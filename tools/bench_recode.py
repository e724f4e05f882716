"""What it costs to make one quantized format of another, beside the converters of other projects.

    python tools/bench_recode.py --work DIR [--layers 4] [--rounds 2]

A language model with random weights, FP8 in blocks as DeepSeek stores it, is converted by transcode and by
tools/baselines/recoders.py, turn by turn, each in a process of its own with one thread. The table has the
least seconds of the processor (on a machine that others use too, wall time tells little), the peak of the
resident memory, and how many tensors hold the same bytes as transcode's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

__all__ = ["TASKS", "Cost", "main", "make", "measure", "same"]

ROOT = Path(__file__).parents[1]
RECODERS = ROOT / "tools" / "baselines" / "recoders.py"
_HIDDEN, _INNER = 2048, 5632
_TRANSCODE = [sys.executable, "-m", "transcode", "run", "{src}", "{dst}", "--force", "-q", "--workers", "1"]

TASKS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "fp8 in blocks -> BF16": (
        "deepseek",
        {
            "transcode": [*_TRANSCODE, "--dequantize", "bf16"],
            "fp8_cast_bf16": [sys.executable, str(RECODERS), "{src}", "{dst}", "--by", "deepseek"],
            "llm-compressor": [sys.executable, str(RECODERS), "{src}", "{dst}", "--by", "compressed_tensors"],
        },
    ),
}
"""What is done: the source, and the commands of those who do it."""


class Cost(NamedTuple):
    """Of one process: seconds of the processor, and the most bytes that were resident."""

    seconds: float
    rss: int


def make(folder: Path, layers: int) -> dict[str, Path]:
    """The model in BF16, and what is measured made of it."""
    import transcode as tc

    plain = folder / "plain"
    plain.mkdir(parents=True)
    random = np.random.default_rng(0)
    shapes = {f"self_attn.{one}_proj": (_HIDDEN, _HIDDEN) for one in "qkvo"}
    shapes |= {f"mlp.{one}_proj": (_INNER, _HIDDEN) for one in ("gate", "up")}
    shapes |= {"mlp.down_proj": (_HIDDEN, _INNER)}
    where = {}
    for layer in range(layers):
        made = {
            f"model.layers.{layer}.{name}.weight": random.standard_normal(shape, np.float32)
            for name, shape in shapes.items()
        }
        made[f"model.layers.{layer}.input_layernorm.weight"] = np.ones(_HIDDEN, np.float32)
        file = f"model-{layer + 1:05}-of-{layers:05}.safetensors"
        save_file({name: one.astype(ml_dtypes.bfloat16) for name, one in made.items()}, plain / file)
        where.update(dict.fromkeys(made, file))
    (plain / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (plain / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')
    sources = {}
    for convention, scheme in (("deepseek", "fp8"),):
        sources[convention] = folder / convention
        flow: Any = tc.open(plain) | tc.quantize(scheme)
        flow | tc.write(sources[convention], convention=convention, max_shard_size="64MB")
    shutil.rmtree(plain)
    return sources


def measure(command: Sequence[str], source: Path, out: Path) -> Cost | None:
    """Run one process; None where what it needs is not installed.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    line = [part.format(src=source, dst=out) for part in command]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }  # fmt: skip
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == 3:
        return None
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, line)
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def same(one: Path, other: Path) -> tuple[int, int]:
    """How many tensors of a folder have the same bytes in another, and how many there are."""
    held = [_bodies(folder) for folder in (one, other)]
    return sum(held[1].get(name) == body for name, body in held[0].items()), len(held[0])


def _bodies(folder: Path) -> dict[str, bytes]:
    bodies = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        size = 8 + int.from_bytes(data[:8], "little")
        for name, facts in json.loads(data[8:size]).items():
            if name != "__metadata__":
                begin, end = facts["data_offsets"]
                bodies[name] = data[size + begin : size + end]
    return bodies


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made and removed again")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args(arguments)
    folder = given.work / "recode"
    try:
        sources = make(folder, given.layers)
        print("| | by | processor s | peak MB | tensors alike |\n|---|---|---|---|---|")
        for task, (source, commands) in TASKS.items():
            costs: dict[str, list[Cost]] = {name: [] for name in commands}
            for _ in range(given.rounds):
                for name, command in commands.items():
                    cost = measure(command, sources[source], folder / name)
                    costs[name] += [] if cost is None else [cost]
            for name, some in costs.items():
                if not some:
                    print(f"| {task} | {name} | not installed | | |")
                    continue
                alike, of = same(folder / "transcode", folder / name)
                seconds, rss = min(one.seconds for one in some), max(one.rss for one in some)
                print(f"| {task} | {name} | {seconds:.1f} | {rss / 1e6:.0f} | {alike} of {of} |", flush=True)
                if name != "transcode":
                    shutil.rmtree(folder / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
