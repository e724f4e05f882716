"""``transcode split`` and ``transcode merge``: an all-in-one file and the folder of its models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .flags import Command, command, debug_option, flag
from .options import pair, performance_options, report_options
from .usage import what

if TYPE_CHECKING:
    from ..core.flow import Flow
    from ..core.performance import Performance
    from ..execution.write import Write

__all__ = ["merge", "split"]

F = TypeVar("F", bound=Callable[..., Any])


def _output_flags(function: F) -> F:
    flags = (
        flag("--metadata", type=pair, multiple=True, metavar="KEY=VALUE", help="More metadata."),
        flag("-f --force", is_flag=True, help="Replace what exists."),
    )
    for one in reversed(flags):
        function = one(function)
    return function


@command(
    epilog="\b\nExamples:\n  transcode split sd_xl_base.safetensors sdxl/\n"
    "  transcode split ltx.safetensors ltx/ --dry-run\n"
)
@click.argument("src", metavar="ALLINONE")
@click.argument("dst", metavar="FOLDER")
@_output_flags
@performance_options
@report_options
@debug_option
def split(src: str, dst: str, **values: Any) -> None:
    """Split ALLINONE into the new FOLDER, each model into a subfolder as Diffusers names it.

    Names lose the prefix of their model, which its file notes for `transcode merge`. What belongs to no model
    goes into other/. To quantize on the way: transcode run ALLINONE FOLDER --layout components --scheme ...
    """
    from ..containers.source import open_source
    from . import build

    if dst.endswith((".safetensors", ".gguf")):
        raise click.UsageError(f"FOLDER: {dst!r} is no folder; name one")
    sink = _write(dst, "components", values)
    performance = build.performance(values)
    _carry_out(_Job(lambda: open_source(src, drop_cache=values["drop_cache"]), sink, performance), values)


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
@_output_flags
@performance_options
@report_options
@debug_option
def merge(src: str, dst: str, **values: Any) -> None:
    """Merge the models in the subfolders of FOLDER into the one file ALLINONE.

    Each gets the prefix that its file notes, as `transcode split` left it; without a note that of ComfyUI.
    """
    from ..consumers.components import open_components
    from . import build

    if not dst.endswith((".safetensors", ".gguf")):
        raise click.UsageError(f"ALLINONE: {dst!r} is no .safetensors file; name it so")
    sink = _write(dst, "single_file", values)
    performance = build.performance(values)
    _carry_out(_Job(lambda: open_components(src, drop_cache=values["drop_cache"]), sink, performance), values)


@dataclass(frozen=True)
class _Job:
    """A source and where it goes, told of as recipes are."""

    opener: Callable[[], Any]
    sink: Write
    performance: Performance

    def flow(self) -> Flow:
        """Open the source."""
        from ..core.flow import Flow

        return Flow(self.opener())

    def write(self) -> Write:
        """The sink."""
        from dataclasses import replace

        return replace(self.sink, performance=self.performance)


def _write(dst: str, layout: str, values: dict[str, Any]) -> Write:
    from ..execution.write import Write

    return Write(
        dst=dst, layout=layout, copy_metadata=False, metadata=tuple(values["metadata"]), force=values["force"]
    )


def _carry_out(job: _Job, values: dict[str, Any]) -> None:
    from .run import carry_out

    carry_out(job, values)
