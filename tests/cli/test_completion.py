"""What shells complete: names and values, also behind ``=`` and ``:``, and what that loads."""

from __future__ import annotations

import shutil
import subprocess
import sys

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


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("transcode qu", ["quantize"]),
        ("transcode run --drop-", ["--drop-global-scale", "--drop-cache"]),
        ("transcode run a b --scheme m", ["mxfp8", "mxfp6", "mxfp4"]),
        ("transcode run a b --scheme=m", ["mxfp8", "mxfp6", "mxfp4"]),
        ("transcode run a b -s int8:gr", ["granularity=", "group_size="]),
        ("transcode run a b -s int8:granularity=t", ["tensor"]),
        ("transcode run a b -s int8:granularity=group,group_size=12", ["128"]),
        ("transcode run a b -s int4 --granularity ", []),
        ("transcode run a b -s fp8 --granularity ", ["channel", "tensor", "block"]),
        ("transcode run a b -s int4 -O ", ["group_size=", "symmetric=", "scale_dtype=", "optimize="]),
        ("transcode run a b -s int4 -O group-size=", ["32", "64", "128"]),
        ("transcode run a b -s int4 -O symmetric=", ["true", "false"]),
        ("transcode run a b --override 'blocks.0=mx", ["mxfp8", "mxfp6", "mxfp4"]),
        ("transcode run a b --override blocks.0=b", ["bf16"]),
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
