"""A 40-block model on terminals of 80 and 120 columns: one screen, no line too wide, sums that are true."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from make_checkpoint import wan
from make_screens import sparse

from transcode.cli.say import harmless
from transcode.io import system

WIDTHS = (80, 120)
SCREEN = 45
SHAPES = wan()
MATRIX = re.compile(r"blocks\.\d+\.(self_attn|cross_attn|ffn)\.\w+\.weight")


def volume(shape) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


def human(nbytes: float) -> str:
    """Three digits and a unit, written here once more."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if nbytes >= 10**power:
            return f"{nbytes / 10**power:.3g} {unit}"
    return f"{nbytes:.0f} B"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return sparse(tmp_path_factory.mktemp("m") / "wan", SHAPES)


@pytest.fixture(params=WIDTHS)
def columns(request, monkeypatch, model) -> int:
    """Columns of the terminal; the model is the folder ``wan`` here, so that paths are short."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.chdir(model.parent)
    monkeypatch.setattr(system, "free_space", lambda folder: 10**13)  # not that of this disk
    return request.param


def fits(text: str, columns: int) -> list[str]:
    lines = text.splitlines()
    assert [line for line in lines if len(line) > columns] == []
    assert len(lines) <= SCREEN
    return lines


def test_a_plan_is_one_screen(columns, cli):
    lines = fits(cli("run", "wan", "out", "--scheme", "int8", "-n").out, columns)
    quantized = [name for name in SHAPES if MATRIX.fullmatch(name) and "norm" not in name]
    before = sum(2 * volume(SHAPES[name]) for name in quantized)
    after = sum(
        volume(SHAPES[name]) + 2 * SHAPES[name][0] for name in quantized
    )  # a byte each, a scale to a row
    whole = sum(2 * volume(shape) for shape in SHAPES.values())
    heads = [line for line in lines if line.startswith(("quantize", "keep"))]
    assert heads[0] == (
        f"quantize int8  480 tensors  {human(before)} -> {human(after)}  BF16 -> I8 codes + BF16 scale"
    )
    assert re.fullmatch(rf"keep +823 tensors +{human(whole - before)}  BF16", heads[1])
    # A scale beside each of the 480.
    assert f"total  1303 -> 1783 tensors, {human(whole)} -> {human(whole - before + after)}" in lines[-1]
    # What is told in rows adds up: 480 quantized, 823 kept.
    start = lines.index(heads[1])
    parts = lines[lines.index(heads[0]) : start], lines[start : lines.index("largest")]
    counted = [[int(match[1]) for line in part if (match := re.search(r" (\d+) x ", line))] for part in parts]
    assert list(map(sum, counted)) == [480, 823]
    text = "\n".join(lines)
    for name, shape in (("ffn.0", r"\[13824,5120\]"), ("ffn.2", r"\[5120,13824\]")):
        row = rf"  blocks\.\*\.{re.escape(name)}\.weight +40 x +{shape}  target ffn"
        assert re.search(rf"(?m)^{row}$", text)
    assert re.search(r"(?m)^  blocks\.\*\.self_attn\.\{q,k,v,o\}\.weight +160 x ", text)
    assert "never: embedding" in text
    assert re.search(r"(?m)^  \(\d+ patterns\) +773 x +1-D$", text)
    largest = text.partition("\nlargest\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[:3] for line in largest] == [
        ["time_projection.1.weight", "1", "x"], ["blocks.*.ffn.0.weight", "40", "x"],
        ["blocks.*.ffn.2.weight", "40", "x"],
    ]  # fmt: skip


PLANS = {
    "cast": ["--cast", "f32"],
    "shards": ["--max-shard-size", "3GB"],
    "override": ["--scheme", "fp8", "--override", "blocks.0.self_attn=bf16", "--drop", "*.bias"],
    "rename": ["--rename", "^blocks", "layers"],
    "spelling": ["--to", "diffusers"],
    "kept": ["--scheme", "int8", "--keep-dtype", "F32", "--exclude", "blocks.39"],
}


@pytest.mark.parametrize("name", PLANS)
def test_other_plans_are_one_screen(name, columns, cli):
    said = cli("run", "wan", "out", *PLANS[name], "-n").out
    lines = fits(said, columns)
    whole = sum(2 * volume(shape) for shape in SHAPES.values())
    files = sum(path.stat().st_size for path in Path("wan").glob("*.safetensors"))
    assert f"files  3 of {human(files)} -> " in said
    if name == "shards":
        assert f"total  1303 tensors, {human(whole)} -> {human(whole)}" in lines[-1]
        assert re.search(r"(?m)^  model-000\*-of-00012\.safetensors x 12 ", said)
    elif name == "cast":
        assert lines[-1].startswith(f"total  1303 tensors, {human(whole)} -> {human(2 * whole)}")
        assert f"cast  1303 tensors  {human(whole)} -> {human(2 * whole)}  BF16 -> F32" in lines
    elif name == "override":
        assert "blocks.{1..39}.self_attn" in said
        assert re.search(r"(?m)^drop +\d+ tensors ", said)
    elif name == "rename":
        assert re.search(r"-> layers\.\*\.modulation$", said, re.M)
    heads = [int(match[1]) for line in lines if (match := re.match(r"\S.*?  +(\d+) tensors  ", line))]
    assert sum(heads) == 1303


def rows(said: str) -> list[list[str]]:
    """What stands in the lines of a plan's sections, before its files."""
    lines = said.partition("\n\n")[2].partition("\nfiles ")[0].splitlines()
    return [line.split() for line in lines if line.startswith("  ")]


SECTIONED = ["--cast", "f32", "--scheme", "int8", "--exclude", "blocks.39", "--drop", "*.bias", "-n"]


def test_what_is_counted_is_the_same_on_every_terminal(model, monkeypatch, cli):
    """How many rows share a line depends on its width; what is shown, left out and counted does not."""
    monkeypatch.chdir(model.parent)
    counted = []
    for columns in ("80", "97", "120", "200", ""):
        monkeypatch.setenv("COLUMNS", columns)
        said = cli("run", "wan", "out", *SECTIONED).out
        rest = re.findall(r"\((\d+) patterns?\) +(\d+) x", said)
        shown = sum(int(number) for number in re.findall(r"(?m)^  [^ (]+ +(\d+) x", said))
        counted.append((rest, shown))
    assert len(counted[0][0]) > 1
    assert counted == counted[:1] * 5


def test_no_two_rows_look_the_same(columns, cli):
    said = cli("run", "wan", "out", "--to", "diffusers", "-n").out
    section = list(rows(said)[: rows(said).index(["(33", "patterns)", "774", "x"])])
    assert len(section) == 20
    assert len({row[0] for row in section}) == len({row[-1] for row in section}) == 20
    assert ["blocks.*.cross_attn.k_img.weight", "40", "x"] in [row[:3] for row in section]
    assert section[-3][-1] == "blocks.*.ffn.net.2.weight"


def test_verbose_lists_every_tensor_in_lines_that_fit(columns, cli):
    lines = cli("run", "wan", "out", "--scheme", "int8", "-n", "-v").out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("digest ")) <= columns
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert set(SHAPES) <= set(listed)


def test_a_pipe_cuts_no_name(cli, monkeypatch, tmp_path):
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "block_of_a_very_long_name_indeed." * 8
    src = sparse(tmp_path / "m", {f"{long}weight": (4, 4), f"{long}q.weight": (64, 64)}, shards=1)
    for args in (("run", src, tmp_path / "o", "-n"), ("inspect", src), ("inspect", src, "-a")):
        assert f"{long}q.weight" in cli(*args).out
    monkeypatch.setenv("COLUMNS", "80")
    assert f"{long}q.weight" not in cli("inspect", src).out


def test_inspect_fits(columns, cli):
    said = cli("inspect", "wan").out
    lines = said.splitlines()
    assert max(map(len, lines)) <= columns
    assert [line.split()[0] for line in lines[:2]] == ["path", "family"]
    table = said.partition("\n\n")[2].splitlines()[1:]
    assert sum(int(re.search(r" (\d+) x ", line)[1]) for line in table) == len(SHAPES)
    assert "shards     3, " in said


def test_differences_fit(columns, cli, tmp_path):
    for name, key in (("a", "x"), ("b", "y")):
        folder = sparse(tmp_path / name, {"w": (4, 4)} if key == "x" else {"w": (8, 4)}, shards=1)
        (folder / "model.safetensors.index.json").unlink()
    cli(
        "meta",
        "set",
        tmp_path / "a" / "model-00001-of-00001.safetensors",
        "k=" + "word " * 40,
        "one=" + "x" * 150,
    )
    files = [tmp_path / name / "model-00001-of-00001.safetensors" for name in "ab"]
    cli("meta", "set", files[1], "one=" + "y" * 150)
    lines = cli("meta", "diff", *files, "--tensors", code=1).out.splitlines()
    assert max(map(len, lines)) <= columns
    joined = "".join(line.strip() for line in lines)
    assert "x" * 150 in joined
    assert "y" * 150 in joined


def on_terminal(args: list[str], columns: int, cwd: Path, **env: str) -> str:
    """All that a command shows on a terminal of its own."""
    parent, child = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    code = (
        "import fcntl, struct, termios, sys\n"
        f"fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 45, {columns}, 0, 0))\n"
        "from transcode.cli import main\nmain(sys.argv[1:])"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", code, *args], stdin=child, stdout=child, stderr=child, cwd=cwd,
        env={**environment, "TERM": "xterm", "PYTHONPATH": root, **env},
    ) as process:  # fmt: skip
        os.close(child)
        shown = b""
        while True:
            select.select([parent], [], [])
            try:
                piece = os.read(parent, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
    os.close(parent)
    assert process.returncode == 0, shown
    return shown.decode()


def test_a_real_terminal(model):
    args = ["run", "wan", "out", "--scheme", "int8", "-n"]
    shown = on_terminal(args, 80, model.parent)
    assert "\x1b[1mquantize int8" in shown  # bold
    assert "0/?" not in shown
    assert "bytes ?" not in shown
    plain = on_terminal([*args, "-q", "--json"], 80, model.parent)
    assert json.loads(plain[plain.index("{") : plain.rindex("}") + 1])["bytes_in"] > 0
    quiet = on_terminal(args, 80, model.parent, NO_COLOR="1")
    assert "\x1b[1m" not in quiet
    final = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", quiet)
    assert max(len(line) for line in re.split(r"[\r\n]+", final)) <= 80


def test_no_escapes_in_a_pipe(columns, cli):
    said = cli("run", "wan", "out", "--scheme", "int8", "-n").out
    assert harmless(said) == said
