"""The command line as a whole: what it imports, how it exits."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import subprocess
import sys

import pytest
from safetensors.torch import load_file

from transcode.cli.commands import COMMANDS

IMPORTED = """
import sys
from transcode.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code, done.code
found = {"torch", "numba", "llvmlite", "rich", "safetensors"} & set(sys.modules)
print("IMPORTED", *sorted(found), file=sys.stderr)
"""


def imported(*args: object) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *map(str, args)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "args",
    [
        ["--help"], ["--version"], ["help", "run"], ["run", "--help"], ["meta", "--help"], ["families"], ["families", "show", "wan_dit"],
        ["conventions"], ["schemes"], ["completion", "bash"], ["inspect", "SRC"], ["inspect", "SRC", "--json"],
        ["open", "SRC"], ["recipe", "show", "run", "SRC", "out", "--scheme", "int8"],
        ["run", "SRC", "out", "--scheme", "int8", "--dry-run"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_needs_no_kernels_loads_none(args, wan):
    assert imported(*[wan if arg == "SRC" else arg for arg in args]) == set()


def test_a_copy_loads_neither_torch_nor_numba(wan, tmp_path):
    assert imported("run", wan, tmp_path / "o.safetensors", "-q") == set()


@pytest.mark.parametrize("scheme", ["int8", "fp8", "int8:granularity=tensor"])
def test_no_conversion_of_safetensors_loads_torch(scheme, wan, tmp_path):
    found = imported("run", wan, tmp_path / "o.safetensors", "--scheme", scheme, "-q")
    assert not {"torch", "safetensors", "rich"} & found
    found = imported(
        "run", tmp_path / "o.safetensors", tmp_path / "p.safetensors", "--dequantize", "BF16", "-q"
    )
    assert "torch" not in found


def test_the_package_itself_loads_nothing_heavy():
    script = (
        "import sys, transcode; heavy = {'torch', 'numba', 'numpy', 'click', 'rich', 'yaml', 'ml_dtypes'};"
        "print(sorted(heavy & set(sys.modules)), len(transcode.__all__) == len(set(transcode.__all__)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_all_that_is_promised_is_there():
    import transcode

    for name in transcode.__all__:
        assert getattr(transcode, name).__doc__, name
    with pytest.raises(AttributeError):
        _ = transcode.nothing


def test_unknown_commands_and_options(cli):
    for args in (["quantise"], ["run", "--sheme", "int8"], ["run"], ["run", "a"], ["write"], ["inspect"]):
        result = cli(*args, code=2)
        assert result.err.startswith("transcode: error: ")
        assert result.err.count("\n") == 1
        assert result.out == ""
    assert cli("--version").out.startswith("transcode, version ")


def test_every_command_has_help_that_names_it(cli):
    for name in COMMANDS:
        assert f"Usage: transcode {name}" in cli(name, "--help").out


def test_a_reader_that_goes_away_is_no_error(shell, wan):
    shell(f"transcode inspect {wan} --all | head -n 1")
    assert shell(f"(transcode inspect {wan} --all; echo $? > code) | true; cat code").out.strip() == "0"


def test_debug_shows_where(shell, wan, tmp_path):
    import subprocess as sub

    done = sub.run(
        [sys.executable, "-m", "transcode", "run", str(wan), str(tmp_path / "o"), "-s", "x", "--debug"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("transcode: error: ")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(closed, shell, cli, wan, tmp_path):
    shell(f"transcode run {wan} o.safetensors -s int8 {closed}")
    load_file(tmp_path / "o.safetensors")  # nothing that was printed went into it
    if closed == "<&-":
        assert "--force" in shell(f"transcode run {wan} o.safetensors <&-", code=2).err
    shell(f"transcode meta set o.safetensors a=@- {closed}")
    assert cli("meta", "get", tmp_path / "o.safetensors", "a", "--raw").out == ""


def test_a_fault_of_our_own_is_one_line_that_says_so(cli, wan, monkeypatch):
    def broken(path):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("transcode.containers.source.discover", broken)
    result = cli("inspect", wan, code=2)
    assert result.err.startswith("transcode: error: ZeroDivisionError: division; ")
    assert "report it" in result.err
    assert result.err.count("\n") == 1
