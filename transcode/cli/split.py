"""``transcode split`` and ``transcode merge``: an all-in-one file and the folder of its models."""

from __future__ import annotations

from typing import Any

import click

from ..core.option import OUTPUT, options_of
from ..stages.options import ConvertOptions
from .flags import Command, command, debug_option, flag
from .job import carry_out, new_job, placing_options
from .options import flag_of, performance_options, report_options
from .usage import what

__all__ = ["merge", "split"]


@command(
    epilog="\b\nExamples:\n  transcode split sd_xl_base.safetensors sdxl/\n"
    "  transcode split sd_xl_base.safetensors sdxl/ --to diffusers\n"
    "  transcode split sd_xl_base.safetensors sdxl/ --to diffusers --config-from sdxl-turbo/\n"
    "  transcode split ltx.safetensors ltx/ --dry-run\n"
)
@click.argument("src", metavar="ALLINONE")
@click.argument("dst", metavar="FOLDER")
@flag_of("--to", options_of(ConvertOptions)["to"])
@flag("--config-from", metavar="FOLDER", help="Take configs, scheduler, tokenizers from there.", group=OUTPUT)
@placing_options
@performance_options
@report_options
@debug_option
def split(src: str, dst: str, to: str | None, config_from: str | None, **values: Any) -> None:
    """Split ALLINONE into the new FOLDER, each model into a subfolder as Diffusers names it.

    Names lose the prefix of their model, which its file notes for `transcode merge`. With --to diffusers each
    model is spelled as Diffusers and Transformers do, and model_index.json says which pipeline it is, where
    that is known; --config-from takes all other files from a folder of such a pipeline. What belongs to no
    model goes into other/. To quantize on the way: transcode run ALLINONE FOLDER --layout components --scheme
    ...
    """
    from ..containers.source import open_source
    from ..stages.convert import Convert

    if dst.endswith((".safetensors", ".gguf")):
        raise click.UsageError(f"FOLDER: {dst!r} is no folder; name one")
    openers = [lambda: open_source(src, drop_cache=values["drop_cache"])]
    steps = () if to is None else (Convert(to),)
    more = {"copy_metadata": False, "config_from": config_from}
    carry_out(new_job(openers, dst, "components", values, steps=steps, **more), values)


class _Merge(Command):
    """Of three words, a LoRA is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's; an error about a third word says how a LoRA is merged."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            from .instead import typed

            if ctx.resilient_parsing or len([word for word in words if not word.startswith("-")]) < 3:
                raise
            raise click.UsageError(f"{what(error)}; to merge a LoRA: {typed('lora', words)}", ctx) from None


@click.command(cls=_Merge, epilog="\b\nExample:\n  transcode merge sdxl/ sd_xl_base.safetensors\n")
@click.argument("src", metavar="FOLDER")
@click.argument("dst", metavar="ALLINONE")
@placing_options
@performance_options
@report_options
@debug_option
def merge(src: str, dst: str, **values: Any) -> None:
    """Merge the models in the subfolders of FOLDER into the one file ALLINONE.

    Each gets the prefix and the spelling that its file notes, as `transcode split` left it; without a note
    those that ComfyUI's files have.
    """
    from ..consumers.components import SPELLINGS, open_components
    from ..stages.convert import Convert

    if not dst.endswith((".safetensors", ".gguf")):
        raise click.UsageError(f"ALLINONE: {dst!r} is no .safetensors file; name it so")
    source = open_components(src, drop_cache=values["drop_cache"])
    steps = (Convert("original"),) if SPELLINGS in source.metadata else ()
    carry_out(new_job([lambda: source], dst, "single_file", values, steps=steps, copy_metadata=False), values)
