"""The flags of LightX2V's ``converter.py``, each with underscores and with hyphens."""

from __future__ import annotations

import argparse
from typing import Any

from transcode import catalog

__all__ = ["LINEAR_TYPES", "families", "parser"]

LINEAR_TYPES = ("int8", "fp8", "nvfp4", "mxfp4", "mxfp6", "mxfp8")
_LINEAR_DTYPES = {"torch.int8": "int8", "torch.float8_e4m3fn": "fp8"}
"""An older spelling, which its documentation still has."""

_PLAIN_DTYPES = ("torch.float32", "torch.bfloat16", "torch.float16")


def parser() -> argparse.ArgumentParser:
    """The parser. Defaults that only mean something together with another flag are None."""
    made = argparse.ArgumentParser(
        prog="converter.py",
        description="The flags of LightX2V's converter.py, carried out by transcode. See tools/MIGRATING.md.",
    )
    flag = _Adder(made)
    group = "source and output"
    flag(group, "-s", "--source", required=True, help="file or folder")
    flag(group, "-o", "--output", required=True, help="folder")
    flag(group, "-o_e", "--output_ext", default=".safetensors", choices=[".safetensors", ".pth"])
    flag(group, "-o_n", "--output_name", default="converted", help="stem of the files' names")
    flag(group, "-t", "--model_type", default="wan_dit", choices=families(), metavar="FAMILY",
         help="%(choices)s")  # fmt: skip
    flag(group, "-d", "--direction", choices=["forward", "backward"],
         help="forward: LightX2V's names to Diffusers'; backward: the other way")  # fmt: skip
    flag(group, "--copy_no_weight_files", action="store_true", help="config, tokenizer ... come along")

    group = "layout"
    flag(group, "--single_file", action="store_true")
    flag(group, "-b", "--save_by_block", action="store_true")
    flag(group, "-c", "--chunk-size", type=int, metavar="N", help="tensors of a file [100]; 0: all in one")

    group = "quantization"
    flag(group, "--quantized", action="store_true")
    flag(group, "--linear_type", choices=LINEAR_TYPES)
    flag(group, "--linear_dtype", dest="linear_type", type=_linear_dtype, metavar="DTYPE",
         help="older spelling: torch.int8, torch.float8_e4m3fn")  # fmt: skip
    flag(group, "--bits", type=int, default=8, choices=[8])
    flag(group, "--non_linear_dtype", choices=_PLAIN_DTYPES, help="of the other floats [torch.float32]")
    flag(group, "--comfyui_mode", action="store_true")
    flag(group, "--full_quantized", action="store_true", help="with --comfyui_mode: cast all, without scales")
    flag(
        group, "--key-idx", type=int, metavar="N", help="which component of a name --target-keys mean, from 0"
    )
    flag(group, "--target-keys", nargs="+", metavar="KEY", help="what to quantize; with spaces or commas")
    flag(
        group,
        "--ignore-keys",
        nargs="+",
        metavar="KEY",
        help="what to leave out of the output; none: nothing",
    )
    flag(group, "--ignore-quant-keys", nargs="+", metavar="KEY", help="what not to quantize")

    group = "LoRA"
    flag(group, "--lora_path", nargs="*", default=[], metavar="PATH")
    flag(
        group,
        "--lora_strength",
        nargs="*",
        type=float,
        default=[],
        metavar="X",
        help="for all or for each [1]",
    )
    flag(group, "--lora_alpha", "--alpha", nargs="*", type=float, default=[], metavar="X",
         help="for all or for each; for pairs that say none of their own")  # fmt: skip
    flag(group, "--lora_key_convert", choices=["auto", "same", "convert"], default="auto")

    group = "resources"
    flag(group, "--device", default="cpu")
    flag(group, "--parallel", action="store_true", default=True)
    flag(group, "--no-parallel", dest="parallel", action="store_false")

    group = "new here"
    flag(group, "-n", "--dry-run", action="store_true", help="print the plan, write nothing")
    flag(
        group, "--allow-unmatched", action="store_true", help="names and LoRA keys that fit nothing only warn"
    )
    flag(group, "--debug", action="store_true", help="show the traceback of an error")
    return made


class _Adder:
    def __init__(self, made: argparse.ArgumentParser) -> None:
        self._made = made
        self._groups: dict[str, Any] = {}

    def __call__(self, group: str, *names: str, **options: Any) -> None:
        if group not in self._groups:
            self._groups[group] = self._made.add_argument_group(group)
        both = [form for name in names for form in (name, *_other(name))]
        options.setdefault("dest", next(n for n in names if n.startswith("--"))[2:].replace("-", "_"))
        self._groups[group].add_argument(*both, **options)


def _other(name: str) -> list[str]:
    """The same long flag with hyphens for underscores, or the other way round."""
    word = name.removeprefix("--")
    if word == name:
        return []
    forms = {word.replace("_", "-"), word.replace("-", "_")} - {word}
    return [f"--{form}" for form in sorted(forms)]


def _linear_dtype(text: str) -> str:
    if text not in _LINEAR_DTYPES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(_LINEAR_DTYPES)}")
    return _LINEAR_DTYPES[text]


def families() -> list[str]:
    """Names of the families, without the fallback for unknown ones."""
    return [name for name in catalog.families() if not catalog.family(name).fallback]
