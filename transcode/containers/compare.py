"""What differs between two checkpoints: metadata, facts of tensors, bytes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import field
from difflib import SequenceMatcher
from itertools import zip_longest
from os import PathLike, fspath
from pathlib import Path
from typing import BinaryIO

from ..core import small_json
from ..core.paths import located, unsigned
from ..core.prefix import common_prefix
from ..core.records import dataclass
from ..core.shown import Overview, Shown
from ..core.spec import Spec
from ..core.text import count, printable
from ..core.typed import Typed, whole
from ..errors import FormatError
from ..io import hub
from ..io.folder import File
from ..io.named import local, locate
from ..io.system import open_file
from ..voice import called, spoken
from . import table
from .container import Heading
from .discover import discover
from .safetensors.header import NotText
from .safetensors.splice import stringify

__all__ = [
    "Change",
    "Stored",
    "View",
    "compare_data",
    "compare_metadata",
    "compare_tensors",
    "files_of",
    "leaves",
    "look",
]

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor's bytes lie: from byte ``start`` of a file on."""

    file: Path
    start: int
    spec: Spec
    swapped: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class View(Shown):
    """The headers of a checkpoint, all its files together.

    Attributes:
        path: as given.
        files: all files, with their own metadata.
        metadata: of all files; where they disagree the first one's, and a note says so.
        tensors: by name; empty for a JSON file.
        notes: what a user should know.
    """

    path: Path
    files: Mapping[Path, Mapping[str, str]]
    metadata: Mapping[str, str]
    tensors: Mapping[str, Stored]
    notes: tuple[str, ...] = ()

    def overview(self) -> Overview:
        """How much it holds."""
        held = f"{count(len(self.tensors), 'tensor')}, {count(len(self.metadata), 'metadata key')}"
        return Overview(f"View of {self.path}: {held}", [f"note: {note}" for note in self.notes[:3]])


@dataclass(frozen=True, slots=True, repr=False)
class Change(Shown):
    """One difference.

    Attributes:
        key: the metadata key or tensor name.
        a: what the first side has; None when it has nothing of that name.
        b: what the second side has.
        inside: where both are JSON, the paths at which they differ, as ``path: a -> b``.
    """

    key: str
    a: str | None
    b: str | None
    inside: tuple[str, ...] = field(default=())

    def overview(self) -> Overview:
        """The beginning of both sides."""
        if self.inside:
            return Overview(f"Change of {printable(self.key, 60)}: {'; '.join(self.inside[:3])}")
        sides = ["nothing" if side is None else repr(side[:60]) for side in (self.a, self.b)]
        return Overview(f"Change of {printable(self.key, 60)}: {' -> '.join(sides)}")


def files_of(path: str | PathLike[str], *, edit: bool = False) -> tuple[Path, ...]:
    """The files that a path stands for: itself, the shards of an index, those of a folder.

    Args:
        edit: their metadata is to be edited in place.

    Raises:
        FormatError: none, or files that hold no metadata, or none that is edited.
    """
    files = []
    with hub.explaining(path):
        chosen = discover(locate(path)).files
    if edit and (remote := next((file for file in chosen if file.path is None), None)) is not None:
        raise FormatError(
            "is not on this machine, and metadata is edited in place",
            file=remote.url,
            hint=f"write it anew: transcode run URL NEW {called('metadata', 'KEY')}",
        )
    for file in chosen:
        container = table.of_name(file.name)
        if container is not None and container.metadata is None:
            raise FormatError(
                f"{container.title} files hold no safetensors metadata",
                file=file.url,
                hint="convert it first",
            )
        if edit and container is not None and not container.edited:
            raise FormatError(
                f"is a {container.title} file, whose metadata is read and not edited in place",
                file=file.url,
                hint=f"write it anew: transcode run {file.name} NEW{container.suffixes[0]}"
                f" {called('metadata', 'KEY')}",
            )
        files.append(located(file.url))
    return tuple(files)


def look(path: str | PathLike[str], *, lenient: bool = False) -> View:
    """Read the headers of a checkpoint; or a JSON file, as metadata.

    Args:
        lenient: see :func:`.safetensors.header.parse`; notes tell which values are no text, and what mends
            them.

    Raises:
        FormatError: a file is not valid, or a tensor is in two of them.
    """
    given, path = path, located(unsigned(fspath(path)))
    if path.suffix == ".json" and not path.name.endswith(".index.json"):
        metadata = load_json(given)
        return View(path, {path: metadata}, metadata, {})
    files: dict[Path, Mapping[str, str]] = {}
    merged: dict[str, str] = {}
    tensors: dict[str, Stored] = {}
    notes: list[str] = []
    for file in files_of(given):
        head = _heading(file, lenient)
        if odd := [key for key, value in head.metadata.items() if isinstance(value, NotText)]:
            notes.append(
                f"{file}: {', '.join(map(repr, odd))}: not text, so no loader takes the file; repair it with "
                + spoken(f"{called('set_key', file, odd[0])}, {called('delete')} or {called('clear')}")
            )
        files[file] = head.metadata
        for key, value in head.metadata.items():
            if merged.setdefault(key, value) != value:
                notes.append(f"{file}: {key!r} differs from the value in the files before it, which is taken")
        for name, spec, start in head.tensors:
            if name in tensors:
                raise FormatError(f"is also in {tensors[name].file}", file=file, tensor=name)
            tensors[name] = Stored(file, start, spec, head.swapped)
    return View(path, files, merged, tensors, tuple(notes))


def _heading(path: Path, lenient: bool) -> Heading:
    """What stands at the front of a file, by the format that its name stands for, or else of safetensors."""
    place = locate(path)
    if not isinstance(place, File):
        raise FormatError("is a folder", file=path)
    kind = next((one for one in table.WRITABLE if place.name.endswith(one.suffixes)), table.WRITABLE[0])
    kind.settle(place)
    try:
        return kind.heading(place.open(), lenient=lenient)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=path) from None


def load_json(path: str | PathLike[str]) -> dict[str, str]:
    """Metadata from a JSON object; other values become text by :func:`.safetensors.splice.stringify`.

    Raises:
        FormatError: it cannot be read, is not a JSON object, or a key appears twice.
    """
    table = small_json.parse_object(read_text(path), file=path)
    return {key: stringify(value) for key, value in table.items()}


def read_text(path: str | PathLike[str]) -> str:
    """A whole text file; ``-`` is standard input.

    Raises:
        FormatError: it cannot be read or is not UTF-8.
    """
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else local(path).read_bytes()
        return raw.decode("utf-8")
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise FormatError(f"is not UTF-8 text at byte {error.start}", file=path) from None


def compare_metadata(a: Mapping[str, str], b: Mapping[str, str]) -> list[Change]:
    """Differences by key, sorted. Two values that are JSON objects or arrays are compared by structure."""
    changes = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if left == right:
            continue
        inside: tuple[str, ...] = ()
        if left is not None and right is not None:
            if isinstance(left, Typed) and isinstance(right, Typed):
                changes.append(_retyped(key, left, right))
                continue
            left, right = whole(left), whole(right)
            if left == right:
                continue
            opened = open_json(left), open_json(right)
            if opened[0] is not None and opened[1] is not None:
                inside = tuple(_differences("", *opened))
                if not inside:
                    continue
        changes.append(Change(key, left, right, inside))
    return changes


def _retyped(key: str, left: Typed, right: Typed) -> Change:
    """A change between values that differ by type or bytes: of arrays only where they begin to differ."""
    if left.kind != right.kind:
        return Change(key, f"{left.kind} {left}", f"{right.kind} {right}")
    a, b = open_json(whole(left)), open_json(whole(right))
    if not (isinstance(a, list) and isinstance(b, list)):
        return Change(key, left, right)
    differing = [at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other]
    inside = [f"[{at}]: {_dump(a[at])} -> {_dump(b[at])}" for at in differing[:3]]
    if len(differing) > 3:
        inside.append(f"and {len(differing) - 3} more elements")
    if len(a) != len(b):
        inside.append(f"{len(a)} elements -> {len(b)}")
    return Change(key, left, right, tuple(inside))


def open_json(text: str) -> object:
    """The object or array that a string holds as JSON; None if it holds something else."""
    if not text.lstrip(" \t\r\n").startswith(("{", "[")):
        return None
    try:
        return small_json.parse(text)
    except FormatError:
        return None


def leaves(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """What an object of JSON holds, by path: each with its value as JSON."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, _dump(value)


def _differences(path: str, a: object, b: object) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            inner = f"{path}.{key}" if path else key
            if key not in a:
                yield f"{inner}: only in B: {_dump(b[key])}"
            elif key not in b:
                yield f"{inner}: only in A: {_dump(a[key])}"
            else:
                yield from _differences(inner, a[key], b[key])
    elif isinstance(a, list) and isinstance(b, list):
        for i, j in _aligned(a, b):
            if i is None:
                yield f"{path}[{j}]: only in B: {_dump(b[j or 0])}"
            elif j is None:
                yield f"{path}[{i}]: only in A: {_dump(a[i])}"
            else:
                yield from _differences(f"{path}[{i}]", a[i], b[j])
    elif _dump(a) != _dump(b):  # as text, because to Python 1, 1.0 and True are equal
        yield f"{path or '(all)'}: {_dump(a)} -> {_dump(b)}"


def _aligned(a: list[object], b: list[object]) -> Iterator[tuple[int | None, int | None]]:
    """Which members of two lists stand for each other, by place: all, where there are as many; else those
    that say the same, or are mappings of the same one key, as the steps of recipes.
    """
    if len(a) == len(b):
        yield from zip(range(len(a)), range(len(b)), strict=True)
        return
    names, others = ([_name(one) for one in side] for side in (a, b))
    for _, i, end_i, j, end_j in SequenceMatcher(None, names, others, autojunk=False).get_opcodes():
        yield from zip_longest(range(i, end_i), range(j, end_j))


def _name(member: object) -> str:
    return next(iter(member)) if isinstance(member, dict) and len(member) == 1 else _dump(member)


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def compare_tensors(a: View, b: View) -> list[Change]:
    """Differences of names, dtypes and shapes, sorted by name."""
    changes = []
    for name in sorted({*a.tensors, *b.tensors}):
        left, right = (str(view.tensors[name].spec) if name in view.tensors else None for view in (a, b))
        if left != right:
            changes.append(Change(name, left, right))
    return changes


def compare_data(a: View, b: View, progress: Callable[[int, int], None]) -> list[Change]:
    """Tensors of equal name, dtype and shape whose bytes differ, with the first byte that does.

    Streams both sides in constant memory.
    """
    names = [name for name in a.tensors if name in b.tensors and a.tensors[name].spec == b.tensors[name].spec]
    for name in names:
        if a.tensors[name].swapped != b.tensors[name].swapped:
            raise FormatError(
                f"is big-endian where {b.path} is not, or the other way round: their bytes are not compared",
                file=a.path,
                tensor=name,
                hint="write both anew, which makes them little-endian",
            )
    total = sum(a.tensors[name].spec.nbytes for name in names)
    done = 0
    changes = []
    left, right = bytearray(_CHUNK), bytearray(_CHUNK)
    with ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}

        def file(path: Path) -> BinaryIO:
            if path not in files:
                files[path] = stack.enter_context(open_file(path, buffered=False))
            return files[path]

        for name in sorted(names):
            first, second = a.tensors[name], b.tensors[name]
            at = _first_difference(
                file(first.file), first.start, file(second.file), second.start, first.spec.nbytes, left, right
            )
            if at is not None:
                changes.append(
                    Change(name, str(first.spec), str(second.spec), (f"byte {at} of {first.spec.nbytes}",))
                )
            done += first.spec.nbytes
            progress(done, total)
    return changes


def _first_difference(
    a: BinaryIO, a_start: int, b: BinaryIO, b_start: int, size: int, left: bytearray, right: bytearray
) -> int | None:
    for offset in range(0, size, _CHUNK):
        length = min(_CHUNK, size - offset)
        _fill(a, a_start + offset, memoryview(left)[:length])
        _fill(b, b_start + offset, memoryview(right)[:length])
        if length < _CHUNK:
            same = bytes(memoryview(left)[:length]) == bytes(memoryview(right)[:length])
        else:
            same = left == right
        if not same:
            return offset + common_prefix(bytes(left[:length]), bytes(right[:length]))
    return None


def _fill(file: BinaryIO, offset: int, into: memoryview) -> None:
    file.seek(offset)
    while into:
        count = file.readinto(into)  # type: ignore[attr-defined]
        if not count:
            raise FormatError("the file ends early", file=file.name)
        into = into[count:]
