"""Numbers that are told of a plan and of a run: bytes that are stored, like compared with like."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file


def table(out: str) -> dict[str, list[str]]:
    """The heads of sections: what is done -> tensors, bytes of the source, bytes of the output (if told)."""
    rows: dict[str, list[str]] = {}
    for line in out.splitlines():
        match = re.match(r"(\S.*?)  +(\d+) tensors?  +([\d.]+ \w+)(?: -> ([\d.]+ \w+))?(?:  |$)", line)
        if match is not None:
            rows[match[1]] = [text for text in match.groups()[1:] if text is not None]
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
    assert "total  8 tensors, 162 kB -> 80.8 kB" in said
    assert f"files  1 of {src.stat().st_size / 1000:.3g} kB -> 1 of {size / 1000:.3g} kB" in said
    report = cli("run", src, out, "--cast", "bf16", "--force", "--json").json
    assert report["bytes_in"] == report["bytes_read"] == stored(src) == 161_600
    assert report["bytes_out"] == stored(out) == 80_800
    assert report["file_bytes"] == report["bytes_written"] == size
    assert {t["dtype"] for t in report["tensors"]} == {"F32"}
    assert {s["dtype"] for t in report["tensors"] for s in t["stored"]} == {"BF16"}


def test_the_plan_shows_what_is_stored(src, tmp_path, cli):
    said = cli("run", src, tmp_path / "o.safetensors", "--cast", "bf16", "-n", "-v").out
    assert re.search(r"(?m)^cast  8 tensors  162 kB -> 80.8 kB  F32 -> BF16$", said)
    row = next(line for line in said.splitlines() if line.startswith("  blocks.0.ffn.weight"))
    assert re.fullmatch(r"  blocks\.0\.ffn\.weight +\[100,100\] +cast: F32 -> BF16", row)
    assert "162 kB -> 80.8 kB" in said


def test_cast_before_quantizing(src, tmp_path, cli):
    out = tmp_path / "o.safetensors"
    said = cli("run", src, out, "--cast", "bf16", "--scheme", "int8").out
    # codes of one byte and a BF16 scale to each row
    rows = {"cast + quantize int8": ["4", "160 kB", "40.8 kB"], "cast": ["4", "1.6 kB", "800 B"]}
    assert table(said) == rows
    assert f"162 kB -> {stored(out) / 1000:.3g} kB" in said


def test_dequantizing_counts_codes_and_scales(src, tmp_path, cli):
    once, out = tmp_path / "once.safetensors", tmp_path / "o.safetensors"
    cli("run", src, once, "--scheme", "int8")
    said = cli("run", once, out, "--dequantize", "F32").out
    rows = table(said)
    assert rows["dequantize int8 -> F32"] == ["4", "40 kB", "160 kB"]
    assert rows["into others"] == ["4", "800 B"]
    assert f"{stored(once) / 1000:.3g} kB -> 162 kB" in said


def test_what_is_dropped_was_in_the_source(src, tmp_path, cli):
    out = tmp_path / "o.safetensors"
    said = cli("run", src, out, "--drop", "*.bias").out
    assert table(said) == {"keep": ["4", "160 kB"], "drop": ["4", "1.6 kB"]}
    assert "4 tensors, 162 kB -> 160 kB" in said


def test_a_second_look_reads_twice(src, tmp_path, cli):
    options = ["--scheme", "int8:granularity=tensor", "--json"]
    report = cli("run", src, tmp_path / "o.safetensors", *options).json
    assert report["bytes_in"] == stored(src)
    assert report["bytes_read"] == stored(src) + 4 * 40_000


@pytest.fixture
def odd(save):
    """80 matrices of 24 columns and 2 of 40, that nvfp4 does not take (blocks of 16), and one that fits."""
    tensors = {f"blocks.{i}.ffn.weight": torch.randn(4, 24) for i in range(80)}
    tensors |= {f"blocks.{i}.attn.weight": torch.randn(4, 40) for i in range(2)}
    return save(tensors | {"blocks.0.out.weight": torch.randn(16, 32)})


NVFP4 = ("--scheme", "nvfp4", "--convention", "neutral", "-n")


def warnings(result) -> list[str]:
    lines = result.err.splitlines()
    return [line.partition("warning: ")[2] for line in lines if "warning: " in line]


def refused(name: str, columns: int) -> str:
    return f"{name}: not quantized: {columns} columns are not a multiple of 16"


def test_warnings_that_are_alike_share_a_line(odd, tmp_path, cli):
    said = warnings(cli("run", odd, tmp_path / "o.safetensors", *NVFP4))
    assert sorted(said) == [
        "2 times: not quantized: 40 columns are not a multiple of 16"
        " (blocks.0.attn.weight, blocks.1.attn.weight)",
        "80 times: not quantized: 24 columns are not a multiple of 16"
        " (blocks.0.ffn.weight, blocks.1.ffn.weight, blocks.10.ffn.weight and 77 more)",
    ]


def test_verbose_and_json_list_every_warning(odd, tmp_path, cli):
    every = {refused(f"blocks.{i}.ffn.weight", 24) for i in range(80)}
    every |= {refused(f"blocks.{i}.attn.weight", 40) for i in range(2)}
    said = warnings(cli("run", odd, tmp_path / "o.safetensors", *NVFP4, "-v"))
    assert (len(said), set(said)) == (82, every)
    listed = cli("run", odd, tmp_path / "o.safetensors", *NVFP4, "--json").json["warnings"]
    assert (len(listed), set(listed)) == (82, every)


def test_a_warning_that_is_alone_is_told_as_it_is(save, tmp_path, cli):
    src = save({"blocks.0.a.weight": torch.ones(4, 24), "blocks.0.b.weight": torch.ones(16, 32)})
    said = warnings(cli("run", src, tmp_path / "o.safetensors", *NVFP4))
    assert said == [refused("blocks.0.a.weight", 24)]


def test_what_is_not_shown_is_counted_by_warnings(save, tmp_path, cli):
    """12 groups of 2 are 12 lines, of which 10 are shown; the 4 warnings of the others are counted."""
    tensors = {f"blocks.{i}.m{n}.weight": torch.ones(4, 16 * n + 1) for i in range(2) for n in range(1, 13)}
    src = save(tensors | {"blocks.0.out.weight": torch.randn(16, 32)})
    said = warnings(cli("run", src, tmp_path / "o.safetensors", *NVFP4))
    assert len(said) == 11
    assert all(line.startswith("2 times: ") for line in said[:10])
    assert said[10] == "... and 4 more; -v shows them"


def test_notes_that_are_alike_share_a_line(tmp_path, cli):
    tied = {}
    for i in range(5):
        tied[f"blocks.{i}.a"] = tied[f"blocks.{i}.b"] = torch.randn(3, 3)
    src = tmp_path / "m.pt"
    torch.save(tied, src)
    told = "blocks.0.a, blocks.0.b share their bytes in the source; each is written in full"
    line = f"5 times: {told} (blocks.0.a, blocks.1.a, blocks.2.a and 2 more)"
    out = tmp_path / "o.safetensors"
    assert re.search(rf"(?m)^note +{re.escape(line)}$", cli("run", src, out, "-n").out)
    every = [line for line in cli("run", src, out, "-n", "-v").out.splitlines() if "share their" in line]
    assert len(every) == 5
    report = cli("run", src, out, "--json").json
    assert len([note for note in report["notes"] if "share their" in note]) == 5
    assert f"note         {line}" in cli("run", src, out, "--force").out.splitlines()


def test_a_pattern_may_say_what_it_likes(src, tmp_path, cli):
    """Which tensors went into others is not told by the words of the reason."""
    said = cli("run", src, tmp_path / "o.safetensors", "--drop", "re:bias|went into", "--force")
    assert table(said.out)["drop"] == ["4", "1.6 kB"]


def test_a_plan_and_the_schemes_fit_a_narrow_terminal(src, tmp_path, cli, monkeypatch):
    """The last lines of both had 67 and 64 columns, however narrow it was."""
    monkeypatch.setenv("COLUMNS", "60")
    plan = cli("run", src, tmp_path / "o", "-s", "int8", "-n").out.splitlines()
    assert plan[-1].strip() == "(-v lists every tensor)"
    assert plan[-2].startswith("total  ")
    schemes = cli("schemes").out.splitlines()
    assert max(map(len, [*plan[-2:], *schemes])) <= 60
