"""What a plan of the largest models costs: time and memory on a made-up source shaped as DeepSeek-V3.

    python tools/bench_moe.py --work DIR [--layers 91] [--shards 163] [--rounds 1] [--json OUT] [CASE ...]

The source has DeepSeek-V3's names, dtypes and shapes (its config.json: 61 layers of 256 experts, FP8 in
blocks of 128x128 with ``weight_scale_inv``), and with 91 layers a terabyte; its files are holes but for their
headers. Each case is a process of its own that inspects it, or plans and writes nothing. A plan through the
API asks for no room on the disk, where ``run -n`` would.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

__all__ = ["CASES", "LAYERS", "SHARDS", "measure", "run", "tensors", "write"]

LAYERS, SHARDS = 91, 163
"""Of a terabyte, and as many files as the published model has."""

Fact = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape of a stored tensor."""

_HIDDEN, _INNER, _EXPERT, _EXPERTS, _VOCABULARY, _DENSE = 7168, 18432, 2048, 256, 129280, 3
_BLOCK = 128
_BYTES = {"BF16": 2, "F8_E4M3": 1, "F32": 4}

CASES = {
    "inspect": "transcode.inspect(source)",
    "dequantize": "transcode.write(out).plan(transcode.open(source) | transcode.dequantize('bf16'))",
    "requantize nvfp4": (
        "transcode.write(out, convention='compressed_tensors')"
        ".plan(transcode.open(source) | transcode.quantize('nvfp4'))"
    ),
    "requantize fp8": (
        "transcode.write(out, convention='compressed_tensors')"
        ".plan(transcode.open(source) | transcode.dequantize('bf16') | transcode.quantize('fp8'))"
    ),
    "re-shard": "transcode.write(out, max_shard_size='4GB').plan(transcode.open(source))",
}
"""What is done, as Python of ``source`` and ``out``."""


def tensors(layers: int, experts: int = _EXPERTS) -> Iterator[Fact]:
    """All that the model stores, in its order."""

    def coded(name: str, rows: int, columns: int) -> Iterator[Fact]:
        yield f"{name}.weight", "F8_E4M3", (rows, columns)
        yield f"{name}.weight_scale_inv", "F32", (-(-rows // _BLOCK), -(-columns // _BLOCK))

    def feed_forward(prefix: str, inner: int) -> Iterator[Fact]:
        yield from coded(f"{prefix}.gate_proj", inner, _HIDDEN)
        yield from coded(f"{prefix}.up_proj", inner, _HIDDEN)
        yield from coded(f"{prefix}.down_proj", _HIDDEN, inner)

    yield "model.embed_tokens.weight", "BF16", (_VOCABULARY, _HIDDEN)
    for layer in range(layers):
        path = f"model.layers.{layer}"
        yield f"{path}.input_layernorm.weight", "BF16", (_HIDDEN,)
        yield f"{path}.post_attention_layernorm.weight", "BF16", (_HIDDEN,)
        yield from coded(f"{path}.self_attn.q_a_proj", 1536, _HIDDEN)
        yield f"{path}.self_attn.q_a_layernorm.weight", "BF16", (1536,)
        yield from coded(f"{path}.self_attn.q_b_proj", 24576, 1536)
        yield from coded(f"{path}.self_attn.kv_a_proj_with_mqa", 576, _HIDDEN)
        yield f"{path}.self_attn.kv_a_layernorm.weight", "BF16", (512,)
        yield from coded(f"{path}.self_attn.kv_b_proj", 32768, 512)
        yield from coded(f"{path}.self_attn.o_proj", _HIDDEN, 16384)
        if layer < _DENSE:
            yield from feed_forward(f"{path}.mlp", _INNER)
            continue
        yield f"{path}.mlp.gate.weight", "BF16", (experts, _HIDDEN)
        yield f"{path}.mlp.gate.e_score_correction_bias", "F32", (experts,)
        for expert in range(experts):
            yield from feed_forward(f"{path}.mlp.experts.{expert}", _EXPERT)
        yield from feed_forward(f"{path}.mlp.shared_experts", _EXPERT)
    yield "model.norm.weight", "BF16", (_HIDDEN,)
    yield "lm_head.weight", "BF16", (_VOCABULARY, _HIDDEN)


def write(folder: Path, facts: Sequence[Fact], shards: int) -> int:
    """A folder with the model, its index and its config; returns the bytes of all tensors."""
    folder.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    total = 0
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:06d}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor, dtype, shape in facts[shard * len(facts) // shards : (shard + 1) * len(facts) // shards]:
            end = at + _BYTES[dtype] * prod(shape)
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            weight_map[tensor], at = name, end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + at)
        total += at
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [_BLOCK, _BLOCK],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return total


def measure(source: Path, out: Path, case: str) -> dict[str, Any]:
    """Seconds of wall time and of the processor, and the most bytes of memory, of one case.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    code = f"import sys, transcode; source, out = sys.argv[1:]; {CASES[case]}"
    began = time.perf_counter()
    command = [sys.executable, "-c", code, str(source), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, case)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "case": case,
        "wall s": round(time.perf_counter() - began, 2),
        "processor s": round(usage.ru_utime + usage.ru_stime, 2),
        "MB": round(usage.ru_maxrss * unit / 1e6),
    }


def run(cases: Sequence[str], work: Path, layers: int, shards: int, rounds: int) -> list[dict[str, Any]]:
    """Make the source, measure each case by the least time of the processor, and remove the source."""
    folder = work / "moe"
    facts = list(tensors(layers))
    try:
        nbytes = write(folder, facts, shards)
        print(f"{len(facts)} stored tensors of {nbytes / 1e12:.2f} TB in {shards} files", file=sys.stderr)
        rows = []
        for case in cases:
            runs = [measure(folder, work / "out", case) for _ in range(rounds)]
            rows.append(min(runs, key=lambda one: float(one["processor s"])))
        return rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(description="Cost of plans of the largest models.")
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--work", type=Path, required=True, help="folder for the source, which is removed")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args(arguments)
    rows = run(given.cases, given.work, given.layers, given.shards, given.rounds)
    for one in rows:
        print(f"{one['case']:18} {one['wall s']:7.2f} s  {one['processor s']:7.2f} s cpu  {one['MB']:5d} MB")
    if given.json is not None:
        given.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
