"""What shells complete: names and values, also behind ``=`` and ``:``, and what that loads."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from transcode.cli import cli as root
from transcode.cli.shells import Bash, Fish, Zsh


@pytest.fixture
def completed(monkeypatch):
    """What bash gets for a line, with the cursor at its end."""

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("TRANSCODE_LINE", line)
        monkeypatch.setenv("TRANSCODE_BREAKS", " \t\n\"'><=;|&(:")
        answer = Bash(root, {}, "transcode", "_TRANSCODE_COMPLETE").complete()
        return [one.removeprefix("plain,") for one in answer.splitlines()]

    return ask


MS = [
    "mxfp8", "mxfp6", "mxfp4", "mostly_q2_k", "mostly_iq2_xxs", "mostly_iq2_xs", "mostly_iq2_s",
    "mostly_iq3_xxs", "mostly_iq3_s",
]  # fmt: skip
"""Schemes and mixes."""


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("transcode qu", ["quantize"]),
        ("transcode run --drop-", ["--drop-global-scale", "--drop-cache"]),
        ("transcode run a b --scheme m", MS),
        ("transcode run a b --scheme=m", MS),
        ("transcode run a b -s int8:gr", ["granularity=", "group_size="]),
        ("transcode run a b -s int8:granularity=t", ["tensor"]),
        ("transcode run a b -s int8:granularity=group,group_size=12", ["128"]),
        ("transcode run a b -s int4 --granularity ", []),
        ("transcode run a b -s fp8 --granularity ", ["channel", "tensor", "block"]),
        ("transcode run a b -s int4 -O ", ["group_size=", "symmetric=", "scale_dtype=", "optimize="]),
        ("transcode run a b -s int4 -O group-size=", ["32", "64", "128"]),
        ("transcode run a b -s int4 -O symmetric=", ["true", "false"]),
        ("transcode run a b --override 'blocks.0=mx", ["mxfp8", "mxfp6", "mxfp4"]),
        ("transcode run a b --override blocks.0=b", ["bnb_fp4", "bf16"]),
        ("transcode run a b --override re:a.*=int8:group", ["group_size="]),
        ("transcode run a b --override blocks", []),
        ("transcode run a b --convention mod", ["modelopt"]),
        ("transcode run a b --from-convention mod", ["modelopt"]),
        ("transcode run a b --model wan_d", ["wan_dit"]),
        ("transcode run a b --to diff", ["diffusers"]),
        ("transcode run a b --cast B", ["BF16"]),
        ("transcode run a b --layout by", ["by_block"]),
        ("transcode run a b --on-bad-shape ", ["keep", "error", "pad"]),
        ("transcode run a b --device c", ["cpu", "cuda", "cuda:0"]),
        ("transcode quantize nv", ["nvfp4", "nvfp4_awq"]),
        ("transcode quantize int8 --override a=k", ["keep"]),
        ("transcode convert lightx", ["lightx2v"]),
        ("transcode cast f8_e4", ["f8_e4m3"]),
        ("transcode cast bf16 --dtype F1", ["F16"]),
        ("transcode lora ", ["file,"]),
        ("transcode meta get ", ["file,"]),
        ("transcode meta set no.safetensors ", ["file,"]),
        ("transcode run a b --lora st", ["file,st"]),
        ("transcode run a b --calib c", ["file,c"]),
        ("transcode run --config w", ["file,w"]),
        ("transcode recipe sch", ["schema"]),
        ("transcode doctor x --for v", ["vllm"]),
        ("transcode schemes nv", ["nvfp4", "nvfp4_awq"]),
        ("transcode conventions mod", ["modelopt"]),
        ("transcode families wan_d", ["wan_dit"]),
        ("transcode help ins", ["inspect"]),
        ("transcode help meta va", ["validate"]),
        ("transcode help nothing va", []),
    ],
)
def test_bash(line, wanted, completed):
    assert completed(line) == wanted


@pytest.mark.parametrize(("shell", "words", "cword"), [
    (Zsh, "transcode run a b --override x=nv", "5"), (Fish, "transcode run a b --override x=nv", "x=nv"),
])  # fmt: skip
def test_other_shells_get_whole_words(shell, words, cword, monkeypatch):
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", cword)
    answer = shell(root, {}, "transcode", "_TRANSCODE_COMPLETE").complete()
    assert "x=nvfp4" in answer
    assert "x=int8" not in answer


def test_the_script_of_bash_in_bash(cli, tmp_path):
    """Sourced by the real shell: its words are taken apart at = and :."""
    (tmp_path / "transcode").write_text(f'#!/bin/sh\nexec {sys.executable} -m transcode "$@"\n')
    (tmp_path / "transcode").chmod(0o755)
    script = tmp_path / "script"
    script.write_text(cli("completion", "bash").out)
    line = "transcode run a b --override blocks.0=nv"
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-c", f"""
        compopt() {{ :; }}
        source {script} && COMP_LINE='{line}' COMP_POINT={len(line)}
        _transcode_completion {tmp_path}/transcode; printf '%s\\n' "${{COMPREPLY[@]}}"
        """],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("nvfp4\nnvfp4_awq\n", "")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """``transcode`` on the path, and a place for files."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "transcode").write_text(f'#!/bin/sh\nexec {sys.executable} -m transcode "$@"\n')
    (tmp_path / "bin" / "transcode").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


TYPED = [
    ("transcode inspe", "transcode inspect "),
    ("transcode run a b --scheme=mxfp8", "transcode run a b --scheme=mxfp8 "),
    ("transcode run a b --override x=nvfp4_", "transcode run a b --override x=nvfp4_awq "),
    ("transcode run a b -s int8:gran", "transcode run a b -s int8:granularity="),
    ("transcode run a b -s int8:granularity=t", "transcode run a b -s int8:granularity=tensor "),
    ("transcode run a b --layout by_", "transcode run a b --layout by_block "),
    ("transcode run a b --scheme m", "transcode run a b --scheme mxfp"),
    ("transcode meta get only_", "transcode meta get only_one.safetensors "),
]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_the_script_of_zsh_in_zsh(cli, program):
    """Typed into the real shell, on a terminal of its own; nothing is put behind what goes on."""
    pty = pytest.importorskip("pty")
    (program / "only_one.safetensors").touch()
    (program / "script").write_text(cli("completion", "zsh").out)
    start = "PS1='%% '\nsetopt no_beep no_list_beep\nautoload -Uz compinit; compinit -u -D\nsource ~/script\n"
    (program / ".zshrc").write_text(start)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(program)
        os.execvpe("zsh", ["zsh", "-i"], {**os.environ, "TERM": "dumb", "ZDOTDIR": str(program)})

    def read(until, limit=20.0):
        shown, end = "", time.monotonic() + limit
        while until not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.05)[0]:
                shown += os.read(terminal, 65536).decode("utf-8", "replace")
        return shown

    try:
        read("% ")
        for line, whole in TYPED:
            os.write(terminal, line.encode() + b"\t")
            assert whole in read(whole), line
            os.write(terminal, b"\x15")  # the line is taken back
            read("\0", limit=0.3)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_the_script_of_fish_in_fish(cli, program):
    (program / "script").write_text(cli("completion", "fish").out)
    for line, words in (
        ("transcode run a b --scheme=m", ["--scheme=mxfp4", "--scheme=mxfp6", "--scheme=mxfp8"]),
        ("transcode run a b --override x=nv", ["x=nvfp4", "x=nvfp4_awq"]),
        ("transcode run a b -s int8:granularity=t", ["int8:granularity=tensor"]),
        ("transcode run a b --layout by_", ["by_block"]),
    ):
        ask = f"source {program / 'script'}; complete -C '{line}'"
        done = subprocess.run(["fish", "--no-config", "-c", ask], capture_output=True, text=True)
        assert sorted(one.partition("\t")[0] for one in done.stdout.split()) == words, done.stderr


LOADED = """
import os, sys
os.environ |= {"_TRANSCODE_COMPLETE": "bash_complete", "TRANSCODE_LINE": sys.argv[1]}
from transcode.cli import main
try:
    main([])
except SystemExit:
    pass
print(sorted({"numpy", "torch", "numba", "rich", "ml_dtypes"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("line", "loaded"),
    [
        ("transcode run --", []),
        ("transcode run a b --scheme ", []),
        ("transcode run a b --override a=", []),
        ("transcode run a b --convention ", []),
        ("transcode run a b -s int8 --granularity ", ["ml_dtypes", "numpy"]),  # the schemes themselves say
    ],
)
def test_what_is_loaded(line, loaded):
    done = subprocess.run([sys.executable, "-c", LOADED, line], capture_output=True, text=True)
    assert done.stdout, done.stderr
    assert done.stderr.splitlines()[-1] in (str(loaded), str(loaded[-1:]))


def test_keys_of_metadata(completed, save):
    file = save({"a": torch.ones(2)}, metadata={"format": "pt", "author": "me", "about": "x"})
    other = save({"a": torch.ones(2)}, "b.safetensors", {"licence": "none"})

    def keys(line: str) -> set[str]:
        return set(completed(line)) - {f"file,{line.rpartition(' ')[2]}"}

    assert keys(f"transcode meta get {file} ") == {"format", "author", "about"}
    assert keys(f"transcode meta get {file} a") == {"author", "about"}
    assert keys(f"transcode meta del {file} author a") == {"about"}
    assert keys(f"transcode meta set {file} author=you a") == {"about="}
    assert keys(f"transcode meta get {file} {other} ") == {"format", "author", "about", "licence"}
    assert keys(f"transcode meta rename-key {file} f") == {"format"}
