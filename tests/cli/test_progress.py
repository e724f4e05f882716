"""What people who wait are told."""

from __future__ import annotations

import io
import re

import pytest

from transcode.cli import progress as module
from transcode.cli.progress import progress
from transcode.core.text import duration
from transcode.execution.execute import Progress

COMPILING = "transcode: compiling kernels (first time on this machine)"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_compiling_is_said_once(capsys):
    with progress(quiet=False) as update:
        for _ in range(3):
            update(Progress(0, 0, "compile", 0.0))
    assert capsys.readouterr().err == f"{COMPILING}\n"


def test_lines_tell_how_long_it_takes_still(capsys, monkeypatch):
    monkeypatch.setattr(module, "_EVERY", 0.0)
    with progress(quiet=False) as update:
        update(Progress(250_000_000, 1_000_000_000, "convert", 10.0))
        update(Progress(5, 1_000_000_000, "convert", 0.01))
        update(Progress(500, 1000, "looking for\x1b[31m NaN", 0.0))
        update(Progress(9, 9, "sync", 0.0))
    assert capsys.readouterr().err.splitlines() == [
        "transcode: converting: 25 %, 250 MB of 1 GB, 25 MB/s, 30.0 s left",
        "transcode: converting: 0 %, 5 B of 1 GB",
        r"transcode: looking for\x1b[31m NaN: 50 %",
    ]


def test_a_bar_knows_no_question_marks(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with progress(quiet=False) as update:
        update(Progress(0, 0, "compile", 0.0))
        update(Progress(0, 0, "compile", 0.0))
        update(Progress(500, 1000, "looking [red]for\x1b]0;x NaN", 0.0))
        update(Progress(250_000_000, 1_000_000_000, "convert", 10.0))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "?" not in shown
    assert shown.count("compiling kernels (first time on this machine)") >= 1
    assert shown.count(COMPILING) == 1
    assert "\x1b]0" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "1 ms"), (0.012, "12 ms"), (0.9999, "1.0 s"), (4.14, "4.1 s"), (59.97, "1 min 00 s"),
        (125, "2 min 05 s"),
        (4800, "1 h 20 min"),
    ],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said
