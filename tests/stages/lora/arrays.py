"""Adapters of arrays, merged in memory: what the tests of single modules share."""

from pathlib import Path

import numpy as np

from transcode.core.context import Context
from transcode.core.dtypes import dtype
from transcode.core.expr import Constant
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.stages.lora.delta import Added
from transcode.stages.lora.merge import merge

FILE = Path("lora.safetensors")


def spec(*shape: int) -> Spec:
    return Spec(dtype("F32"), shape)


def lazy(values, name: str = "t") -> LazyTensor:
    """An array as a float32 tensor of a file."""
    values = np.ascontiguousarray(values, np.float32)
    facts = spec(*values.shape)
    return plain(name, facts, Constant(facts, values.tobytes()))


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def merged(weight: np.ndarray, *deltas, scale: float = 1.0, rows: int = 0) -> np.ndarray:
    """What adapters make of a float32 array, so many rows at a time; all at once for 0."""
    base = lazy(weight, "w")
    tensor, _ = merge(base, [Added(delta, np.float32(scale)) for delta in deltas])
    context = Context()  # looks at whole tensors are taken when their results are asked for
    count = base.spec.rows
    parts = []
    for start in range(0, count, rows or count):
        (piece,) = tensor.read(start, min(start + (rows or count), count), context)
        parts.append(piece.data.copy())
    return np.concatenate(parts).reshape(weight.shape)


def near(got: np.ndarray, wanted: np.ndarray, before: np.ndarray) -> None:
    """Float32 of a float64 computation; and not what was there before."""
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)
    assert not np.allclose(before, wanted, rtol=1e-3, atol=1e-3)
