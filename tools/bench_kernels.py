"""Speed of the kernels on one thread, over a memcpy of the same input in the same run.

    python tools/bench_kernels.py [--json] [--rows N] [--columns K] [--repeat N] [SCHEME ...]
    python tools/bench_kernels.py --ggml LIBGGML_BASE [SCHEME ...]

Each line is a scheme at work on one warm tile, through the same ``encode`` (and ``observe``, where the scheme
needs a look at the whole tensor first) that a conversion calls. Machines drift: only the ratios mean
something.

With the path of a libggml-base (of the wheel pywhispercpp), blocks of GGUF are made by it and by the schemes
here in turn, of the same float32 and under the same weights of columns where a type heeds some.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from transcode import schemes
from transcode.containers.gguf.types import NUMBERS
from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "int8": ("int8", {}),
    "int8 zero point": ("int8", {"symmetric": False}),
    "int8 group 128": ("int8", {"granularity": "group"}),
    "int8 tensor": ("int8", {"granularity": "tensor"}),
    "int8 rotated": ("int8", {"rotate": 256}),
    "fp8": ("fp8", {}),
    "fp8 e5m2": ("fp8", {"format": "e5m2"}),
    "fp8 block 128x128": ("fp8", {"granularity": "block"}),
    "fp8 mse": ("fp8", {"optimize": "mse"}),
    "fp8 tensor": ("fp8", {"granularity": "tensor"}),
    "mxfp8": ("mxfp8", {}),
    "mxfp6": ("mxfp6", {}),
    "mxfp4": ("mxfp4", {}),
    "mxfp4 mse": ("mxfp4", {"optimize": "mse"}),
    "nvfp4": ("nvfp4", {}),
    "nvfp4 four over six": ("nvfp4", {"optimize": "four_over_six"}),
    "nvfp4 mse": ("nvfp4", {"optimize": "mse"}),
    "w4a8": ("w4a8", {}),
    "w4a8 frozen": ("w4a8", {"codebook": "frozen"}),
    "w6a8": ("w6a8", {}),
    "convrot_w4a4": ("convrot_w4a4", {}),
    "awq_w4a16": ("awq_w4a16", {}),
    "int4": ("int4", {}),
    "int4 group 128": ("int4", {"group_size": 128}),
    "int4 zero point": ("int4", {"symmetric": False}),
    "int4 mse": ("int4", {"optimize": "mse"}),
    "int4 mse group 128": ("int4", {"optimize": "mse", "group_size": 128}),
}


def best(work: Callable[[], object], repeat: int) -> float:
    """Seconds of processor time of the fastest of some runs, after one that does not count."""
    work()
    times = []
    for _ in range(repeat):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def measure(
    name: str, options: dict[str, Any], source: str, shape: tuple[int, int], repeat: int
) -> dict[str, Any]:
    """Rates in GB/s of source values, and their ratio."""
    spec = Spec(DTYPES[source], shape)
    scheme = schemes.make(name, **options)
    values = np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(0.02)
    if source == "BF16":
        rows: np.ndarray[Any, Any] = (values.view(np.uint32) >> 16).astype(np.uint16)
    else:
        rows = values.astype(spec.dtype.carrier)
    rows.setflags(write=False)
    copy = np.empty_like(rows)
    scratch = Scratch()

    def work() -> None:
        scratch.reset()
        stats = scheme.observe(rows, spec.dtype) if scheme.observes else None
        for _ in scheme.encode(rows, spec, 0, stats, scratch):
            pass

    work()
    # Alternate, so that a slow moment of the machine hits both.
    pairs = [(best(lambda: np.copyto(copy, rows), 3), best(work, 3)) for _ in range(repeat)]
    copied = rows.nbytes / min(pair[0] for pair in pairs) / 1e9
    done = rows.nbytes / min(pair[1] for pair in pairs) / 1e9
    return {"memcpy_gb_s": copied, "encode_gb_s": done, "ratio": done / copied}


def beside_ggml(library: ctypes.CDLL, name: str, shape: tuple[int, int], repeat: int) -> dict[str, Any]:
    """Millions of weights a second of a thread: here, and by ggml's own quantizer; processor time."""
    scheme, spec = schemes.make(name), Spec(DTYPES["F32"], shape)
    random = np.random.default_rng(0)
    rows = random.standard_normal(shape, np.float32) * np.float32(0.02)
    weights = np.square(random.standard_normal(shape[1], np.float32)) if scheme.weighs else None
    blocks = np.empty(rows.size, np.float32)  # no type needs more
    scratch = Scratch()

    def here() -> None:
        scratch.reset()
        for _ in scheme.encode(rows, spec, 0, None, scratch, weights):
            pass

    def there() -> None:
        library.ggml_quantize_chunk(
            ctypes.c_int(NUMBERS[getattr(scheme, "stored")]),  # noqa: B009  # of schemes of blocks alone
            ctypes.c_void_p(rows.ctypes.data), ctypes.c_void_p(blocks.ctypes.data), ctypes.c_int64(0),
            ctypes.c_int64(shape[0]), ctypes.c_int64(shape[1]),
            ctypes.c_void_p(None if weights is None else weights.ctypes.data),
        )  # fmt: skip

    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeat + 1):
        for work, taken in zip((here, there), times, strict=True):
            start = time.thread_time()
            work()
            if turn:  # the first compiles, and makes the tables of code books
                taken.append(time.thread_time() - start)
    ours, theirs = (rows.size / min(taken) / 1e6 for taken in times)
    return {"m_weights_s": ours, "ggml_m_weights_s": theirs, "ratio": ours / theirs}


def compare(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A line to each type of blocks."""
    library = ctypes.CDLL(given.ggml)
    found = []
    for name in schemes.SCHEMES:
        if schemes.block(name) is None or (given.cases and name not in given.cases):
            continue
        result = beside_ggml(library, name, (given.rows, given.columns), given.repeat)
        found.append({"case": name, **result})
        if not given.json:
            print(
                f"{name:12} {result['m_weights_s']:8.1f} M weights/s   ggml {result['ggml_m_weights_s']:8.1f}"
                f"   ratio {result['ratio']:5.2f}",
                flush=True,
            )
    return found


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="SCHEME", help="only cases that start with this")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=5120)
    parser.add_argument("--repeat", type=int, default=8)
    parser.add_argument(
        "--source", action="append", choices=["BF16", "F16", "F32", "F64"], help="default: BF16"
    )
    parser.add_argument("--ggml", metavar="LIBGGML_BASE", help="compare blocks of GGUF with it")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    if given.ggml is not None:
        found = compare(given)
        if given.json:
            print(json.dumps(found, indent=2))
        return
    for case, (name, options) in CASES.items():
        if given.cases and not any(case.startswith(prefix) for prefix in given.cases):
            continue
        for source in given.source or ["BF16"]:
            result = measure(name, options, source, (given.rows, given.columns), given.repeat)
            found.append({"case": case, "source": source, **result})
            if not given.json:
                print(
                    f"{case:24} {source:5} memcpy {result['memcpy_gb_s']:6.2f} GB/s"
                    f"   encode {result['encode_gb_s']:6.2f} GB/s   ratio {result['ratio']:5.2f}",
                    flush=True,
                )
    if given.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
