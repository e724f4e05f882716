"""``transcode meta``: metadata of safetensors and GGUF files, read and edited in place."""

from __future__ import annotations

from typing import Any

import click

from ..errors import PlanError
from .flags import Group, debug_option
from .meta_common import (
    complete_keys,
    edit_options,
    editing,
    json_option,
    progress,
    show_edits,
    show_json,
    split,
    warn,
)
from .meta_diff import diff
from .meta_embed import embed
from .meta_statement import statement
from .meta_validate import validate
from .say import echo, echo_raw, echo_text, notice, one_line

__all__ = ["meta"]

_FILES_AND_KEYS = "FILE... [KEY]..."

_more_keys = click.option(
    "-k", "--key", "more", multiple=True, metavar="KEY", shell_complete=complete_keys,
    help="A key that looks like a file; repeatable.",
)  # fmt: skip

_EPILOG = """
FILE is a safetensors or GGUF file, an index, or a folder of shards. The first argument is always one;
further ones are files if they end in .safetensors or .gguf, or are written as a path that exists (shards/).

An edit overwrites the header where the new one fits, else grows the file at its front without moving the
tensors, else copies it; the command says which. Before the first byte changes the old header is on disk
beside the file: a killed edit is undone by the next command. Permissions and owner stay, the modification
time becomes that of the edit (--keep-mtime keeps it).

\b
Examples:
  transcode meta get model.safetensors
  transcode meta set model.safetensors author=me license=@LICENSE
  transcode meta set shards/ --from-json extra.json --dry-run
  transcode meta diff a.safetensors b.safetensors --tensors
  transcode meta validate model.safetensors --profile nunchaku
"""


@click.group(cls=Group, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def meta() -> None:
    """Read and edit metadata in place, in milliseconds, whatever the size of the file."""


meta.add_command(diff)
meta.add_command(embed)
meta.add_command(statement)
meta.add_command(validate)


@meta.command()
@click.argument("arguments", metavar=_FILES_AND_KEYS, nargs=-1, required=True, shell_complete=complete_keys)
@_more_keys
@click.option("--pretty", is_flag=True, help="Open JSON that values hold, and indent it.")
@click.option("--raw", is_flag=True, help="Print one value, just as it is and nothing else.")
@json_option
@debug_option
@click.pass_context
def get(
    ctx: click.Context,
    arguments: tuple[str, ...],
    more: tuple[str, ...],
    pretty: bool,
    raw: bool,
    as_json: bool,
) -> None:
    """Print metadata: all of it, or some keys. Exit code 1 if a key is absent."""
    from ..containers.compare import look, open_json
    from ..core.typed import whole

    files, keys = split(arguments)
    keys += more
    views = [look(file, lenient=True) for file in files]
    absent = False
    table: dict[str, Any] = {}
    for view in views:
        for note in view.notes:
            warn(note)
        missing = [key for key in keys if key not in view.metadata]
        for key in missing:
            absent = True
            notice(f"{view.path}: no metadata key {key!r}")
        # Asked for by name, even a vocabulary comes whole.
        held = view.metadata
        chosen = {key: whole(held[key]) if keys else held[key] for key in keys or held if key not in missing}
        opened = {key: open_json(value) if pretty else None for key, value in chosen.items()}
        table[str(view.path)] = {
            key: value if opened[key] is None else opened[key] for key, value in chosen.items()
        }
    if raw:
        _print_raw(table, keys, absent)
    elif as_json:
        show_json(table)
    else:
        _print_table(table)
    if absent:
        ctx.exit(1)


def _print_raw(table: dict[str, dict[str, Any]], keys: list[str], absent: bool) -> None:
    import json

    if len(keys) != 1:
        raise click.UsageError(f"--raw prints one value, {len(keys)} keys are given; name one")
    values = {
        value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        for metadata in table.values()
        for value in metadata.values()
    }
    if len(values) > 1:
        raise PlanError(f"the files have different values of {keys[0]!r}", hint="ask for one file")
    if values and not absent:
        echo_raw(values.pop())


def _print_table(table: dict[str, dict[str, Any]]) -> None:
    import json

    for path, metadata in table.items():
        indent = "  " if len(table) > 1 else ""
        if indent:
            echo(f"{path}:")
        for key, value in metadata.items():
            if not isinstance(value, str):
                value = json.dumps(value, indent=2, ensure_ascii=False).replace("\n", f"\n{indent}")
            echo_text(f"{indent}{one_line(key)}: {value}\n")


@meta.command(name="set")
@click.argument(
    "arguments", metavar="FILE... [KEY=VALUE | KEY=@FILE]...", nargs=-1, required=True,
    shell_complete=complete_keys,
)  # fmt: skip
@click.option(
    "--from-json", "source", metavar="FILE", help="Set the keys of a JSON object; - is standard input."
)
@click.option("--no-format", is_flag=True, help="Don't add format=pt to a file that had no metadata.")
@edit_options
def set_(arguments: tuple[str, ...], source: str | None, no_format: bool, **settings: Any) -> None:
    """Set keys. Values are text. KEY=@FILE takes it from a file, KEY=@- from standard input; @@ is an @.

    A file without any metadata also gets format=pt, because loaders refuse metadata that lacks it.
    """
    from ..containers.compare import load_json
    from ..meta import edits

    files, items = split(arguments, is_item=lambda text: "=" in text)
    values: dict[str, str] = {}
    if source is not None:
        values.update(load_json(source))
    for item in items:
        key, value = _assignment(item)
        if key in values:
            raise PlanError(f"the key {key!r} is given twice")
        values[key] = value
    if not values:
        raise click.UsageError("nothing to set; give KEY=VALUE or --from-json")

    with editing(settings) as options:
        done = edits.set(files, values, add_format=not no_format, **options)
    show_edits(done, settings)


def _assignment(text: str) -> tuple[str, str]:
    from ..containers.compare import read_text

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{text!r} is not of the form KEY=VALUE; type it as author=me")
    if value.startswith("@@"):
        return key, value[1:]
    if value.startswith("@"):
        return key, read_text(value[1:])
    return key, value


@meta.command(name="del")
@click.argument("arguments", metavar="FILE... KEY...", nargs=-1, required=True, shell_complete=complete_keys)
@_more_keys
@edit_options
def del_(arguments: tuple[str, ...], more: tuple[str, ...], **settings: Any) -> None:
    """Delete keys. A key that none of the files has is an error, and then nothing is changed."""
    from ..meta import edits

    files, keys = split(arguments)
    keys += more
    if not keys:
        raise click.UsageError("no KEY to delete; `transcode meta clear` deletes all")
    with editing(settings) as options:
        done = edits.delete(files, keys, **options)
    show_edits(done, settings)


@meta.command(name="rename-key")
@click.argument("arguments", metavar="FILE... OLD NEW", nargs=-1, required=True, shell_complete=complete_keys)
@click.option("-f", "--force", is_flag=True, help="Replace NEW where it exists.")
@edit_options
def rename_key(arguments: tuple[str, ...], force: bool, **settings: Any) -> None:
    """Rename a key; its value and place stay."""
    from ..meta import edits

    if len(arguments) < 3:
        raise click.UsageError("a key and its new name are missing; type them behind FILE: OLD NEW")
    files, (old, new) = list(arguments[:-2]), arguments[-2:]
    with editing(settings) as options:
        done = edits.rename(files, old, new, force=force, **options)
    show_edits(done, settings)


@meta.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@edit_options
def clear(files: tuple[str, ...], **settings: Any) -> None:
    """Delete all metadata."""
    from ..meta import edits

    with editing(settings) as options:
        done = edits.clear(files, **options)
    show_edits(done, settings)


@meta.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--full", is_flag=True, help="Copy the whole file to FILE.backup, not just the header.")
@click.option("--follow-links", is_flag=True, help="Also files whose bytes others share.")
@json_option
@debug_option
def backup(files: tuple[str, ...], full: bool, follow_links: bool, as_json: bool) -> None:
    """Save the header (kilobytes) as FILE.header-backup, which `restore` brings back."""
    from ..meta import edits

    with progress("copying") as update:
        saved = edits.backup(files, full=full, follow_links=follow_links, on_progress=update)
    if as_json:
        show_json({"backups": {str(file): str(copy) for file, copy in saved.items()}})
    else:
        for path, copy in saved.items():
            echo(f"{path}: saved as {copy}")


@meta.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--from", "source", metavar="BACKUP", help="Restore this backup; by default the one beside the file."
)
@click.option("--full", is_flag=True, help="Put FILE.backup back in the place of FILE.")
@edit_options
def restore(files: tuple[str, ...], source: str | None, full: bool, **settings: Any) -> None:
    """Bring the old header back. What it replaces becomes the backup, so restoring twice undoes it."""
    from ..containers.compare import files_of
    from ..meta import edits

    if source is not None and sum(len(files_of(file)) for file in files) > 1:
        raise click.UsageError("--from restores one file; give one FILE")
    if full and (settings["dry_run"] or source is not None):
        raise click.UsageError("--full goes with neither --dry-run nor --from; leave them out")
    with editing(settings) as options:
        if not full:
            done = edits.restore(files, source, **options)
        else:
            copies = edits.restore_copy(files, **options)
    if not full:
        show_edits(done, settings)
    elif settings["as_json"]:
        show_json({"restored": {str(file): str(copy) for file, copy in copies.items()}})
    else:
        for path, copy in copies.items():
            echo(f"{path}: replaced by {copy}")
