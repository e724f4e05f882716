"""How much each scheme loses: signal to quantization noise, in dB, over the matrices of a checkpoint.

    python tools/sqnr.py                      on Gaussian values
    python tools/sqnr.py model.safetensors    on trained ones

Beside the encoders of others: ``tools/sqnr_peers.py``.

Computed in float64 from what would be stored: ``10 log10(sum(w**2) / sum((w - decoded)**2))``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transcode import schemes
from transcode.containers.source import open_source
from transcode.core.context import Context
from transcode.core.dtypes import DTYPES
from transcode.core.scheme import Scheme
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor

__all__ = ["VARIANTS", "Matrix", "decibels", "exact", "matrices", "sqnr"]

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("int8", {}),
    ("int8", {"optimize": "mse"}),
    ("int8", {"granularity": "tensor"}),
    ("int8", {"granularity": "group", "group_size": 128}),
    ("int8", {"granularity": "group", "group_size": 128, "optimize": "mse"}),
    ("int8", {"rotate": 64}),
    ("fp8", {}),
    ("fp8", {"optimize": "mse"}),
    ("fp8", {"granularity": "block"}),
    ("fp8", {"granularity": "block", "optimize": "mse"}),
    ("fp8", {"format": "e5m2"}),
    ("mxfp8", {}),
    ("mxfp6", {}),
    ("mxfp6", {"format": "e3m2"}),
    ("mxfp4", {}),
    ("mxfp4", {"scale_mode": "rceil"}),
    ("mxfp4", {"scale_mode": "floor"}),
    ("mxfp4", {"optimize": "mse"}),
    ("nvfp4", {}),
    ("nvfp4", {"optimize": "four_over_six"}),
    ("nvfp4", {"optimize": "mse"}),
    ("w6a8", {"rotate": 64}),
    ("w4a8", {"rotate": 64}),
    ("convrot_w4a4", {"rotate": 64}),
    ("convrot_w4a4", {"rotate": 64, "optimize": "mse"}),
    ("awq_w4a16", {}),
    *(
        ("int4", {"group_size": size, **options})
        for size in (128, 64, 32)
        for options in (
            {},
            {"optimize": "mse"},
            {"optimize": "signed"},
            {"symmetric": False},
            {"symmetric": False, "optimize": "mse"},
        )
    ),
)

Matrix = tuple[Spec, NDArray[Any]]


def matrices(path: str | None) -> Iterator[Matrix]:
    """Matrices of a checkpoint with columns that every format takes; Gaussian ones without a checkpoint."""
    if path is None:
        values = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
        yield Spec(DTYPES["F32"], values.shape), values * np.float32(0.02)
        return
    with open_source(path) as source:
        for tensor in source.tensors:
            if _suits(tensor):
                yield tensor.spec, tensor.matrix(0, tensor.spec.rows, Context())


def _suits(tensor: LazyTensor) -> bool:
    spec = tensor.spec
    return (
        spec.dtype.name in ("F32", "BF16", "F16")
        and len(spec.shape) == 2
        and not spec.shape[1] % 128
        and tensor.name.endswith(".weight")
        and "embed" not in tensor.name
    )


def exact(spec: Spec, rows: NDArray[Any]) -> NDArray[np.float64]:
    """The values of a matrix."""
    if spec.dtype.name == "BF16":
        rows = (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float64)


def decibels(signal: float, noise: float) -> float:
    """Their ratio, in dB."""
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def sqnr(scheme: Scheme, found: list[Matrix]) -> float:
    """Signal to noise over all matrices together, in dB."""
    signal = noise = 0.0
    for spec, rows in found:
        stats = scheme.observe(rows, spec.dtype) if scheme.observes else None
        parts = {piece.role: piece.data.copy() for piece in scheme.encode(rows, spec, 0, stats, Context())}
        out = np.empty(spec.shape, np.float32)
        shaped = {part.role: parts[part.role] for part in scheme.parts(spec)}
        scheme.decode(shaped, spec, 0, spec.rows, out)
        values = exact(spec, rows)
        signal += float(np.square(values).sum())
        noise += float(np.square(values - out).sum())
    return decibels(signal, noise)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", nargs="?", help="a checkpoint; Gaussian values without it")
    parser.add_argument("--only", default="", help="schemes whose name begins so")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    found = list(matrices(args.path))
    figures: list[dict[str, Any]] = []
    for name, options in VARIANTS:
        if not name.startswith(args.only):
            continue
        scheme = schemes.make(name, **options)
        bits = sum(part.spec.nbytes for spec, _ in found for part in scheme.parts(spec)) * 8
        bits_each = bits / sum(spec.numel for spec, _ in found)
        figures.append({"scheme": name, "options": options, "bits": bits_each, "db": sqnr(scheme, found)})
    for row in figures:
        said = ", ".join(f"{key}={value}" for key, value in row["options"].items())
        print(f"{row['scheme']:<6} {said:<50} {row['bits']:6.3f} bits  {row['db']:6.2f} dB")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
