"""Help texts: groups, most used first, on two screens."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
    assert max(len(line) for line in lines if not line.startswith("    transcode ")) <= 100


def test_run_is_readable_at_80(told):
    lines = told(80, "run")
    assert len(lines) <= 130
    assert max(len(line) for line in lines if not line.startswith("    transcode ")) <= 80


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


@pytest.mark.parametrize("args", [["run", "--help"], ["quantize", "--help"], ["write", "--help"]])
def test_help_loads_no_arrays(args):
    script = (
        "import sys\nfrom transcode.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'yaml', 'rich', 'numba', 'torch', 'ml_dtypes'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
