"""What recipes and commands say of the source and of the output, each option described once."""

from __future__ import annotations

from typing import ClassVar

from ..core import kinds
from ..core.option import OUTPUT, SAME, SOURCES, Declared, again, option
from ..core.records import dataclass

__all__ = ["LAYOUTS", "OutputOptions", "SourceOptions", "TargetOptions"]

LAYOUTS = ("single_file", "by_block", "chunked", "apart", "components")


@dataclass(frozen=True)
class SourceOptions(Declared):
    """Where tensors come from, and how it is opened."""

    kind: ClassVar[str] = "source"

    path: str | None = option(
        kinds.PATH, "File, folder or URL that is read.", default=None, group=SOURCES, argument="SRC",
        about="None while a recipe is still being put together.",
    )  # fmt: skip
    root_key: str | None = option(
        kinds.TEXT, "Which dictionary of a PyTorch file holds the tensors.", default=None, group=SOURCES,
        run=SAME, metavar="KEY",
    )  # fmt: skip
    mmap: bool = option(
        kinds.FLAG, "Read files instead of mapping them.", default=True, group=SOURCES, flag="--no-mmap",
        off=True, run=SAME,
    )  # fmt: skip
    convention: str | None = option(
        kinds.TEXT, "Whose names the quantized source has; found without it.", default=None, group=SOURCES,
        flag="--from-convention", run=SAME, metavar="NAME", names="conventions",
    )  # fmt: skip
    scheme: str | None = option(
        kinds.TEXT, "The source's scheme, where it leaves several possible.", default=None, group=SOURCES,
        flag="--from-scheme", run=SAME, metavar="SCHEME", names="schemes",
    )  # fmt: skip


_TARGET, _OUTPUT = "target", "output"


@dataclass(frozen=True, init=False, eq=False, repr=False)
class OutputOptions(Declared):
    """What is asked of an output."""

    dst: str = option(
        kinds.PATH, "File, folder or URL that is written.", key="path", section=_OUTPUT, group=OUTPUT,
        argument="DST", about="A file if it ends in ``.safetensors``, else a folder.",
    )  # fmt: skip
    convention: str | None = option(
        kinds.TEXT, "Whose names and layouts to write; see `transcode conventions`.", default=None,
        section=_TARGET, group=OUTPUT, run=SAME, metavar="NAME", names="conventions",
        about="Without it ``nunchaku`` if the flow packs for nunchaku, ``lightx2v`` if it quantizes, that of"
        " the spelling if it converts, else ``plain``.",
    )  # fmt: skip
    layout: str | None = option(
        kinds.TEXT, "Files.", default=None, choices=LAYOUTS, section=_TARGET,
        group=OUTPUT, run=SAME, metavar="LAYOUT",
        about="``apart`` is the files that the convention names, ``components`` a subfolder for each model of"
        " an all-in-one file. Without it one file, or chunks where the source has several files and the"
        " destination is a folder.",
    )  # fmt: skip
    max_shard_size: int | None = option(
        kinds.SIZE, "Most bytes of a chunk, e.g. 5GB.", default=None, section=_TARGET, group=OUTPUT, run=SAME
    )
    max_tensors: int | None = option(
        kinds.COUNT, "Most tensors of a chunk.", default=None, section=_TARGET, group=OUTPUT, run=SAME,
        about="Instead of a size.",
    )  # fmt: skip
    name: str | None = option(
        kinds.TEXT, "Stem of the file names in a folder.", default=None, section=_OUTPUT, group=OUTPUT,
        run=SAME, metavar="STEM", about="The source's own without it.",
    )  # fmt: skip
    copy_metadata: bool = option(
        kinds.FLAG, "Copy config, tokenizer and the like.", default=True, section=_OUTPUT, group=OUTPUT,
        flag="--copy-metadata/--no-copy-metadata", run=SAME, about="Small files, into a folder.",
    )  # fmt: skip
    metadata: tuple[tuple[str, str], ...] = option(
        kinds.MAP, "More metadata.", default=(), section=_OUTPUT, group=OUTPUT, run=SAME,
        about="Wins over the source's.",
    )  # fmt: skip
    force: bool = option(
        kinds.FLAG, "Replace what exists.", default=False, section=_OUTPUT, group=OUTPUT, flag="-f --force",
        run=SAME, carries=True,
    )  # fmt: skip
    lossless: bool = option(
        kinds.FLAG, "Refuse what would change a value.", default=False, section=_OUTPUT, group=OUTPUT,
        run=SAME, about="Renames, re-shards, repacks and exact recodes pass; what rounds does not.",
    )  # fmt: skip
    allow_unmatched: bool = option(
        kinds.FLAG, "Rules, LoRA keys that fit nothing only warn.", default=False, section=_OUTPUT,
        group=OUTPUT, run=SAME,
    )  # fmt: skip


@dataclass(frozen=True)
class TargetOptions(Declared):
    """How to write, while it is not known where to. See :class:`~transcode.execution.write.Write`."""

    convention: str | None = again(OutputOptions, "convention")
    layout: str | None = again(OutputOptions, "layout")
    max_shard_size: int | None = again(OutputOptions, "max_shard_size")
    max_tensors: int | None = again(OutputOptions, "max_tensors")
