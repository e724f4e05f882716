"""Write what people see: the screens of plan, run, inspect, diff, errors and help, of a model of 40 blocks.

    python tools/make_screens.py             # write tests/cli/screens
    python tools/make_screens.py --check     # end with 1 if one is not as it is there

Each file is a transcript at so many columns: commands, what they print, and exit codes but 0. The model is
headers and holes, as big as a real one, for what looks at headers; and a small one, for what runs. What
differs from one run or version to the next (digests, times) is dotted out.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import json
import os
import re
import shlex
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import click
from make_checkpoint import wan

from transcode.cli import cli, main

__all__ = ["SCREENS", "WIDTHS", "screens", "sparse"]

ROOT = Path(__file__).parents[1]
SCREENS = ROOT / "tests" / "cli" / "screens"
WIDTHS = (80, 120)
BYTES = {"BF16": 2, "F32": 4}

PLANS = """\
run wan out --scheme int8 -n
run wan out.safetensors --scheme nvfp4 --convention comfyui --exclude blocks.39 -n
run wan out --to diffusers -n
run wan out --cast f16 --drop '*.bias' --max-shard-size 3GB -n
"""
RUNS = """\
run small int8 --scheme int8 --layout by_block
run small fp8.safetensors --scheme fp8 --drop '*.bias' --override 'blocks.0=bf16'
run int8 back.safetensors --dequantize bf16
"""
INSPECTED = """\
inspect wan
inspect int8
inspect fp8.safetensors blocks.0
inspect wan 'blocks.0.self_attn' --all
"""
DIFFS = """\
meta diff fp8.safetensors back.safetensors --tensors
meta diff int8 back.safetensors
meta diff small back.safetensors
"""
ERRORS = """\
run wan
run wnn out --scheme int8
run wan out --scheme int9
run wan out --scheme awq
run wan out --scheme bf16
run wan out --scheme int8 --to comfyui -n
run wan out --sheme int8
run wan out --int8
run wan wan --scheme int8
run wan - --scheme int8
run wan out.gguf --scheme int8
run wan out --drop blocks.40 -n
run wan out --scheme nvfp4 -n
run wan out --lora style.safetensors:strong
run -o out wan
run wan fp8.safetensors --scheme int8
quantize wan out
merge wan style.safetensors:0.8 out
quantise
inspect nothing.safetensors
meta get fp8.safetensors author
meta embed fp8.safetensors
meta set fp8.safetensors
doctor fp8.safetensors --for comfy
"""

_MASKS = (
    (re.compile(r"\b(sha256:)[0-9a-f]{12}"), r"\1............"),
    (re.compile(r"(?m)^(done   ).*?( -> )"), r"\1...\2"),
    (re.compile(r'("?version"?: )"[0-9.]+"'), r'\1"..."'),
    (re.compile(r"(made by +transcode )[0-9.]+"), r"\1..."),
    (re.compile(r"(?m)^transcode: compiling kernels .*\n"), ""),
)


def sparse(folder: Path, shapes: Mapping[str, Sequence[int]], dtype: str = "BF16", shards: int = 3) -> Path:
    """A checkpoint of headers and holes: as big as a real one, and no byte of it on the disk."""
    folder.mkdir()
    names = list(shapes)
    weight_map = {}
    for number in range(shards):
        at, header = 0, {}
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        for tensor in names[number * len(names) // shards : (number + 1) * len(names) // shards]:
            end = at + prod(shapes[tensor]) * BYTES[dtype]
            header[tensor] = {"dtype": dtype, "shape": list(shapes[tensor]), "data_offsets": [at, end]}
            at, weight_map[tensor] = end, name
        raw = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + at)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def screens() -> dict[str, str]:
    """Every transcript, by the name of its file. Works in a folder of its own."""
    texts = {}
    before, columns = Path.cwd(), os.environ.get("COLUMNS")
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.environ["COLUMNS"] = str(width)
            try:
                sparse(Path("wan"), wan())
                sparse(Path("small"), wan(40, 64, 128, text_dim=64, image_dim=64))
                kinds = {"plan": PLANS, "run": RUNS, "inspect": INSPECTED, "diff": DIFFS, "errors": ERRORS}
                for name, lines in kinds.items():
                    texts[f"{name}.{width}.txt"] = "\n".join(map(_shown, lines.splitlines()))
                if width == min(WIDTHS):
                    helps = (" ".join([*words, "--help"]) for words in _commands(cli, ()))
                    texts[f"help.{width}.txt"] = "\n".join(map(_shown, helps))
            finally:
                os.chdir(before)
                os.environ.pop("COLUMNS")
                if columns is not None:
                    os.environ["COLUMNS"] = columns
    return texts


def _commands(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _commands(inner, (*words, name))


def _shown(line: str) -> str:
    """A command, and what it prints on both streams."""
    printed = io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(shlex.split(line))
        except SystemExit as exited:
            code = exited.code
    text = printed.getvalue()
    for mask, dots in _MASKS:
        text = mask.sub(dots, text)
    end = f"[exit code {code}]\n" if code else ""
    return f"$ transcode {line}\n{text}{end}"


def run(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the screens that people see, or compare them.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if one differs")
    check = parser.parse_args(argv).check
    texts = screens()
    old = {path.name: path.read_text("utf-8") for path in SCREENS.glob("*.txt")}
    for name in sorted({*texts, *old}):
        differences = difflib.unified_diff(
            old.get(name, "").splitlines(True),
            texts.get(name, "").splitlines(True),
            f"{name}, as kept",
            "now",
        )
        sys.stdout.writelines(differences)
    if check:
        return int(texts != old)
    SCREENS.mkdir(exist_ok=True)
    for name in old.keys() - texts.keys():
        (SCREENS / name).unlink()
    for name, text in texts.items():
        (SCREENS / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run())
