"""How much each format loses here and by its owners' own encoders, in one run: dB, as a table.

    python tools/sqnr_peers.py model.safetensors
    python tools/sqnr_peers.py model.safetensors --only int4 --lang zh

Three kinds of matrices: Gaussian values, the trained ones of a checkpoint whose columns every format takes,
and Gaussian values of which 16 columns are 20 times the others. Peers that are not installed are named below
the table. What it looks for: comfy-kitchen compressed-tensors torchao bitsandbytes hqq optimum-quanto mlx
mlx-cpu sdnq gguf pywhispercpp.
"""

from __future__ import annotations

import argparse
import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqnr import Matrix, decibels, exact, matrices, sqnr

from transcode import schemes
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec

Values = NDArray[np.float32]
Encoder = Callable[[Any], Any]
"""A float32 matrix of torch to what its codes decode to."""


@dataclass(frozen=True)
class Line:
    """One format: options of ours, the plain one first, and encoders of others for the same bits."""

    scheme: str
    common: dict[str, Any] = field(default_factory=dict)
    ours: tuple[dict[str, Any], ...] = ({},)
    theirs: tuple[tuple[str, Encoder], ...] = ()


_MSE: dict[str, Any] = {"optimize": "mse"}


def kitchen(module: str) -> Any:
    """A module of comfy-kitchen's eager backend."""
    return import_module(f"comfy_kitchen.backends.eager.{module}")


def kitchen_int8(x: Any) -> Any:
    q = kitchen("quantization")
    codes, scale = q.quantize_int8_rowwise(x)
    return codes.float() * scale


def kitchen_rotated(x: Any) -> Any:
    q = kitchen("quantization")
    return q.dequantize_int8_convrot_weight(*q.quantize_int8_convrot_weight(x, 256), 256)


def kitchen_w4a8(bits: int) -> Encoder:
    def through(x: Any) -> Any:
        layout = import_module("comfy_kitchen.tensor").AsymW4A8Int8Layout
        return layout.dequantize(*layout.quantize(x, bits=bits))

    return through


def kitchen_w4a4(x: Any) -> Any:
    c = kitchen("convrot_w4a4")
    return c.dequantize_convrot_w4a4_weight(*c.quantize_convrot_w4a4_weight(x))


def kitchen_nvfp4(x: Any) -> Any:
    q = kitchen("quantization")
    scale = x.abs().max() / (6 * 448)
    codes, blocks = q.quantize_nvfp4(x, scale)
    return q.dequantize_nvfp4(codes, scale, blocks, x.dtype)


def kitchen_mxfp8(x: Any) -> Any:
    q = kitchen("quantization")
    return q.dequantize_mxfp8(*q.quantize_mxfp8(x), x.dtype)


def tensors_compressed(**options: Any) -> Encoder:
    """compressed-tensors: extremes of rows or groups, its scales, its rounding."""

    def through(x: Any) -> Any:
        from compressed_tensors.quantization import QuantizationArgs  # type: ignore[import-untyped, unused-ignore]
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize  # type: ignore[import-untyped, unused-ignore]
        from compressed_tensors.quantization.utils import calculate_qparams  # type: ignore[import-untyped, unused-ignore]

        arguments = QuantizationArgs(**options)
        groups = x.reshape(len(x), -1, options.get("group_size", x.shape[1]))
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
        return fake_quantize(x, scale, zero, arguments)

    return through


def tensors_blocks(x: Any) -> Any:
    """compressed-tensors: E4M3 under a scale for each 128 rows of 128 columns."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    arguments = QuantizationArgs(num_bits=8, type="float", strategy="block", block_structure=[128, 128])
    blocks = x.reshape(len(x) // 128, 128, -1, 128)
    scale, zero = calculate_qparams(blocks.amin((1, 3)), blocks.amax((1, 3)), arguments)
    return fake_quantize(x, scale, zero, arguments)


def torchao_mx(elements: str, mode: str) -> Encoder:
    def through(x: Any) -> Any:
        formats = import_module("torchao.prototype.mx_formats.mx_tensor")
        modes = import_module("torchao.prototype.mx_formats.config").ScaleCalculationMode
        elem = getattr(import_module("torch"), elements, elements)  # those of 6 bits are words
        return formats.MXTensor.to_mx(x, elem, 32, modes[mode]).dequantize(x.dtype)

    return through


def torchao_nvfp4(x: Any) -> Any:
    made = import_module("torchao.prototype.mx_formats.nvfp4_tensor")
    return made.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=x.abs().max() / (6 * 448)).dequantize(x.dtype)


def bnb_four(kind: str) -> Encoder:
    def through(x: Any) -> Any:
        f = import_module("bitsandbytes.functional")
        return f.dequantize_4bit(*f.quantize_4bit(x, quant_type=kind, blocksize=64))

    return through


def bnb_int8(x: Any) -> Any:
    codes, scale, _ = import_module("bitsandbytes.functional").int8_vectorwise_quant(x.half())
    return codes.float() * scale[:, None] / 127


def hqq(group: int, bits: int = 4) -> Encoder:
    def through(x: Any) -> Any:
        own = import_module("hqq.core.quantize").Quantizer
        kind = import_module("torch").float32
        made = own.quantize(x, nbits=bits, group_size=group, axis=1, device="cpu", compute_dtype=kind)
        return own.dequantize(*made)

    return through


def quanto(qtype: str, group: int | None) -> Encoder:
    def through(x: Any) -> Any:
        own = import_module("optimum.quanto")
        kind = getattr(own, qtype)
        if group is None:
            return own.quantize_weight(x, kind, 0, own.AbsmaxOptimizer()(x, kind, 0)).dequantize()
        scale, shift = own.MaxOptimizer()(x, kind, 0, group)
        # By its parts: packed codes ask for an extension that is compiled.
        codes = import_module("torch").ops.quanto.quantize_affine(x, kind.bits, 0, group, scale, shift)
        return own.ungroup(codes * scale - shift, axis=0, orig_shape=x.shape)

    return through


def mlx(bits: int) -> Encoder:
    def through(x: Any) -> Any:
        mx = import_module("mlx.core")
        q = mx.quantize(mx.array(x.numpy()), group_size=64, bits=bits)
        return import_module("torch").from_numpy(np.array(mx.dequantize(*q, group_size=64, bits=bits)))

    return through


def sdnq(dtype: str, **options: Any) -> Encoder:
    def through(x: Any) -> Any:
        own = import_module("sdnq.quantizer").sdnq_quantize_layer_weight
        decoder, parts = own(x, "Linear", weights_dtype=dtype, **options)
        return decoder(**parts, skip_compile=True)

    return through


@cache
def _library() -> Any:
    place = find_spec("pywhispercpp")
    if place is None or place.origin is None:
        raise ImportError("pywhispercpp")
    library = ctypes.CDLL(str(Path(place.origin).parent.parent / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_void_p,
    ]  # fmt: skip
    return library


def ggml(name: str) -> Encoder:
    """ggml's own encoder, and the decoder of the gguf package."""

    def through(x: Any) -> Any:
        gguf = import_module("gguf")
        kind = gguf.GGMLQuantizationType[name]
        values, (rows, columns) = np.ascontiguousarray(x.numpy()), x.shape
        block, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.empty((rows, columns // block * size), np.uint8)
        library = _library()
        library.ggml_quantize_chunk(int(kind), values.ctypes.data, out.ctypes.data, 0, rows, columns, None)
        decoded = import_module("gguf.quants").dequantize(out, kind)
        return import_module("torch").from_numpy(decoded)

    return through


def _int4(size: int) -> Iterator[Line]:
    grouped = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": size}
    yield Line(
        "int4", {"group_size": size}, ({}, _MSE, {"optimize": "signed"}),
        (
            ("compressed-tensors", tensors_compressed(symmetric=True, **grouped)),
            ("sdnq int4", sdnq("int4", group_size=size)),
        ),
    )  # fmt: skip
    yield Line(
        "int4", {"group_size": size, "symmetric": False}, ({}, _MSE),
        (("compressed-tensors", tensors_compressed(symmetric=False, **grouped)),),
    )  # fmt: skip


_ROWS: dict[str, Any] = {"num_bits": 8, "symmetric": True, "strategy": "channel"}

_GGML = (
    "q8_0",
    "q6_k",
    "q5_k",
    "q5_1",
    "q5_0",
    "q4_k",
    "q4_1",
    "q4_0",
    "iq4_nl",
    "iq4_xs",
    "q3_k",
    "q2_k",
    "iq3_s",
    "iq3_xxs",
    "iq2_s",
    "tq2_0",
    "tq1_0",
)

LINES: tuple[Line, ...] = (
    Line(
        "int8", {}, ({}, _MSE),
        (
            ("comfy-kitchen", kitchen_int8),
            ("compressed-tensors", tensors_compressed(type="int", **_ROWS)),
            ("bitsandbytes", bnb_int8),
            ("quanto", quanto("qint8", None)),
            ("sdnq", sdnq("int8", group_size=-1)),
        ),
    ),
    Line(
        "int8", {"rotate": 256}, ({},),
        (
            ("comfy-kitchen", kitchen_rotated),
            ("sdnq", sdnq("int8", group_size=-1, use_hadamard=True)),
        ),
    ),
    Line(
        "fp8", {}, ({}, _MSE),
        (
            ("compressed-tensors", tensors_compressed(type="float", **_ROWS)),
            ("quanto", quanto("qfloat8_e4m3fn", None)),
            ("sdnq", sdnq("float8_e4m3fn", group_size=-1)),
        ),
    ),
    Line(
        "fp8", {"format": "e5m2"}, ({}, _MSE),
        (
            ("quanto", quanto("qfloat8_e5m2", None)),
            ("sdnq", sdnq("float8_e5m2", group_size=-1)),
        ),
    ),
    Line(
        "fp8", {"granularity": "block"}, ({}, _MSE),
        (("compressed-tensors", tensors_blocks),),
    ),
    Line(
        "mxfp8", {}, ({},),
        (
            ("comfy-kitchen", kitchen_mxfp8),
            ("torchao floor", torchao_mx("float8_e4m3fn", "FLOOR")),
            ("torchao rceil", torchao_mx("float8_e4m3fn", "RCEIL")),
        ),
    ),
    Line(
        "mxfp6", {}, ({}, _MSE),
        (
            ("torchao floor", torchao_mx("fp6_e2m3", "FLOOR")),
            ("torchao even", torchao_mx("fp6_e2m3", "EVEN")),
        ),
    ),
    Line("mxfp6", {"format": "e3m2"}, ({}, _MSE), (("torchao even", torchao_mx("fp6_e3m2", "EVEN")),)),
    Line("w6a8", {"rotate": 256}, ({},), (("comfy-kitchen", kitchen_w4a8(6)),)),
    Line("w4a8", {"rotate": 256}, ({},), (("comfy-kitchen", kitchen_w4a8(4)),)),
    Line("convrot_w4a4", {"rotate": 256}, ({}, _MSE), (("comfy-kitchen", kitchen_w4a4),)),
    Line(
        "nvfp4", {}, ({}, {"optimize": "four_over_six"}, _MSE),
        (("comfy-kitchen", kitchen_nvfp4), ("torchao", torchao_nvfp4)),
    ),
    Line(
        "mxfp4", {}, ({}, _MSE),
        (
            ("torchao floor", torchao_mx("float4_e2m1fn_x2", "FLOOR")),
            ("torchao even", torchao_mx("float4_e2m1fn_x2", "EVEN")),
            ("torchao rceil", torchao_mx("float4_e2m1fn_x2", "RCEIL")),
            ("ggml", ggml("MXFP4")),
        ),
    ),
    *_int4(128), *_int4(64), *_int4(32),
    Line(
        "affine", {}, ({}, _MSE),
        (
            ("mlx", mlx(4)),
            ("quanto", quanto("qint4", 64)),
            ("sdnq uint4", sdnq("uint4", group_size=64)),
        ),
    ),
    Line("hqq", {}, ({}, _MSE), (("hqq", hqq(64)),)),
    *(Line("hqq", {"bits": bits}, ({}, _MSE), (("hqq", hqq(64, bits)),)) for bits in (8, 3, 2, 1)),
    *(Line("qbits", {"bits": bits}, ({},), (("quanto", quanto(f"qint{bits}", 128)),)) for bits in (4, 2)),
    Line("awq_w4a16", {}, ({}, _MSE), (("hqq", hqq(64)), ("mlx", mlx(4)))),
    Line("affine", {"bits": 8}, ({}, _MSE), (("mlx", mlx(8)),)),
    Line("affine", {"bits": 6}, ({}, _MSE), (("mlx", mlx(6)),)),
    Line("affine", {"bits": 5}, ({}, _MSE), (("mlx", mlx(5)),)),
    Line("affine", {"bits": 3}, ({}, _MSE), (("mlx", mlx(3)),)),
    Line("affine", {"bits": 2}, ({}, _MSE), (("mlx", mlx(2)), ("sdnq uint2", sdnq("uint2", group_size=64)))),
    Line("nf4", {}, ({},), (("bitsandbytes", bnb_four("nf4")),)),
    Line("bnb_fp4", {}, ({},), (("bitsandbytes", bnb_four("fp4")),)),
    *(Line(name, {}, ({},), (("ggml", ggml(name.upper())),)) for name in _GGML),
    Line("ggml_mxfp4", {}, ({},), (("ggml", ggml("MXFP4")),)),
    Line("ggml_nvfp4", {}, ({},), (("ggml", ggml("NVFP4")),)),
    Line("nvfp4_awq", {}, ({}, _MSE)),
)  # fmt: skip


def kinds(path: str | None) -> list[list[Matrix]]:
    """Gaussian, trained and hot-column matrices; no trained ones without a checkpoint."""
    random = np.random.default_rng(0)
    plain, hot = (random.standard_normal((512, 2048), np.float32) * np.float32(0.02) for _ in range(2))
    hot[:, random.choice(2048, 16, replace=False)] *= 20
    spec = Spec(DTYPES["F32"], plain.shape)
    trained = [one for one in matrices(path) if not one[0].columns % 256] if path else []
    return [[(spec, plain)], trained, [(spec, hot)]]


def loss(encoder: Encoder, found: Iterable[Matrix]) -> float:
    """Signal to noise of another's encoder over all matrices together, in dB."""
    import torch

    signal = noise = 0.0
    for spec, rows in found:
        values = exact(spec, rows)
        out = encoder(torch.from_numpy(values.astype(np.float32))).float().numpy()
        signal += float(np.square(values).sum())
        noise += float(np.square(values - out.astype(np.float64)).sum())
    return decibels(signal, noise)


@dataclass(frozen=True)
class Row:
    """A row of the table: whose encoder, bits of a weight, and dB of each kind of matrices."""

    label: str
    by: str
    bits: float | None
    db: tuple[float | None, ...]


def measured(line: Line, found: list[list[Matrix]]) -> tuple[list[Row], list[str]]:
    """Rows of one format, ours first, and the peers that are missing."""
    said = [f"{key}={value}".lower() for key, value in line.common.items()]
    label = " ".join((line.scheme, *said))
    rows, missing = [], []
    for options in line.ours:
        scheme = schemes.make(line.scheme, **line.common, **options)
        specs = [spec for kind in found for spec, _ in kind]
        bits = sum(part.spec.nbytes for one in specs for part in scheme.parts(one)) * 8
        db = tuple(sqnr(scheme, kind) if kind else None for kind in found)
        own = " ".join(("transcode", *map(str, options.values())))
        rows.append(Row(label, own, bits / sum(one.numel for one in specs), db))
    for name, encoder in line.theirs:
        try:
            rows.append(Row(label, name, None, tuple(loss(encoder, one) if one else None for one in found)))
        except ImportError as error:
            missing.append(f"{name} ({error.name or error})")
    return rows, missing


def behind(rows: list[Row]) -> list[str]:
    """Where a peer loses less than the best of ours, by 0.01 dB or more."""
    own = [row for row in rows if row.bits is not None]
    best = [max((one for row in own if (one := row.db[n]) is not None), default=None) for n in range(3)]
    return [
        f"{row.label}: {row.by} {theirs:.2f} dB, transcode {ours:.2f} dB"
        for row in rows
        if row.bits is None
        for theirs, ours in zip(row.db, best, strict=True)
        if theirs is not None and ours is not None and theirs - ours >= 0.01
    ]


def heading(words: tuple[str, ...]) -> Iterator[str]:
    """The first two lines of the table in Markdown."""
    yield "| " + " | ".join(words) + " |"
    yield "|---|---|---:|---:|---:|---:|"


def printed(rows: Iterable[Row]) -> Iterator[str]:
    """Its rows of one format, which is named in the first of them."""
    last = ""
    for row in rows:
        cells = ["" if one is None else f"{one:.2f}" for one in row.db]
        label = f"`{row.label}`" if row.label != last else ""
        bits = "" if row.bits is None else f"{row.bits:.2f}"
        yield "| " + " | ".join((label, row.by, bits, *cells)) + " |"
        last = row.label


WORDS = {
    "en": ("format", "encoder", "bits", "Gaussian", "trained", "hot columns"),
    "zh": ("格式", "编码器", "位数", "高斯", "训练得到", "热列"),
}


def main() -> None:
    """Print the table, what is missing, and where a peer is ahead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", nargs="?", help="a checkpoint, for the trained matrices")
    parser.add_argument("--only", default="", help="schemes whose name begins so")
    parser.add_argument("--lang", choices=tuple(WORDS), default="en")
    args = parser.parse_args()
    os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")
    found = kinds(args.path)
    absent: list[str] = []
    ahead: list[str] = []
    print("\n".join(heading(WORDS[args.lang])))
    for line in LINES:
        if line.scheme.startswith(args.only):
            rows, missing = measured(line, found)
            absent += missing
            ahead += behind(rows)
            print("\n".join(printed(rows)), flush=True)
    print(f"\nnot installed: {', '.join(dict.fromkeys(absent)) or 'none'}")
    print("\n".join(("a peer loses less:", *ahead)) if ahead else "no peer loses less")


if __name__ == "__main__":
    main()
