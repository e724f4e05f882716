"""Ctrl-C, on a terminal of its own: one calm line, 130, nothing left, the terminal as before, at any time."""

from __future__ import annotations

import shlex
import sys

import pytest
import torch
from safetensors.torch import save_file

from .terminal import maps, session, shows

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs /proc and pseudo-terminals"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Slow enough to be interrupted: the fit of hqq takes seconds for it on a core."""
    folder = tmp_path_factory.mktemp("big")
    draw = torch.Generator().manual_seed(0)
    save_file(
        {f"blocks.{i}.ffn.0.weight": torch.randn(2048, 2048, generator=draw).bfloat16() for i in range(24)},
        folder / "model.safetensors",
    )
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Tensors enough that planning takes seconds."""
    path = tmp_path_factory.mktemp("many") / "many.safetensors"
    save_file({f"blocks.{i}.ffn.0.weight": torch.zeros(1, 1) for i in range(20_000)}, path)
    return path


def calm(seen, said="transcode: interrupted"):
    assert seen.code == 130, seen.text
    assert [line for line in seen.lines if "kernels" not in line] == [said]
    assert "Traceback" not in seen.text
    assert "Exception ignored" not in seen.text
    assert seen.restored


def slow(model, out):
    return ["run", str(model), str(out), "--scheme", "hqq", "--convention", "hqq", "-w", "1"]


@pytest.mark.parametrize("presses", [1, 2, 5])
def test_a_run(model, tmp_path, presses):
    """The bar is shown, the cursor is hidden. A second press at once does not disturb the cleaning up."""
    out = tmp_path / "o.safetensors"
    seen = session(slow(model, out), shows(b"converting"), presses=presses)
    calm(seen, f"transcode: {out}: interrupted; nothing was written")
    assert not list(tmp_path.iterdir())


def test_what_can_be_gone_on_with_stays(model, tmp_path):
    """With --resume the pieces stay, and the line says how to go on."""
    seen = session([*slow(model, tmp_path / "o.safetensors"), "--resume"], shows(b"converting"), presses=2)
    assert seen.code == 130
    (line,) = (line for line in seen.lines if "kernels" not in line)
    assert "the same command goes on" in line
    assert not (tmp_path / "o.safetensors").exists()
    assert list(tmp_path.iterdir())
    assert "Traceback" not in seen.text
    assert seen.restored


@pytest.mark.parametrize("command", ["run", "inspect", "meta"])
def test_while_it_reads_headers(many, tmp_path, command):
    arguments = {
        "run": ["run", str(many), str(tmp_path / "o.safetensors"), "--scheme", "int8"],
        "inspect": ["inspect", str(many)],
        "meta": ["meta", "validate", str(many)],
    }[command]
    seen = session(arguments, maps(many), presses=2)
    if command != "run" and seen.code in (0, 1):
        pytest.skip("was done before the key was pressed")
    calm(seen)
    assert not list(tmp_path.iterdir())


def test_a_pipe_says_it_once(model, tmp_path):
    """All commands of a pipe get the key; the last of them, which writes, speaks."""
    me = f"{shlex.quote(sys.executable)} -m transcode"
    line = (
        f"{me} open {model} | {me} quantize hqq"
        f" | {me} write {tmp_path / 'o.safetensors'} --convention hqq -w 1"
    )
    seen = session(["bash", "-c", line], shows(b"converting"))
    calm(seen, f"transcode: {tmp_path / 'o.safetensors'}: interrupted; nothing was written")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_behind_another_error(monkeypatch):
    """Python 3.11 makes a RuntimeError of what __set_name__ raises while a class is made."""
    from transcode.cli.interrupt import is_behind

    class Field:
        def __set_name__(self, owner, name):
            raise KeyboardInterrupt

    with pytest.raises((RuntimeError, KeyboardInterrupt)) as caught:
        type("Made", (), {"field": Field()})
    assert is_behind(caught.value)
    assert not is_behind(RuntimeError("a fault"))
