"""Errors about command lines: one line each, what is wrong and what to do."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import shlex

import pytest
import torch


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("run", "SRC and DST are missing; or give a recipe with --config"),
        ("run a", "DST, where to write, is missing; or give a recipe with --config"),
        ("run a b c", "unexpected 'c'; usage: transcode run [OPTIONS] [SRC] [DST]"),
        ("inspect", "PATH is missing; usage: transcode inspect [OPTIONS] PATH [PATTERN...]"),
        ("completion", "SHELL is missing; usage: transcode completion [OPTIONS] {bash|zsh|fish}"),
        ("completion bsh", "SHELL: 'bsh' is not one of bash, zsh, fish (did you mean bash?); see transcode completion --help"),
        ("run a b --cast", "--cast needs a value: DTYPE; see transcode run --help"),
        ("run a b --rename x", "--rename needs 2 values: REGEX REPLACEMENT; see transcode run --help"),
        ("run a b --force=1", "--force takes no value; see transcode run --help"),
        ("run a b --workers 0", "--workers: 0 is less than 1; see transcode run --help"),
        ("run a b --workers two", "--workers: 'two' is no number; see transcode run --help"),
        ("meta set f a=b --wait x", "--wait: 'x' is no number; see transcode meta set --help"),
        ("meta set f a=b --wait -1", "--wait: -1.0 is less than 0; see transcode meta set --help"),
        ("run a b --layout chunk", "--layout: 'chunk' is not one of single_file, by_block, chunked, apart, components"
         " (did you mean chunked?); see transcode run --help"),
        ("run a b --memory 1parsec", "--memory: '1parsec' is not a size; write 5GB, 512MB or 64MiB"),
        ("run a b --sheme int8", "there is no option '--sheme', did you mean '--scheme'?"),
        ("run a b --dtype bf16", "there is no option '--dtype', did you mean '--cast'?"),
        ("run a b --int8", "there is no option '--int8', did you mean '--scheme int8'?"),
        ("run a b --bf16", "there is no option '--bf16', did you mean '--cast bf16'?"),
        ("run a b --lora-strength 1", "there is no option '--lora-strength', did you mean '--lora PATH:STRENGTH'?"),
        ("run a -o b", "there is no option '-o': DST is said by its place; usage: transcode run [OPTIONS] [SRC] [DST]"),
        ("run a b --cast f16 --cast bf16", "--cast is given twice; say it once"),
        ("meta get f --jsn", "there is no option '--jsn', did you mean '--json'?"),
        ("nunchaku convert --kolor", "there is no option '--kolor'; see transcode nunchaku convert --help"),
        ("--colour", "there is no option '--colour'; see transcode --help"),
        ("schemes a b", "too many words; give one name, or none"),
        ("merge", "FOLDER is missing; usage: transcode merge [OPTIONS] FOLDER ALLINONE"),
    ],
)  # fmt: skip
def test_one_line(typed, said, refused):
    assert refused(*shlex.split(typed)) == f"transcode: error: {said}"


def test_merging_loras_is_run(save, refused, tmp_path):
    model, lora = save({"a": torch.ones(2)}), save({"a": torch.ones(2)}, "style.safetensors")
    for words in ([f"{lora}:0.8", "out"], ["out", "--lora", f"{lora}:0.8"]):
        line = refused("merge", model, *words).rpartition("type: ")[2]
        assert shlex.split(line) == ["transcode", "run", str(model), "out", "--lora", f"{lora}:0.8"]


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        (":strong", "'strong' is no strength"), (":1,5", "'1,5' is no strength"), (":nan", "'nan' is no strength"),
        ("@0.8", "there is no such file"), ("=0.8", "there is no such file"), (":1:2:3", "there is no such file"),
    ],
)  # fmt: skip
def test_a_strength_that_is_none(behind, said, save, refused, wan, tmp_path):
    lora = save({"a": torch.ones(2)}, "style.safetensors")
    told = refused("run", wan, tmp_path / "o", "--lora", f"{lora}{behind}", "-n")
    assert said in told
    assert told.endswith(f"; write PATH, PATH:STRENGTH or PATH:STRENGTH:ALPHA, as {lora}:0.8")
