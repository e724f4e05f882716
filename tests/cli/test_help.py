"""Help texts: groups, most used first, on two screens."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from transcode.cli import cli as root
from transcode.core.option import GROUPS


@pytest.fixture
def told(cli, monkeypatch):
    def call(columns: int, *args: str) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        return cli(*args, "--help").out.splitlines()

    return call


def test_run_fits_on_two_screens(told):
    lines = told(100, "run")
    assert len(lines) <= 100


def test_run_is_readable_at_80(told):
    lines = told(80, "run")
    assert len(lines) <= 130


def test_groups_in_their_order_and_the_most_used_first(told):
    lines = told(100, "run")
    heads = [line.removesuffix(":") for line in lines if line[:1].isalpha() and line.endswith(":")]
    assert heads == list(GROUPS)
    flags = [line.split()[0].rstrip(",") for line in lines if line.startswith("  -")]
    assert flags[:6] == ["-s", "--cast", "--saturate", "--dequantize", "--lora", "--to"]


def test_texts_of_a_group_begin_in_one_column(told):
    lines = told(100, "run")
    starts = {line.index(text) for line, text in ((one, text) for one in lines for text in (
        "Quantize: int8", "Family, if", "Columns of a group", "Threads; all", "Print the plan; write",
        "Most bytes of a chunk", "Read files instead",
    ) if text in one)}  # fmt: skip
    assert len(starts) == 1


def test_few_options_stand_in_one_list(told):
    lines = told(100, "dequantize")
    assert "Options:" in lines
    assert not set(lines) & {f"{group}:" for group in GROUPS}


def every_command(group=root, words=()):
    yield list(words)
    if isinstance(group, click.Group):
        for name in group.list_commands(click.Context(group)):
            yield from every_command(group.get_command(click.Context(group), name), (*words, name))


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", list(every_command()), ids=" ".join)
def test_help_fits_the_terminal(words, columns, told):
    assert [line for line in told(columns, *words) if len(line) > columns] == []


def test_a_long_example_goes_on_behind_a_backslash_and_is_the_same_command(told):
    joined = " ".join(" ".join(told(80, "run")).replace(" \\ ", " ").split())
    examples = [line.strip() for line in root.get_command(None, "run").epilog.splitlines()[2:]]
    assert len(examples) >= 5
    assert all(" ".join(line.split()) in joined for line in examples)
    shown = "\n".join(told(80, "run"))
    assert "--override 'blocks.0=bf16' \\\n        --exclude 'blocks.39.ffn'" in shown


@pytest.mark.parametrize("args", [["run", "--help"], ["quantize", "--help"], ["write", "--help"]])
def test_help_loads_no_arrays(args):
    script = (
        "import sys\nfrom transcode.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'yaml', 'rich', 'numba', 'torch', 'ml_dtypes'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
