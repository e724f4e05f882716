"""Metadata changed in place: of several files all, or none where one of the edits would be refused."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack, get_args

from ..containers.compare import files_of, look
from ..containers.edit import edit
from ..containers.edit.edit import Edited
from ..containers.edit.forms import asked
from ..containers.safetensors.splice import stringify
from ..core import arguments
from ..core.records import dataclass
from ..core.shown import Overview, Shown, Table
from ..core.text import count
from ..errors import PlanError, RecipeError, TranscodeError
from ..voice import called, spoken

__all__ = [
    "EditOptions",
    "Edits",
    "Paths",
    "apply",
    "backup",
    "clear",
    "delete",
    "paths_of",
    "rename",
    "restore",
    "restore_copy",
    "set",
]

Paths = str | PathLike[str] | Iterable[str | PathLike[str]]
Metadata = dict[str, str]


class EditOptions(TypedDict, total=False):
    """How to edit; keywords of every function that does.

    Attributes:
        backup: ``"header"`` keeps the old header (kilobytes) as ``FILE.header-backup``, ``"full"`` a copy of
            the file as ``FILE.backup``, ``"none"`` nothing. [``"header"``]
        follow_links: also edit bytes that hard links or a hub cache share. [False]
        keep_mtime: give the file its old modification time back. [False]
        copy: allow a copy of the whole file where nothing else works. [True]
        wait: seconds to wait for another editor. [10]
        dry_run: only say what would be done. [False]
        on_progress: called with ``(done, total)`` bytes during a copy.
    """

    backup: edit.Backup
    follow_links: bool
    keep_mtime: bool
    copy: bool
    wait: float
    dry_run: bool
    on_progress: Callable[[int, int], None] | None


@dataclass(frozen=True, repr=False)
class Edits(Shown):
    """What an edit did, or would do, to each file: a sequence of one ``Edited`` for each.

    Attributes:
        files: one for each file.
        dry_run: nothing was done.
        notes: what a user should know of the result.
    """

    files: tuple[Edited, ...]
    dry_run: bool = False
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Edited]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Edited:
        return self.files[number]

    def to_json(self) -> dict[str, Any]:
        """All of it, as the commands' ``--json`` print it."""
        return {"dry_run": self.dry_run, "files": [_json(one) for one in self.files]}

    def overview(self) -> Overview:
        """Files, ways, and how many keys changed."""
        lines = [f"{one.path}: {_changed(one)}" for one in self.files[:6]]
        if len(self.files) > len(lines):
            lines.append(f"and {count(len(self.files) - len(lines), 'more file')}")
        lines += [f"note: {note}" for note in self.notes[:3]]
        rows = ((one.path, one.way, _changed(one), one.written) for one in self.files)
        table = Table(("file", "way", "changes", "bytes written"), rows, len(self.files), (3,))
        would = " (nothing was changed)" if self.dry_run else ""
        return Overview(f"Edits of {count(len(self.files), 'file')}{would}", lines, (table,))


def _changed(one: Edited) -> str:
    if one.way == "unchanged":
        return "unchanged"
    told = _json(one)
    return f"{one.way}, {', '.join(f'{len(told[what])} {what}' for what in ('added', 'removed', 'changed'))}"


def _json(one: Edited) -> dict[str, Any]:
    return {
        "file": str(one.path),
        "way": one.way,
        "added": {key: value for key, value in one.after.items() if key not in one.before},
        "removed": {key: value for key, value in one.before.items() if key not in one.after},
        "changed": {
            key: {"before": one.before[key], "after": value}
            for key, value in one.after.items()
            if key in one.before and one.before[key] != value
        },
        "header_bytes": {"before": one.header_before, "after": one.header_after},
        "bytes_written": one.written,
        "backup": None if one.backup is None else str(one.backup),
    }


def paths_of(what: str, paths: object) -> list[str]:
    """One path, or several. Raises RecipeError for anything else, and for none at all."""
    one = isinstance(paths, str | PathLike)
    if not one and (isinstance(paths, bytes | Mapping) or not isinstance(paths, Iterable)):
        raise RecipeError(f"{what}: {paths!r} is not a path")
    listed = [arguments.path(what, path) for path in ([paths] if one else paths)]  # type: ignore[attr-defined]
    if not listed:
        raise RecipeError(f"{what}: there is no file")
    return listed


def _options(options: EditOptions) -> tuple[edit.Options, bool]:
    """How to edit, and whether only to say what would be done."""
    given: dict[str, Any] = dict(options)
    dry_run = bool(given.pop("dry_run", False))
    progress = given.pop("on_progress", None)
    if unknown := given.keys() - EditOptions.__annotations__.keys():
        raise TypeError(f"there is no option {min(unknown)!r} of edits")
    if (backup := given.get("backup", "header")) not in get_args(edit.Backup):
        raise RecipeError(f"backup: {backup!r} is not one of {', '.join(get_args(edit.Backup))}")
    return edit.Options(**given, **({} if progress is None else {"progress": progress})), dry_run


def apply(
    what: str, paths: Paths, change: Callable[[Path], Callable[[Metadata], Metadata]], options: EditOptions
) -> list[Edited]:
    """Edit all files that some paths stand for, after making sure that none of the edits is refused.

    Raises:
        TranscodeError: an edit is refused. Notes of the error (``__notes__``) say which files were edited, if
            that came up after all.
    """
    how, dry_run = _options(options)
    files = [file for path in paths_of(what, paths) for file in files_of(path, edit=True)]
    # One file refuses for itself.
    foreseen = [edit.preview(file, change(file), how) for file in files] if dry_run or len(files) > 1 else []
    if dry_run:
        return foreseen
    edited: list[Edited] = []
    try:
        for file in files:
            edited.append(edit.edit(file, change(file), how))
    except TranscodeError as error:
        if edited:
            error.add_note(
                f"{len(edited)} of {len(files)} files are edited already, {edited[-1].path} the last"
            )
        raise
    return edited


def _dry(options: EditOptions) -> bool:
    return bool(options.get("dry_run", False))


def set(
    paths: Paths,
    values: Mapping[str, object] | Iterable[tuple[str, object]],
    *,
    add_format: bool = True,
    **options: Unpack[EditOptions],
) -> Edits:
    """Set keys.

    Args:
        paths: a file, an index or a folder; or several.
        values: by key. Text stays; objects and lists become JSON, everything else its ``str``. In GGUF, keys
            keep their types; ``KEY:TYPE`` gives another, as ``flux.depth:uint32`` or ``x:float32[]``.
        add_format: a safetensors file without any metadata also gets ``format=pt``, because loaders refuse
            metadata that lacks it.
        options: see :class:`EditOptions`.

    Raises:
        RecipeError: no values, or a key that is no text.
        FormatError: a file is not valid.
        TranscodeError: an edit is refused (links, locks, permissions, a full disk).
    """
    given = _values(values)

    def change_of(file: Path) -> Callable[[Metadata], Metadata]:
        def change(now: Metadata) -> Metadata:
            first = {} if now or not add_format or "format" in given else asked(file)
            return {**now, **first, **given}

        return change

    done = apply("meta.set", paths, change_of, options)
    notes = []
    if any("format" in one.after and not one.before and "format" not in given for one in done):
        notes.append(
            "format=pt was added, which loaders ask for when there is metadata"
            + spoken(f" ({called('add_format')} leaves it out)")
        )
    return Edits(tuple(done), _dry(options), tuple(notes))


def _values(values: object) -> Metadata:
    pairs = values.items() if isinstance(values, Mapping) else values
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise RecipeError(f"meta.set: {values!r:.200} is not a mapping of keys to values")
    given: Metadata = {}
    for pair in pairs:
        if isinstance(pair, str | bytes) or not isinstance(pair, Iterable) or len(both := tuple(pair)) != 2:
            raise RecipeError(f"meta.set: {pair!r:.200} is not a key with its value")
        key = arguments.text("meta.set: key", both[0])
        if key in given:
            raise PlanError(f"the key {key!r} is given twice")
        given[key] = stringify(both[1])
    if not given:
        raise RecipeError("meta.set: there is nothing to set")
    return given


def delete(paths: Paths, keys: str | Iterable[str], **options: Unpack[EditOptions]) -> Edits:
    """Delete keys.

    Args:
        paths: a file, an index or a folder; or several.
        keys: one, or several.
        options: see :class:`EditOptions`.

    Raises:
        RecipeError: no keys.
        PlanError: none of the files has a key; nothing is changed.
        TranscodeError: an edit is refused.
    """
    gone = arguments.texts("meta.delete: keys", keys)
    if not gone:
        raise RecipeError("meta.delete: there is no key to delete", hint=f"{called('clear')} deletes all")
    paths = paths_of("meta.delete", paths)
    _demand(paths, gone)

    def change(now: Metadata) -> Metadata:
        return {key: value for key, value in now.items() if key not in gone}

    return _without_format(apply("meta.delete", paths, lambda _: change, options), options)


def rename(paths: Paths, old: str, new: str, *, force: bool = False, **options: Unpack[EditOptions]) -> Edits:
    """Rename a key; its value and place stay.

    Args:
        paths: a file, an index or a folder; or several.
        old: the key; files that lack it stay as they are.
        new: its new name.
        force: replace ``new`` where it exists.
        options: see :class:`EditOptions`.

    Raises:
        PlanError: none of the files has ``old``, or one has ``new`` already; nothing is changed.
        TranscodeError: an edit is refused.
    """
    old, new = arguments.text("meta.rename: old", old), arguments.text("meta.rename: new", new)
    paths = paths_of("meta.rename", paths)
    _demand(paths, (old,))

    def change_of(file: Path) -> Callable[[Metadata], Metadata]:
        def change(now: Metadata) -> Metadata:
            if old not in now or old == new:
                return now
            if new in now and not force:
                raise PlanError(
                    f"the key {new!r} exists already", file=file, hint=f"pass {called('force')} to replace it"
                )
            return {new if key == old else key: value for key, value in now.items() if key != new}

        return change

    return _without_format(apply("meta.rename", paths, change_of, options), options)


def clear(paths: Paths, **options: Unpack[EditOptions]) -> Edits:
    """Delete all metadata.

    Args:
        paths: a file, an index or a folder; or several.
        options: see :class:`EditOptions`.

    Raises:
        TranscodeError: an edit is refused.
    """
    return Edits(tuple(apply("meta.clear", paths, lambda _: lambda now: {}, options)), _dry(options))


def backup(
    paths: Paths,
    *,
    full: bool = False,
    follow_links: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[Path, Path]:
    """Save headers (kilobytes each) as ``FILE.header-backup``, which :func:`restore` brings back.

    Args:
        paths: a file, an index or a folder; or several.
        full: copy the whole file to ``FILE.backup`` instead; :func:`restore_copy` brings it back.
        follow_links: also files whose bytes others share.
        on_progress: called with ``(done, total)`` bytes during a copy.

    Returns:
        Where each file's backup is.

    Raises:
        TranscodeError: a file cannot be read, or its backup not written.
    """
    kind: edit.Backup = "full" if full else "header"
    how, _ = _options({"backup": kind, "follow_links": follow_links, "on_progress": on_progress})
    files = [file for path in paths_of("meta.backup", paths) for file in files_of(path, edit=True)]
    return {file: edit.save_backup(file, how) for file in files}


def restore(paths: Paths, source: str | PathLike[str] | None = None, **options: Unpack[EditOptions]) -> Edits:
    """Bring the old header back. What it replaces becomes the backup, so restoring twice undoes it.

    Args:
        paths: a file, an index or a folder; or several.
        source: the backup of one file; by default the one beside it.
        options: see :class:`EditOptions`.

    Raises:
        TranscodeError: there is no backup, or it describes other tensors than the file holds.
    """
    how, dry_run = _options(options)
    files = [file for path in paths_of("meta.restore", paths) for file in files_of(path, edit=True)]
    if source is not None:
        source = arguments.path("meta.restore: source", source)
        if len(files) > 1:
            raise PlanError("one backup restores one file", file=source)
    done = [edit.restore(file, source, how, dry_run=True) for file in files]
    if not dry_run:
        done = [edit.restore(file, source, how) for file in files]
    return Edits(tuple(done), dry_run)


def restore_copy(paths: Paths, **options: Unpack[EditOptions]) -> dict[Path, Path]:
    """Put the copies of whole files, which full backups made, back in their places.

    Returns:
        By each file, the copy that took its place.

    Raises:
        RecipeError: ``dry_run``, which this has not.
        TranscodeError: there is no copy, or it is not valid.
    """
    how, dry_run = _options(options)
    if dry_run:
        raise RecipeError("meta.restore_copy: dry_run does nothing here", hint="leave it out")
    files = [file for path in paths_of("meta.restore_copy", paths) for file in files_of(path, edit=True)]
    return {file: edit.restore_copy(file, how) for file in files}


def _demand(paths: Sequence[str], keys: Iterable[str]) -> None:
    """Refuse keys that are in none of the files."""
    known = builtins.set[str]()
    for path in paths:
        for metadata in look(path, lenient=True).files.values():
            known.update(metadata)
    for key in keys:
        if key not in known:
            near = ", ".join(sorted(known)) or "none at all"
            raise PlanError(f"no metadata key {key!r}", file=paths[0], hint=f"there are: {near:.300}")


def _without_format(done: Sequence[Edited], options: EditOptions) -> Edits:
    notes = [
        f"{one.path}: metadata without 'format' is refused by transformers"
        for one in done
        if one.after and "format" in one.before and "format" not in one.after
    ]
    return Edits(tuple(done), _dry(options), tuple(notes))
