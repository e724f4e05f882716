"""Measure the GPU backend: kernels over the device's copy, whole runs beside the CPU's, and their bytes.

    python tools/bench_gpu.py kernels [--device cuda:0] [SCHEME ...]
    python tools/bench_gpu.py runs --work DIR [--size 16GB] [--device cuda:0 --device cuda:0,cuda:1] [SCHEME]

``kernels`` times what a scheme does to values that lie on the device (events, the median of several), and
the same through ``encode`` as a worker calls it, from host memory to host memory; GB/s of BF16 values. The
device's copy counts bytes read and written, and so does ``moved``: the bytes that a kernel must move.

``runs`` makes a checkpoint of BF16 matrices, reads it into the page cache, and converts it in processes of
their own on the CPU and on each device in turn; tells wall time of the conversion (imports apart),
peak of host and device memory, and whether every output is, byte by byte, the CPU's. Beside them: the time in
which the file is only read, by as many threads. Exits with 1 if bytes differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transcode import schemes
from transcode.containers.safetensors import header
from transcode.core.dtypes import DTYPES
from transcode.core.performance import parse_size
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.numerics import backend

Array = np.ndarray[Any, Any]
Case = tuple[str, dict[str, Any]]

CASES: dict[str, Case] = {
    "int8": ("int8", {}),
    "int8 zero point": ("int8", {"symmetric": False}),
    "int8 tensor": ("int8", {"granularity": "tensor"}),
    "fp8": ("fp8", {}),
    "fp8 block 128x128": ("fp8", {"granularity": "block"}),
    "mxfp8": ("mxfp8", {}),
    "mxfp6": ("mxfp6", {}),
    "mxfp4": ("mxfp4", {}),
    "mxfp4 mse": ("mxfp4", {"optimize": "mse"}),
    "nvfp4": ("nvfp4", {}),
    "nvfp4 mse": ("nvfp4", {"optimize": "mse"}),
    "int4": ("int4", {}),
    "int4 mse": ("int4", {"optimize": "mse"}),
    "int8 rotated": ("int8", {"rotate": 256}),
    "w4a8 frozen": ("w4a8", {"codebook": "frozen"}),
    "w6a8": ("w6a8", {}),
    "awq_w4a16": ("awq_w4a16", {}),
    "affine": ("affine", {}),
    "affine mse": ("affine", {"optimize": "mse"}),
    "hqq mse": ("hqq", {"optimize": "mse"}),
}
MIB = 1 << 20


def chosen(prefixes: Sequence[str]) -> dict[str, Case]:
    """The cases of those names, or that start so; all without any."""
    named = {case for case in CASES for prefix in prefixes if case.startswith(prefix) and prefix not in CASES}
    return {case: what for case, what in CASES.items() if not prefixes or case in {*named, *prefixes}}


def bf16(count: int, seed: int = 0) -> Array:
    """Weights as models have them: normal, a hundredth or so in size."""
    values = np.random.default_rng(seed).standard_normal(count, np.float32) * np.float32(0.02)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


# Kernels --------------------------------------------------------------------------------------------------


def median(work: Callable[[], object], rounds: int = 15) -> float:
    """Seconds that some work takes on the current stream's device."""
    import torch

    times = []
    for _ in range(rounds + 3):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3)
    return float(statistics.median(times[3:]))


def kernels(device: str, cases: dict[str, Case]) -> list[dict[str, Any]]:
    """One line for each scheme."""
    import torch

    from transcode.numerics.gpu.worker import Compute, Worker

    class Resident(Worker):
        """Brings rows to the device once, and times the kernel alone."""

        seconds = 0.0
        moved = 0

        def stream(
            self, rows: Array, height: int, outputs: Sequence[Array], cost: int, compute: Compute
        ) -> bool:
            """Instead of streaming them."""
            values = torch.from_numpy(rows.copy().view(np.int16)).to(self.device).view(torch.bfloat16)
            self.seconds = median(lambda: compute(values))
            self.moved = rows.nbytes + sum(out.nbytes for out in outputs)
            return True

    torch.cuda.set_device(torch.device(device))
    big = torch.empty(1 << 29, dtype=torch.float32, device=device).normal_()
    other = torch.empty_like(big)
    copy = 2 * big.nbytes / median(partial(other.copy_, big)) / 1e9
    del big, other
    pinned = torch.empty(256 * MIB, dtype=torch.uint8, pin_memory=True).fill_(1)
    there = torch.empty_like(pinned, device=device)
    up = pinned.nbytes / median(lambda: there.copy_(pinned, non_blocking=True)) / 1e9
    down = pinned.nbytes / median(lambda: pinned.copy_(there, non_blocking=True)) / 1e9
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    print(f"copy on the device {copy:.0f} GB/s; from the host {up:.1f}, to the host {down:.1f} GB/s")
    spec = Spec(DTYPES["BF16"], (8192, 4096))
    rows = bf16(8192 * 4096).reshape(8192, 4096)
    rows.setflags(write=False)
    found = []
    for case, (name, options) in cases.items():
        scheme = schemes.make(name, **options)
        stats = scheme.observe(rows, spec.dtype) if scheme.observes else None
        resident = Resident(device, 8 << 30)
        with resident:
            backend._here.worker = resident
            list(scheme.encode(rows, spec, 0, stats, Scratch()))
            del backend._here.worker
        tile = rows[:1024]
        with backend.working(device, 2 << 30) as scratch:
            times = []
            for _ in range(30):
                scratch.reset()
                began = time.perf_counter()
                list(scheme.encode(tile, spec, 0, stats, scratch))
                times.append(time.perf_counter() - began)
        line = {
            "case": case,
            "gb_s": rows.nbytes / resident.seconds / 1e9,
            "moved_gb_s": resident.moved / resident.seconds / 1e9,
            "share_of_copy": resident.moved / resident.seconds / 1e9 / copy,
            "one_thread_host_to_host_gb_s": tile.nbytes / statistics.median(times[5:]) / 1e9,
        }
        found.append(line)
        print(
            f"{case:20} kernel {line['gb_s']:7.1f} GB/s of values, moved {line['moved_gb_s']:7.1f} GB/s"
            f" ({line['share_of_copy']:.0%} of copy); one thread, host to host"
            f" {line['one_thread_host_to_host_gb_s']:5.1f} GB/s",
            flush=True,
        )
    return found


# Whole runs -----------------------------------------------------------------------------------------------


def make_source(path: Path, size: int) -> None:
    """A safetensors file of matrices ``[5120, 13824]`` in BF16; each is another cut of one pool of values."""
    shape = (5120, 13824)
    spec = Spec(DTYPES["BF16"], shape)
    count = max(size // spec.nbytes, 1)
    entries = []
    for number in range(count):
        name = f"blocks.{number}.ffn.0.weight"
        entries.append(header.Entry(name, spec, number * spec.nbytes, (number + 1) * spec.nbytes))
    pool = bf16(spec.numel + count * 4099).view(np.uint8)
    with path.open("wb") as file:
        file.write(header.render(entries, {}, room=0, file=path))
        for number in range(count):
            start = number * 4099 * 2
            file.write(pool[start : start + spec.nbytes].data)


def read_alone(path: Path, threads: int) -> float:
    """Seconds to read a file into one buffer for each thread."""
    step = 8 * MIB
    size = path.stat().st_size
    local = threading.local()
    descriptor = os.open(path, os.O_RDONLY)

    def read(start: int) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(step)
        os.preadv(descriptor, [local.buffer], start)

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(0, size, step)))
    os.close(descriptor)
    return time.perf_counter() - began


def convert(arguments: argparse.Namespace) -> None:
    """One conversion in this process: prints its figures as JSON."""
    import resource

    import transcode

    name, options = CASES[arguments.case]
    if arguments.device != "cpu":
        import torch  # not part of the time: a run pays it once, whatever its size
    rest: dict[str, Any] = {"convention": "neutral", "force": True}
    if arguments.workers:
        rest["workers"] = arguments.workers
    if arguments.memory:
        rest["memory"] = arguments.memory
    sink = transcode.write(arguments.target, device=arguments.device, **rest)
    flow = transcode.open(arguments.source) | transcode.quantize(name, **options)
    began = time.perf_counter()
    report = flow | sink
    seconds = time.perf_counter() - began
    device = 0
    if arguments.device != "cpu":
        device = max(torch.cuda.max_memory_reserved(n) for n in range(torch.cuda.device_count()))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(
        json.dumps(
            {
                "seconds": seconds,
                "execute": report.seconds,
                "anonymous": int(status["RssAnon"].split()[0]) * 1024,
                "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "device_memory": device,
                "cpu_seconds": sum(os.times()[:2]),
            }
        )
    )


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    return subprocess.run(["cmp", "-s", one, other], check=False).returncode == 0


def runs(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every case on every device; outputs are compared with the CPU's."""
    work = Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    source = work / "source.safetensors"
    size = parse_size(arguments.size)
    if not source.exists() or source.stat().st_size < size - (1 << 28):
        make_source(source, size)
    threads = os.cpu_count() or 1
    read_alone(source, threads)
    total = source.stat().st_size
    found = []
    devices = ["cpu", *(arguments.device or ["cuda:0"])]
    for case in chosen(arguments.cases):
        times: dict[str, list[dict[str, Any]]] = {device: [] for device in devices}
        equal = dict.fromkeys(devices, True)
        for _ in range(arguments.rounds):
            reading = read_alone(source, threads)
            for device in devices:
                target = work / f"{device.replace(':', '').replace(',', '-')}.safetensors"
                command = [sys.executable, __file__, "convert", "--source", str(source)]
                command += ["--target", str(target)]
                command += ["--device", device, "--case", case]
                for option in ("workers", "memory"):
                    if getattr(arguments, option):
                        command += [f"--{option}", str(getattr(arguments, option))]
                began = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{case} on {device}: {done.stderr[-2000:]}")
                one = json.loads(done.stdout.splitlines()[-1])
                times[device].append({**one, "process": time.perf_counter() - began, "reading": reading})
                if device != "cpu":
                    equal[device] &= same(work / "cpu.safetensors", target)
                    target.unlink()
        for device in devices:
            best = min(times[device], key=lambda one: float(one["seconds"]))
            line = {"case": case, "device": device, **best, "bytes": total, "equal": equal[device]}
            found.append(line)
            print(
                f"{case:18} {device:14} {total / best['seconds'] / 1e9:6.2f} GB/s {best['seconds']:6.2f} s"
                f" (process {best['process']:6.2f} s, reading alone {best['reading']:5.2f} s,"
                f" {best['cpu_seconds']:6.1f} s of processors)"
                f"  rss {best['rss'] / MIB:6.0f} MiB, anonymous {best['anonymous'] / MIB:5.0f} MiB,"
                f" device {best['device_memory'] / MIB:5.0f} MiB  {'same' if line['equal'] else 'DIFFERENT'}",
                flush=True,
            )
        for file in work.glob("c*.safetensors"):
            file.unlink()
    if not arguments.keep:
        shutil.rmtree(work)
    return found


def main() -> None:
    """Print lines, and JSON at the end if wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("kernels")
    one.add_argument("--device", default="cuda:0")
    two = parts.add_parser("runs")
    two.add_argument("--work", required=True)
    two.add_argument("--size", default="16GB")
    two.add_argument("--device", action="append")
    two.add_argument("--rounds", type=int, default=2)
    two.add_argument("--keep", action="store_true", help="leave the source for another call")
    three = parts.add_parser("convert")
    for option in ("--source", "--target", "--device", "--case"):
        three.add_argument(option, required=True)
    for part in (two, three):
        part.add_argument("--workers", type=int)
        part.add_argument("--memory")
    for part in (one, two):
        part.add_argument("--json", type=Path, help="write the figures there")
        part.add_argument("cases", nargs="*", metavar="SCHEME")
    given = parser.parse_args()
    if given.part == "convert":
        convert(given)
        return
    print(f"{platform.platform()}, {os.cpu_count()} processors", flush=True)
    found = kernels(given.device, chosen(given.cases)) if given.part == "kernels" else runs(given)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))
    if not all(line.get("equal", True) for line in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
