"""What the commands of ``transcode meta`` share: their arguments, options and output."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import TranscodeError
from .flags import debug_option
from .say import echo, echo_json, notice, one_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..containers.compare import Change
    from ..meta import EditOptions, Edits

__all__ = [
    "complete_keys",
    "edit_options",
    "editing",
    "json_option",
    "progress",
    "show_changes",
    "show_edits",
    "show_json",
    "split",
    "warn",
]

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")

_EDIT_OPTIONS = (
    click.option(
        "--backup", type=click.Choice(["header", "full", "none"]), default="header", show_default=True,
        help="Keep the old header (kilobytes) as FILE.header-backup, or a copy of the file as FILE.backup.",
    ),
    click.option("--follow-links", is_flag=True, help="Edit bytes that hard links or a hub cache share."),
    click.option("--keep-mtime", is_flag=True, help="Give the file its old modification time back."),
    click.option("--no-copy", is_flag=True, help="Fail where only a copy of the whole file would do."),
    click.option(
        "--wait", type=click.FloatRange(0), default=10.0, show_default=True, metavar="SECONDS",
        help="How long to wait for another editor.",
    ),
    click.option("-n", "--dry-run", is_flag=True, help="Show what would change; change nothing."),
    json_option,
    debug_option,
)  # fmt: skip


def edit_options(command: F) -> F:
    """The options of every command that edits."""
    for option in reversed(_EDIT_OPTIONS):
        command = option(command)
    return command


def split(
    arguments: Sequence[str], *, is_item: Callable[[str], bool] | None = None
) -> tuple[list[str], list[str]]:
    """Tell files from keys: the first argument is a file, and so are those after it that look like one.

    That is, ``*.safetensors``, an index, what exists and is written with a separator, as ``dir/``, or what
    the hub's cache holds; a URL too, which is refused then. But not what ``is_item`` recognises.
    """
    files = list(arguments[:1])
    rest = list(arguments[1:])
    while rest and _is_file(rest[0]) and not (is_item is not None and is_item(rest[0])):
        files.append(rest.pop(0))
    return files, rest


def _is_file(text: str) -> bool:
    if text.endswith((".safetensors", ".safetensors.index.json", ".sft", ".gguf")):
        return True
    if not any(mark in text for mark in ("/", os.sep)):
        return False
    from ..io import hub, urls

    if os.path.exists(text) or urls.remote(text):
        return True
    repository = hub.parse(text)
    return repository is not None and repository.folder.is_dir()


def complete_keys(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files first; behind them the keys that they have, and more files."""
    from click.shell_completion import CompletionItem

    from ..containers.compare import look

    words = list(ctx.params.get("arguments") or ())
    file = CompletionItem(incomplete, type="file")
    if not words:
        return [file]
    files, keys = split(words, is_item=lambda word: "=" in word)
    ending = "=" if ctx.info_name == "set" else ""
    taken = {key.partition("=")[0] for key in keys} if ending else set(keys)
    known: dict[str, None] = {}
    for one in files:
        try:
            known |= dict.fromkeys(look(one, lenient=True).metadata)
        except (TranscodeError, OSError):
            continue  # whoever calls the command is told
    wanted = [key for key in known if key not in taken and key.startswith(incomplete)]
    return [*(CompletionItem(key + ending) for key in wanted), file]


@contextmanager
def editing(settings: dict[str, Any]) -> Iterator[EditOptions]:
    """Yields the keywords of an edit by the values of :func:`edit_options`; shows a bar while it copies, and
    says which files were edited already where it is refused half-way.
    """
    with progress("copying") as update:
        try:
            yield {
                "backup": settings["backup"],
                "follow_links": settings["follow_links"],
                "keep_mtime": settings["keep_mtime"],
                "copy": not settings["no_copy"],
                "wait": settings["wait"],
                "dry_run": settings["dry_run"],
                "on_progress": update,
            }
        except TranscodeError as error:
            for note in getattr(error, "__notes__", ()):
                warn(note)
            raise


_DIGEST = re.compile(r"\b(sha256:[0-9a-f]{12})[0-9a-f]{52}\b")

_WAYS = {
    "unchanged": "nothing to change",
    "overwrite": "header overwritten in place",
    "insert": "grown at its front in place",
    "copy": "copied to a new file with a longer header",
}
_WOULD = {
    "unchanged": "nothing to change",
    "overwrite": "would overwrite the header in place",
    "insert": "would grow at its front in place",
    "copy": "would be copied to a new file with a longer header",
}


def show_edits(edits: Edits, settings: dict[str, Any]) -> None:
    """Say of each file which way its edit took, and what changed."""
    from ..containers.compare import compare_metadata

    if settings["as_json"]:
        show_json(edits.to_json())
    else:
        for one in edits:
            way = (_WOULD if edits.dry_run else _WAYS)[one.way]
            text = f"{one.path}: {way}"
            if one.way != "unchanged":
                text += f", {one.header_after} bytes of header"
                if one.header_after != one.header_before:
                    text += f" (had {one.header_before})"
            if one.written:
                text += f", {one.written} written"
            if one.backup is not None:
                text += f"; backup {one.backup.name}"
            echo(text)
            if edits.dry_run:
                show_changes(compare_metadata(one.before, one.after), indent="  ")
    for note in edits.notes:
        warn(note)


def show_changes(changes: Sequence[Change], *, indent: str = "") -> None:
    """Print differences: ``-`` only in the first, ``+`` only in the second, ``~`` in both.

    What is too long for a line of the terminal goes on below; of two long values each has its own.
    """
    from .table import lines, span, width

    columns = width()

    def say(first: str, text: str) -> None:
        for line in lines(text, first, columns, hanging=len(first) - len(first.lstrip()) + 4):
            echo(line)

    for change in changes:
        if change.b is None or change.a is None:
            value = change.a if change.b is None else change.b
            sign, fields = "-" if change.b is None else "+", _fields(value)
            say(f"{indent}{sign} ", f"{change.key}: {'' if fields else _short(value)}".rstrip())
            for line in fields:
                say(f"{indent}    ", _short(line))
        elif change.inside:
            say(f"{indent}~ ", f"{change.key}:")
            for line in change.inside:
                say(f"{indent}    ", _short(line))
        else:
            both = f"{change.key}: {_short(change.a)} -> {_short(change.b)}"
            if columns is None or span(one_line(both)) + len(indent) + 2 <= columns:
                say(f"{indent}~ ", both)
            else:
                say(f"{indent}~ ", f"{change.key}:")
                say(f"{indent}    - ", _short(change.a))
                say(f"{indent}    + ", _short(change.b))


def _fields(text: str | None) -> list[str]:
    """The fields of a value that is a JSON object, a line each; nothing where it is none."""
    from ..containers.compare import leaves, open_json

    value = None if text is None else open_json(text)
    return [f"{path}: {leaf}" for path, leaf in leaves(value)] if isinstance(value, dict) and value else []


def _short(text: str | None, limit: int = 200) -> str:
    """A value in one line: of what is long the beginning; of digests what tells them apart."""
    assert text is not None
    line = _DIGEST.sub(r"\1...", text.replace("\n", "\\n"))
    return line if len(line) <= limit else f"{line[:limit]}... ({len(text)} characters)"


def show_json(value: object) -> None:
    """Print JSON for scripts."""
    echo_json(value)


def warn(text: str) -> None:
    """Say something on standard error."""
    notice(f"warning: {text}")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (done, total) bytes that shows a bar on a terminal once it takes longer."""
    begun = time.monotonic()
    bars: Any = None
    task: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bars, task
        if bars is None:
            if not sys.stderr.isatty() or time.monotonic() - begun < 0.5:
                return
            from rich.console import Console
            from rich.progress import Progress

            bars = Progress(*Progress.get_default_columns(), console=Console(stderr=True), transient=True)
            bars.start()
            task = bars.add_task(what, total=total)
        bars.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        if bars is not None:
            bars.stop()
