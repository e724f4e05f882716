"""Help: what there is on one screen, and the way to it from what people type."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import shlex
from importlib import import_module

import pytest

from transcode.cli.commands import COMMANDS, SECTIONS, STAGES


def test_the_help_of_the_whole_fits_a_screen(cli):
    shown = cli("--help").out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40
    done, _, stages = shown.partition("Stages of a pipe")
    listed = {line.split()[0] for line in done.splitlines() if line.startswith("  ")}
    for section in SECTIONS.values():
        assert listed >= section.keys()
    assert not listed & STAGES.keys()
    assert set(STAGES) <= set(stages.split())
    assert "Examples:" in shown


def test_bare_and_help_say_the_same(cli):
    shown = cli("--help").out
    assert cli().out == shown
    assert cli("help").out == shown


@pytest.mark.parametrize("words", [["run"], ["quantize"], ["meta"], ["meta", "set"], ["nunchaku", "merge"]])
def test_help_of_a_command(words, cli):
    assert cli("help", *words).out == cli(*words, "--help").out


def test_help_of_what_is_none(refused):
    assert "'quantise', did you mean 'quantize'" in refused("help", "quantise")
    assert "'sett', did you mean 'set'" in refused("help", "meta", "sett")
    assert "transcode run has no commands" in refused("help", "run", "now")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("quantise", "quantize"), ("QUANTIZE", "quantize"), ("info", "inspect"), ("ls", "inspect"), ("show", "inspect"),
        ("inspct", "inspect"), ("metadata", "meta"), ("scheme", "schemes"), ("family", "families"), ("comp", "completion"),
    ],
)  # fmt: skip
def test_a_command_that_is_none(typed, meant, refused):
    assert f"there is no command {typed!r}, did you mean '{meant}'" in refused(typed, "x")


def test_what_no_command_is_like(refused):
    assert "see transcode --help" in refused("klingon")
    assert "see transcode meta --help" in refused("meta", "klingon")
    assert "did you mean 'del'" in refused("meta", "delete", "a")


WAN, LORA = "WAN", "LORA"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["quantize", WAN, "out"], [WAN, "out", "--scheme", "int8"]),
        (["quantize", WAN, "fp8:granularity=tensor", "out"], [WAN, "out", "--scheme", "fp8:granularity=tensor"]),
        (["quantize", WAN, "out", "--scheme", "fp8", "-O", "granularity=tensor"],
         [WAN, "out", "--scheme", "fp8", "-O", "granularity=tensor"]),
        (["quantize", "int8", WAN, "out", "--exclude", "ffn"], [WAN, "out", "--scheme", "int8", "--exclude", "ffn"]),
        (["convert", WAN, "out"], [WAN, "out"]),
        (["convert", WAN, "out", "--to", "diffusers"], [WAN, "out", "--to", "diffusers"]),
        (["convert", "diffusers", WAN, "out"], [WAN, "out", "--to", "diffusers"]),
        (["convert", WAN, "out", "--cast", "f16"], [WAN, "out", "--cast", "f16"]),
        (["cast", WAN, "out"], [WAN, "out", "--cast", "bf16"]),
        (["cast", "f16", WAN, "out"], [WAN, "out", "--cast", "f16"]),
        (["cast", WAN, "out", "--to", "f16"], [WAN, "out", "--cast", "f16"]),
        (["open", WAN, "out"], [WAN, "out"]),
        (["write", WAN, "out"], [WAN, "out"]),
        (["keep", "blocks.0", WAN, "out"], [WAN, "out", "--keep", "blocks.0"]),
        (["drop", WAN, "out", "*.bias"], [WAN, "out", "--drop", "*.bias"]),
        (["rename", "blocks", "layers", WAN, "out"], [WAN, "out", "--rename", "blocks", "layers"]),
    ],
)  # fmt: skip
def test_a_stage_outside_of_a_pipe_says_what_to_type(typed, line, wan, piped):
    """And what it says to type is what was meant, and runs."""
    here = {WAN: str(wan)}
    message = piped(f"transcode {shlex.join(here.get(w, w) for w in typed)}", code=2).err
    typed_line = message.rpartition("type: ")[2].strip()
    assert shlex.split(typed_line) == ["transcode", "run", *(here.get(word, word) for word in line)]
    piped(f"{typed_line} --dry-run")


def test_a_lora_outside_of_a_pipe(tmp_path, shell):
    for name in ("model.safetensors", "style.safetensors"):
        (tmp_path / name).write_bytes(b"")
    for typed, line in (
        ("model.safetensors style.safetensors:0.8 out", "model.safetensors out --lora style.safetensors:0.8"),
        ("model.safetensors style.safetensors out", "model.safetensors out --lora style.safetensors"),
        ("style.safetensors:0.8", "SRC DST --lora style.safetensors:0.8"),
    ):
        message = shell(f"transcode lora {typed} </dev/null", code=2).err
        assert message.rpartition("type: ")[2].strip() == f"transcode run {line}"


def test_a_mistake_inside_of_a_pipe_stays_one(shell, wan):
    message = shell(
        f"transcode open {wan} | transcode quantize int8 --sheme | transcode write out", code=2
    ).err
    assert "'--sheme'" in message
    assert "type: transcode run" not in message.partition("'--sheme'")[2].partition("\n")[0]


def test_every_stage_is_one():
    from transcode.cli.instead import Stage

    for name, (module, _) in COMMANDS.items():
        command = getattr(import_module(f"transcode.cli.{module}"), name)
        assert isinstance(command, Stage) == (name in STAGES)
