"""Metadata looked at: read, compared, and held against what loaders ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, overload

from ..catalog.profiles import profile as load_profile
from ..consumers.validation import Finding
from ..consumers.validation import validate as check
from ..containers.compare import Change, View, compare_data, compare_metadata, compare_tensors, look
from ..core import arguments
from ..core.records import dataclass
from ..core.shown import Overview, Shown, Table
from ..core.text import count
from ..core.typed import whole
from ..errors import FormatError, PlanError, TranscodeError

__all__ = ["Difference", "Validation", "changes_json", "diff", "get", "validate"]


@overload
def get(path: str | PathLike[str]) -> dict[str, str]: ...
@overload
def get(path: str | PathLike[str], key: str) -> str | None: ...
@overload
def get(path: str | PathLike[str], key: str, default: str) -> str: ...
def get(
    path: str | PathLike[str], key: str | None = None, default: str | None = None
) -> dict[str, str] | str | None:
    """Read metadata.

    Args:
        path: a safetensors file, an index, a folder of shards; or a JSON file, as metadata.
        key: of one value; all of it without.
        default: in the place of a value that is not there.

    Returns:
        All metadata by key, where several files disagree the first one's; or one value.

    Raises:
        FormatError: a file is not valid.
    """
    metadata = look(arguments.path("meta.get", path), lenient=True).metadata
    if key is None:
        return {name: str(whole(value)) for name, value in metadata.items()}
    value = metadata.get(arguments.text("meta.get: key", key))
    return default if value is None else str(whole(value))


def changes_json(changes: Iterable[Change]) -> dict[str, Any]:
    """Differences for scripts."""
    listed = list(changes)
    return {
        "only_a": {change.key: change.a for change in listed if change.b is None},
        "only_b": {change.key: change.b for change in listed if change.a is None},
        "changed": {
            change.key: {"a": change.a, "b": change.b, "inside": list(change.inside)}
            for change in listed
            if change.a is not None and change.b is not None
        },
    }


@dataclass(frozen=True, repr=False)
class Difference(Shown):
    """In what two checkpoints differ.

    Attributes:
        changes: what was compared (``"metadata"``, ``"tensors"``, ``"data"``), and what differs there.
        notes: what a user should know of the two.
    """

    changes: Mapping[str, tuple[Change, ...]]
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing that was compared differs."""
        return not any(self.changes.values())

    @property
    def metadata(self) -> tuple[Change, ...]:
        """Differences of metadata, sorted by key."""
        return self.changes["metadata"]

    def to_json(self) -> dict[str, Any]:
        """All of it, as ``transcode meta diff --json`` prints it."""
        return {"same": self.same, **{what: changes_json(some) for what, some in self.changes.items()}}

    def overview(self) -> Overview:
        """What differs, and the first of it."""
        if self.same:
            return Overview(f"Difference: none of {', '.join(self.changes)}")
        lines = []
        for what, changes in self.changes.items():
            if changes:
                keys = ", ".join(change.key for change in changes[:6])
                lines.append(f"{what}: {count(len(changes), 'change')}: {keys}")
        rows = [
            (what, change.key, "" if change.a is None else change.a, "" if change.b is None else change.b)
            for what, changes in self.changes.items()
            for change in changes
        ]
        table = Table(("of", "key", "a", "b"), rows, len(rows))
        return Overview(f"Difference: {count(len(rows), 'change')}", lines, (table,))


def diff(
    a: str | PathLike[str],
    b: str | PathLike[str],
    *,
    tensors: bool = False,
    data: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Difference:
    """Compare two files or folders, or one with a JSON file. How a folder is cut into shards does not matter.

    Args:
        a: the first.
        b: the second.
        tensors: compare names, dtypes and shapes of tensors too.
        data: compare the bytes of tensors too, streaming; includes ``tensors``.
        on_progress: called with ``(done, total)`` bytes of data.

    Raises:
        FormatError: one of them is not valid.
        PlanError: tensors are to be compared with a JSON file, which has none.
    """
    views = look(arguments.path("meta.diff", a)), look(arguments.path("meta.diff", b))
    changes = {"metadata": tuple(compare_metadata(views[0].metadata, views[1].metadata))}
    if tensors or data:
        for view in views:
            if view.path.suffix == ".json" and not view.tensors:
                raise PlanError("has no tensors to compare", file=view.path)
        changes["tensors"] = tuple(compare_tensors(*views))
    if data:
        changes["data"] = tuple(compare_data(*views, on_progress or (lambda done, total: None)))
    return Difference(changes, tuple(note for view in views for note in view.notes))


@dataclass(frozen=True, repr=False)
class Validation(Shown):
    """Whether a file is what loaders, or one of them, ask for.

    Attributes:
        path: what was looked at.
        errors: what makes it refused.
        warnings: what may surprise.
        tensors: how many there are; None where the header cannot be read.
        view: its headers; None likewise.
    """

    path: Path
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    tensors: int | None
    view: View | None

    @property
    def valid(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """What ``transcode meta validate --json`` prints of a file."""
        told: dict[str, Any] = {
            "file": str(self.path),
            "valid": self.valid,
            "errors": list(self.errors),
            "warnings": list(self.warnings),
        }
        return told if self.tensors is None else {**told, "tensors": self.tensors}

    def overview(self) -> Overview:
        """Whether it is valid, and the first of what is to be said."""
        lines = [f"error: {text}" for text in self.errors[:5]] + [
            f"warning: {text}" for text in self.warnings[:5]
        ]
        rows = [("error", text) for text in self.errors] + [("warning", text) for text in self.warnings]
        head = f"Validation of {self.path}: {'valid' if self.valid else 'NOT valid'}"
        return Overview(head, lines, (Table(("level", "finding"), rows, len(rows)),))


def validate(path: str | PathLike[str], *, profile: str | None = None) -> Validation:
    """Check header, metadata and what it says of the tensors.

    Args:
        path: a safetensors file, an index or a folder of shards.
        profile: a loader whose demands count: ``nunchaku``, ``transformers``, ``diffusers``, ``comfyui``,
            ``modelspec``.

    Raises:
        RecipeError: there is no such profile.
        FormatError: there is no such file. A file that is damaged is not valid.
    """
    wanted = None if profile is None else load_profile(arguments.text("meta.validate: profile", profile))
    name = arguments.path("meta.validate", path)
    try:
        view = look(name)
    except FormatError as error:
        if not os.path.exists(name):
            raise
        what = str(TranscodeError(error.what, tensor=error.tensor, hint=error.hint))
        return Validation(Path(name), (what,), (), None, None)
    specs = {tensor: stored.spec for tensor, stored in view.tensors.items()}
    findings = [*check(view.metadata, specs, wanted), *(Finding("warning", "", note) for note in view.notes)]
    errors = tuple(str(finding) for finding in findings if finding.level == "error")
    warnings = tuple(str(finding) for finding in findings if finding.level == "warning")
    return Validation(Path(name), errors, warnings, len(view.tensors), view)
