"""Make checkpoints that look like a published Wan2.1-14B: true names and shapes, values as if trained.

    python tools/make_checkpoint.py wan/                              # I2V, 40 blocks, BF16, shards of 10 GB
    python tools/make_checkpoint.py wan.safetensors --task t2v        # T2V (28.6 GB in BF16), one file
    python tools/make_checkpoint.py 2gb.safetensors --task t2v --blocks 3
    python tools/make_checkpoint.py giant.safetensors --giant 8GB     # one 2-D tensor

Values are products of heavy-tailed numbers from a pool, a scale for each row and one for each column; some
columns are outliers. Only additions, multiplications, divisions and square roots make them, all of which
IEEE 754 defines to the bit: equal arguments give equal files on every machine, with every version of numpy.
Memory stays at about 60 MiB whatever the size.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transcode.containers.safetensors.header import Entry, render
from transcode.core.dtypes import DTYPES, DType, dtype
from transcode.core.spec import Spec
from transcode.io.insert_range import PAGE

__all__ = ["Shape", "cut", "make", "values", "wan"]

Shape = tuple[int, ...]

STEM = "diffusion_pytorch_model"
GIANT_COLUMNS = 16384
_POOL = 1 << 22
_TILE = 1 << 20  # elements; with its float32 working copy this stays in a core's cache
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def wan(
    blocks: int = 40,
    dim: int = 5120,
    ffn: int = 13824,
    *,
    task: str = "i2v",
    text_dim: int = 4096,
    image_dim: int = 1280,
) -> dict[str, Shape]:
    """Names and shapes of a Wan2.1 transformer in the order of its state dict.

    Spelling and shapes are those of the files published as Wan2.1-{T2V,I2V}-14B (t2v: 16 latent channels in;
    i2v: 36, and the image branch).
    """
    shapes: dict[str, Shape] = {}

    def linear(name: str, out: int, inputs: int) -> None:
        shapes[f"{name}.weight"] = (out, inputs)
        shapes[f"{name}.bias"] = (out,)

    def attention(name: str, image: bool = False) -> None:
        for part in "qkvo":
            linear(f"{name}.{part}", dim, dim)
        shapes[f"{name}.norm_q.weight"] = (dim,)
        shapes[f"{name}.norm_k.weight"] = (dim,)
        if image:
            linear(f"{name}.k_img", dim, dim)
            linear(f"{name}.v_img", dim, dim)
            shapes[f"{name}.norm_k_img.weight"] = (dim,)

    image = task == "i2v"
    shapes["patch_embedding.weight"] = (dim, 36 if image else 16, 1, 2, 2)
    shapes["patch_embedding.bias"] = (dim,)
    linear("text_embedding.0", dim, text_dim)
    linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", dim, 256)
    linear("time_embedding.2", dim, dim)
    linear("time_projection.1", 6 * dim, dim)
    for i in range(blocks):
        block = f"blocks.{i}"
        shapes[f"{block}.modulation"] = (1, 6, dim)
        attention(f"{block}.self_attn")
        shapes[f"{block}.norm3.weight"] = (dim,)
        shapes[f"{block}.norm3.bias"] = (dim,)
        attention(f"{block}.cross_attn", image)
        linear(f"{block}.ffn.0", ffn, dim)
        linear(f"{block}.ffn.2", dim, ffn)
    shapes["head.modulation"] = (1, 2, dim)
    linear("head.head", 64, dim)
    if image:
        shapes["img_emb.proj.0.weight"] = (image_dim,)
        shapes["img_emb.proj.0.bias"] = (image_dim,)
        linear("img_emb.proj.1", image_dim, image_dim)
        linear("img_emb.proj.3", dim, image_dim)
        shapes["img_emb.proj.4.weight"] = (dim,)
        shapes["img_emb.proj.4.bias"] = (dim,)
    return shapes


def _config(blocks: int, dim: int, ffn: int, task: str) -> dict[str, Any]:
    return {
        "_class_name": "WanModel",
        "dim": dim,
        "eps": 1e-06,
        "ffn_dim": ffn,
        "freq_dim": 256,
        "in_dim": 36 if task == "i2v" else 16,
        "model_type": task,
        "num_heads": max(dim // 128, 1),
        "num_layers": blocks,
        "out_dim": 16,
        "text_len": 512,
    }


def _uniform(key: int, first: int, count: int) -> NDArray[np.float64]:
    """Numbers ``first`` .. ``first + count`` of a stream, in [0, 1): splitmix64, which starts anywhere."""
    index = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    z = np.uint64(key) + index * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) * 2.0**-24


def _key(seed: int, *what: str) -> int:
    text = "\0".join((str(seed), *what)).encode()
    return zlib.crc32(text) << 32 | zlib.crc32(text[::-1])


@lru_cache(maxsize=1)
def _pool(seed: int) -> NDArray[np.float32]:
    """Heavy-tailed numbers of about unit variance: a sum of uniforms over the root of another one.

    The largest are some 20 standard deviations out, as in trained weights.
    """
    pool = np.empty(_POOL, np.float32)
    key = _key(seed, "pool")
    step = 1 << 16
    for start in range(0, _POOL, step):
        u = _uniform(key, 5 * start, 5 * step).reshape(step, 5)
        normal = (u[:, 0] + u[:, 1] + u[:, 2] + u[:, 3] - 2.0) * sqrt(3.0)
        pool[start : start + step] = 0.55 * normal / np.sqrt(0.02 + u[:, 4])
    return pool


@dataclass(frozen=True)
class _Values:
    """The values of one tensor as a matrix ``[rows, columns]``, any rows of which can be made at any time."""

    rows: int
    columns: int
    key: int
    centre: float
    row_spread: bool
    column_scale: NDArray[np.float32]

    def fill(self, start: int, out: NDArray[np.float32], pool: NDArray[np.float32]) -> None:
        """Make rows ``start`` to ``start + len(out)``."""
        u = _uniform(self.key, 3 * start, 3 * len(out)).reshape(-1, 3)
        begins = (u[:, 0] * (len(pool) - self.columns)).astype(np.int64).tolist()
        for row, begin in zip(out, begins, strict=True):
            np.multiply(pool[begin : begin + self.columns], self.column_scale, out=row)
        if self.row_spread:
            out *= ((0.5 + u[:, 1]) / np.sqrt(0.3 + u[:, 2])).astype(np.float32)[:, None]
        if self.centre:
            out += np.float32(self.centre)


def values(name: str, shape: Shape, seed: int = 0) -> _Values:
    """What a tensor holds: norms lie around 1, biases near 0, matrices have outlier columns."""
    matrix = len(shape) >= 2 and shape[0] > 1
    rows, columns = (shape[0], prod(shape[1:])) if matrix else (1, prod(shape))
    if columns >= _POOL:
        raise ValueError(f"{name}: rows of {columns} elements are longer than the pool")
    norm = "norm" in name or name.startswith(("img_emb.proj.0", "img_emb.proj.4"))
    base = 1 / sqrt(columns) if matrix else 0.05
    scale = np.full(columns, base)
    if matrix:
        u = _uniform(_key(seed, name, "columns"), 0, 3 * columns).reshape(-1, 3)
        scale *= 0.75 + 0.5 * u[:, 0]
        scale *= np.where(u[:, 1] < 1 / 256, 3 + 6 * u[:, 2], 1.0)
    return _Values(
        rows,
        columns,
        _key(seed, name),
        centre=1.0 if norm and name.endswith("weight") else 0.0,
        row_spread=matrix,
        column_scale=scale.astype(np.float32),
    )


def cut(shapes: dict[str, Shape], kind: DType, max_bytes: int | None) -> list[dict[str, Spec]]:
    """Cut into shards as the hub's library does: greedily, in state-dict order."""
    shards: list[dict[str, Spec]] = [{}]
    size = 0
    for name, shape in shapes.items():
        spec = Spec(kind, shape)
        if max_bytes is not None and shards[-1] and size + spec.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = spec
        size += spec.nbytes
    return shards


def make(
    path: Path,
    shapes: dict[str, Shape],
    *,
    kind: DType,
    max_bytes: int | None = None,
    seed: int = 0,
    align: int = 8,
    threads: int = 2,
    config: dict[str, Any] | None = None,
) -> list[Path]:
    """Write a checkpoint and return its weight files.

    Args:
        path: one file if it ends in ``.safetensors``, else a folder, which then also gets ``config`` as
            config.json, and an index if there is more than one shard.
        max_bytes: largest shard, in bytes of tensors.
        align: the data section starts at a multiple of this: 8 is what the reference writer does.
    """
    single = path.suffix == ".safetensors"
    folder = path.parent if single else path
    folder.mkdir(parents=True, exist_ok=True)
    shards = cut(shapes, kind, None if single else max_bytes)
    if single:
        names = [path.name]
    elif len(shards) == 1:
        names = [f"{STEM}.safetensors"]
    else:
        names = [f"{STEM}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    pool = _pool(seed)
    files = [folder / name for name in names]
    for file, shard in zip(files, shards, strict=True):
        _write(file, shard, pool, seed=seed, align=align, threads=threads)
    if not single:
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if len(shards) > 1:
            index = {
                "metadata": {"total_size": sum(spec.nbytes for shard in shards for spec in shard.values())},
                "weight_map": {
                    tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
                },
            }
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (folder / f"{STEM}.safetensors.index.json").write_text(text)
    return files


def _write(
    file: Path, shard: dict[str, Spec], pool: NDArray[np.float32], *, seed: int, align: int, threads: int
) -> None:
    entries: list[Entry] = []
    at = 0
    for name in sorted(shard, key=str.encode):  # one dtype, so the reference writer's order is that of names
        entries.append(Entry(name, shard[name], at, at + shard[name].nbytes))
        at = entries[-1].end
    header = render(entries, {"format": "pt"}, align=align)
    local = threading.local()

    def write(tensor: _Values, kind: DType, offset: int, start: int, stop: int) -> None:
        if not hasattr(local, "block"):
            local.block = np.empty(0, np.float32)  # fresh memory is slow to touch: each thread keeps its own
        count = (stop - start) * tensor.columns
        if local.block.size < count:
            local.block = np.empty(count, np.float32)
        rows = local.block[:count].reshape(stop - start, tensor.columns)
        tensor.fill(start, rows, pool)
        data = _narrow(rows, kind)
        offset += start * tensor.columns * kind.itemsize
        while data:
            done = os.pwrite(descriptor, data, offset)
            data, offset = data[done:], offset + done

    def jobs() -> Iterator[tuple[_Values, DType, int, int, int]]:
        for entry in entries:
            tensor = values(entry.name, entry.spec.shape, seed)
            step = max(_TILE // tensor.columns, 1)
            for start in range(0, tensor.rows, step):
                yield (
                    tensor,
                    entry.spec.dtype,
                    len(header) + entry.begin,
                    start,
                    min(start + step, tensor.rows),
                )

    temporary = file.with_name(file.name + ".partial")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _reserve(descriptor, len(header) + at)
        os.pwrite(descriptor, header, 0)
        with ThreadPoolExecutor(threads) as executor:
            pending: deque[Future[None]] = deque()
            for job in jobs():
                if len(pending) >= 4 * threads:  # a list of all jobs would grow with the model
                    pending.popleft().result()
                pending.append(executor.submit(write, *job))
            for future in pending:
                future.result()
    except BaseException:
        temporary.unlink()
        raise
    finally:
        os.close(descriptor)
    temporary.replace(file)


def _reserve(descriptor: int, size: int) -> None:
    os.ftruncate(descriptor, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def _narrow(rows: NDArray[np.float32], kind: DType) -> memoryview:
    """The bytes of float32 rows in another float dtype."""
    if kind.name == "BF16":
        # Cutting the low half off yields values as good as any, at the speed of a copy.
        cast = np.ascontiguousarray(rows.view(np.uint16)[:, 1::2])
    else:
        cast = rows.astype(kind.numpy(), copy=False)
    return cast.view(np.uint8).reshape(-1).data


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 8GB or 400KiB")
    unit = 1024 if found[3] else 1000
    return int(float(found[1]) * unit ** " KMGT".index(found[2].upper() or " "))


def _dtype(text: str) -> DType:
    spelled = {"bf16": "BF16", "e4m3fn": "F8_E4M3", "e5m2": "F8_E5M2"}.get(text.lower(), text)
    try:
        kind = dtype(spelled)
    except KeyError:
        kind = None
    if kind is None or kind.kind != "float" or kind.packed or kind.name == "F8_E8M0":
        known = ", ".join(d.name for d in DTYPES.values() if d.kind == "float" and not d.packed)
        raise argparse.ArgumentTypeError(f"{text!r} is none of {known}")
    return kind


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("dst", type=Path, help="FILE.safetensors, or a folder for shards and config.json")
    parser.add_argument(
        "--task", choices=("i2v", "t2v"), default="i2v", help="with or without the image branch"
    )
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--dim", type=int, default=5120)
    parser.add_argument("--ffn", type=int, default=13824)
    parser.add_argument("--text-dim", type=int, default=4096)
    parser.add_argument("--image-dim", type=int, default=1280)
    parser.add_argument("--giant", type=_size, metavar="SIZE", help="instead: one 2-D tensor of that size")
    parser.add_argument("--dtype", type=_dtype, default="bf16", help="any float dtype of safetensors")
    parser.add_argument("--max-shard-size", type=_size, default="10GB", metavar="SIZE")
    parser.add_argument("--align", type=int, choices=(8, PAGE), default=8, help="of the data section")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--force", action="store_true", help="write over what is there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _arguments(argv)
    dst: Path = options.dst
    if not options.force and (dst.is_file() or (dst.is_dir() and any(dst.iterdir()))):
        print(f"{dst}: is there already; --force writes over it", file=sys.stderr)
        return 2
    config: dict[str, Any] | None = None
    if options.giant is not None:
        rows = max(options.giant // options.dtype.itemsize // GIANT_COLUMNS, 1)
        shapes: dict[str, Shape] = {"giant.weight": (rows, GIANT_COLUMNS)}
    else:
        shapes = wan(
            options.blocks,
            options.dim,
            options.ffn,
            task=options.task,
            text_dim=options.text_dim,
            image_dim=options.image_dim,
        )
        config = _config(options.blocks, options.dim, options.ffn, options.task)
    files = make(
        dst,
        shapes,
        kind=options.dtype,
        max_bytes=options.max_shard_size,
        seed=options.seed,
        align=options.align,
        threads=options.threads,
        config=config,
    )
    for file in files:
        print(f"{file}  {file.stat().st_size / 1e9:.3f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
