"""How far a run is, where Python callers look: nowhere unless asked, in a notebook in the cell."""

from __future__ import annotations

import io
import sys
import types

import pytest

import transcode as tc
from transcode.execution import display
from transcode.execution.execute import Progress
from transcode.execution.figures import figures, title


class Screen(io.StringIO):
    def isatty(self):
        return True


class Kernel:
    """What of IPython is used: its shell, and outputs that are replaced."""

    def __init__(self, monkeypatch, *, kernel=True):
        self.shown = []
        shell = types.SimpleNamespace(kernel=object()) if kernel else types.SimpleNamespace()
        ipython = types.ModuleType("IPython")
        ipython.get_ipython = lambda: shell
        displays = types.ModuleType("IPython.display")
        displays.display = self.display
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", displays)

    def display(self, content, *, raw, display_id):
        assert raw
        assert display_id
        self.shown.append(content)
        return self

    def update(self, content, *, raw):
        assert raw
        self.shown.append(content)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(display, "_EVERY", 0.0)


NOW = Progress(5_000_000, 20_000_000, "convert", 2.0)


def test_nothing_by_default(wan, tmp_path, capsys):
    tc.open(wan) | tc.write(tmp_path / "o.safetensors")
    with display.watching(None, None) as watch:
        assert watch is None
    with display.watching(False, None) as watch:
        assert watch is None
    assert capsys.readouterr() == ("", "")


def test_a_line_on_a_terminal_where_it_is_asked_for(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    told = []
    with display.watching(True, told.append) as watch:
        watch(NOW)
    assert told == [NOW]
    first, second = screen.getvalue().split("\r")[1:]
    assert first.rstrip() == "converting: 25 %, 5 MB of 20 MB, 2.5 MB/s, 6.0 s left"
    assert second.startswith("done in ")
    assert screen.getvalue().endswith("\n")
    assert len(first) == len(second.rstrip("\n"))


def test_elsewhere_only_the_end(wan, tmp_path, capsys):
    tc.open(wan) | tc.write(tmp_path / "o.safetensors", progress=True)
    assert capsys.readouterr().err.startswith("transcode: done in ")
    with pytest.raises(ZeroDivisionError), display.watching(True, None):
        raise ZeroDivisionError
    assert capsys.readouterr().err == "transcode: failed\n"


def test_a_bar_in_a_notebook(monkeypatch, capsys):
    kernel = Kernel(monkeypatch)
    with display.watching(None, None) as watch:
        watch(NOW)
        watch(Progress(0, 0, "<b>", 0.0))
    first, second, last = kernel.shown
    assert 'value="5000000" max="20000000"' in first["text/html"]
    assert first["text/plain"] == "converting: 25 %, 5 MB of 20 MB, 2.5 MB/s, 6.0 s left"
    assert "&lt;b&gt;" in second["text/html"]
    assert last["text/plain"].startswith("done in")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("wanted", "also"), [(False, None), (None, print)])
def test_not_in_a_notebook_where_nobody_wants_it(wanted, also, monkeypatch):
    kernel = Kernel(monkeypatch)
    with display.watching(wanted, also) as watch:
        assert watch is also
    assert not kernel.shown


def test_ipython_on_a_terminal_is_no_notebook(monkeypatch):
    Kernel(monkeypatch, kernel=False)
    assert not display.in_notebook()


def test_a_run_in_a_notebook_shows_itself(wan, tmp_path, monkeypatch):
    kernel = Kernel(monkeypatch)
    tc.open(wan) | tc.write(tmp_path / "o.safetensors")
    assert kernel.shown[-1]["text/plain"].startswith("done in")
    recipe = tmp_path / "r.yaml"
    out = tmp_path / "p.safetensors"
    recipe.write_text(f"source: {{path: '{wan}'}}\nsteps: []\noutput: {{path: '{out}'}}\n")
    count = len(kernel.shown)
    tc.run(recipe, progress=False)
    assert len(kernel.shown) == count
    (tmp_path / "p.safetensors").unlink()
    told = []
    tc.run(recipe, on_progress=told.append)
    assert told
    assert len(kernel.shown) == count


def test_stages_without_bytes_tell_no_rate():
    assert figures(Progress(300, 1000, "look", 2.0)) == ["30 %"]
    assert figures(Progress(0, 0, "compile", 2.0)) == []
    assert figures(Progress(0, 10, "convert", 2.0)) == ["0 %", "0 B of 10 B"]
    assert title(Progress(0, 0, "compile", 0.0)) == "compiling kernels (first time on this machine)"
