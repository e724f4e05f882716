"""Numbers that are told of a plan and of a run: bytes that are stored, like compared with like."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file


def table(out: str) -> dict[str, list[str]]:
    """The rows under fate, tensors, before, after."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(r"fate +tensors +before +after", line))
    rows: dict[str, list[str]] = {}
    for line in lines[start + 1 :]:
        if (match := re.match(r"(.+?)  +(\d+)  +([\d.]+ \w+)  +([\d.]+ \w+)$", line)) is None:
            break
        rows[match[1]] = list(match.groups()[1:])
    return rows


@pytest.fixture
def src(save):
    """4 matrices of 40,000 bytes and 4 biases of 400, in float32."""
    tensors = {f"blocks.{i}.ffn.weight": torch.randn(100, 100) for i in range(4)}
    return save(tensors | {f"blocks.{i}.ffn.bias": torch.randn(100) for i in range(4)})


def stored(path) -> int:
    return sum(t.numel() * t.element_size() for t in load_file(path).values())


def test_casts_count_what_the_source_stores(src, tmp_path, cli):
    out = tmp_path / "o.safetensors"
    said = cli("run", src, out, "--cast", "bf16").out
    assert table(said) == {"cast": ["8", "162 kB", "80.8 kB"]}
    size = out.stat().st_size
    assert f"8 tensors, 162 kB -> 80.8 kB, 1 file of {size / 1000:.3g} kB" in said
    report = cli("run", src, out, "--cast", "bf16", "--force", "--json").json
    assert report["bytes_in"] == report["bytes_read"] == stored(src) == 161_600
    assert report["bytes_out"] == stored(out) == 80_800
    assert report["file_bytes"] == report["bytes_written"] == size
    assert {t["dtype"] for t in report["tensors"]} == {"F32"}
    assert {s["dtype"] for t in report["tensors"] for s in t["stored"]} == {"BF16"}


def test_the_plan_shows_what_is_stored(src, tmp_path, cli):
    said = cli("run", src, tmp_path / "o.safetensors", "--cast", "bf16", "-n", "-v").out
    row = next(line for line in said.splitlines() if line.startswith("blocks.0.ffn.weight"))
    assert re.fullmatch(r"blocks\.0\.ffn\.weight +F32 ?\[100,? ?100\] +BF16 +cast: F32 -> BF16", row)
    assert "162 kB -> 80.8 kB" in said


def test_cast_before_quantizing(src, tmp_path, cli):
    out = tmp_path / "o.safetensors"
    said = cli("run", src, out, "--cast", "bf16", "--scheme", "int8").out
    # codes of one byte and a BF16 scale to each row
    assert table(said) == {"quantize int8": ["4", "160 kB", "40.8 kB"], "cast": ["4", "1.6 kB", "800 B"]}
    assert f"162 kB -> {stored(out) / 1000:.3g} kB" in said


def test_dequantizing_counts_codes_and_scales(src, tmp_path, cli):
    once, out = tmp_path / "once.safetensors", tmp_path / "o.safetensors"
    cli("run", src, once, "--scheme", "int8")
    said = cli("run", once, out, "--dequantize", "F32").out
    rows = table(said)
    assert rows["dequantize int8 -> F32"] == ["4", "40 kB", "160 kB"]
    assert rows["into others"] == ["4", "800 B", "0 B"]
    assert f"{stored(once) / 1000:.3g} kB -> 162 kB" in said


def test_what_is_dropped_was_in_the_source(src, tmp_path, cli):
    out = tmp_path / "o.safetensors"
    said = cli("run", src, out, "--drop", "*.bias").out
    assert table(said) == {"keep": ["4", "160 kB", "160 kB"], "drop": ["4", "1.6 kB", "0 B"]}
    assert "4 tensors, 162 kB -> 160 kB" in said


def test_a_second_look_reads_twice(src, tmp_path, cli):
    options = ["--scheme", "int8:granularity=tensor", "--json"]
    report = cli("run", src, tmp_path / "o.safetensors", *options).json
    assert report["bytes_in"] == stored(src)
    assert report["bytes_read"] == stored(src) + 4 * 40_000
