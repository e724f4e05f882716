"""Which files of a folder are one model, and which of several models is meant.

Published folders hold more than the model: the same one in other names or another precision, adapters, a VAE.
Files are joined only where their names say that they are parts of one whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..core.records import dataclass
from ..errors import FormatError, NoWeights
from ..io.folder import File, Folder
from . import table

__all__ = [
    "ModelSet", "check_complete", "choose", "index", "is_standard", "model_sets", "names_of", "serves",
    "shard",
]  # fmt: skip

# Regular expressions are texts, which are compiled when they are first used: commands that look at one file
# need none of them.
_SHARD = r"(?P<stem>.+?)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?:\.(?P<variant>\w+))?$"

_INDEXED = "|".join(re.escape(kind.indexed) for kind in table.FILES if kind.indexed is not None)

_INDEX = rf"(?P<stem>.+?)(?P<suffix>{_INDEXED})(?:\.(?P<early>[^.]+))?\.index(?:\.(?P<late>[^.]+))?\.json$"
_VARIANT = r"(?P<stem>.+?)\.(?P<variant>(?:fp|bf|int)\d+\w*|(?:non_|no_)?ema\w*)$"
_SERIES = r"(?P<stem>.*?[-_.]?)(?P<number>\d+)$"
_BLOCK = r"block_(?P<number>\d+)"
_ADAPTER = r"adapter_model|adapters|pytorch_lora_weights|lora_weights"
_OTHER_NAMES = r"consolidated"
_STANDARD = r"(diffusion_)?pytorch_model|model"
_SIDE_MODEL = r"(?i)(^|[-_.\d])(ae|vae|taesd|t5|umt5\w*|clip|text_?encoder|vocoder|tokenizer)([-_.\d]|$)"
_TOGETHER = (frozenset({"transformer_blocks", "unquantized_layers"}),)
"""Files without numbers that are parts of one whole: those of nunchaku's older checkpoints."""


@dataclass(frozen=True, slots=True)
class ModelSet:
    """Files that are one model.

    Attributes:
        files: sorted by name.
        stem: prefix for the names of output files.
        base: the stem without a variant.
        variant: such as ``fp16``; None for the model itself.
        index: the index that lists the files.
    """

    files: tuple[File, ...]
    stem: str
    base: str
    variant: str | None = None
    index: File | None = None

    @property
    def lead(self) -> File:
        """What to point at."""
        return self.index or self.files[0]


def shard(stem: str) -> re.Match[str] | None:
    """The stem of a numbered file; Diffusers once put the variant behind the numbers."""
    return re.match(_SHARD, stem) if "-of-" in stem else None


def index(name: str) -> re.Match[str] | None:
    """The name of an index; a variant stands behind the suffix or, since Diffusers 0.30, before ``.json``."""
    return re.match(_INDEX, name) if name.endswith(".json") else None


def model_sets(weights: list[File], indexes: Mapping[File, set[File]]) -> list[ModelSet]:
    """Group the weight files of a folder.

    Args:
        weights: files of one format.
        indexes: each index with the files that it lists; they may be missing.
    """
    sets: list[ModelSet] = []
    listed: set[File] = set()
    for listing, members in indexes.items():
        match = index(listing.name)
        assert match is not None
        base, variant = _split(match["stem"])
        variant = match["early"] or match["late"] or variant
        sets.append(ModelSet(tuple(sorted(members)), match["stem"], base, variant, listing))
        listed |= members
    left = [path for path in weights if path not in listed]
    numbered: dict[tuple[str, str, str | None, str], list[File]] = {}
    single: list[File] = []
    for path in left:
        match = shard(path.stem)
        if match is None:
            single.append(path)
        else:
            key = match["stem"], match["count"], match["variant"], path.suffix
            numbered.setdefault(key, []).append(path)
    for (stem, _, variant, _), paths in numbered.items():
        base, inner = _split(stem)
        sets.append(ModelSet(tuple(paths), stem, base, variant or inner))
    return sets + _unnumbered(single)


def _unnumbered(paths: list[File]) -> list[ModelSet]:
    sets: list[ModelSet] = []
    series: dict[str, dict[int, File]] = {}
    for path in paths:
        match = re.match(_SERIES, path.stem)
        if match is not None and not _is_loose(path):
            series.setdefault(match["stem"], {})[int(match["number"])] = path
    left = {path.stem: path for path in paths if not _is_loose(path)}
    others = [path for path in paths if _is_loose(path)]
    for stem, numbered in series.items():
        rest = left.get("non_block") if stem == "block_" else None
        if len(numbered) < 2 and rest is None:
            continue
        if stem != "block_" and set(numbered) - set(range(min(min(numbered), 1), len(numbered) + 1)):
            continue  # steps of a training, sizes of a model: not parts of one whole
        members = sorted([*numbered.values(), *([rest] if rest is not None else [])])
        name = "model" if stem == "block_" else stem.rstrip("-_.") or "model"
        sets.append(ModelSet(tuple(members), name.removesuffix("_part"), name))
        for path in members:
            del left[path.stem]
    for names in _TOGETHER:
        if names <= left.keys():
            sets.append(ModelSet(tuple(left.pop(name) for name in sorted(names)), "model", "model"))
    return sets + [ModelSet((path,), path.stem, *_split(path.stem)) for path in (*left.values(), *others)]


def _is_loose(file: File) -> bool:
    kind = table.of_name(file.name)
    return kind is None or kind.loose


def _split(stem: str) -> tuple[str, str | None]:
    match = re.match(_VARIANT, stem)
    return (match["stem"], match["variant"]) if match else (stem, None)


def check_complete(files: Iterable[File]) -> None:
    """Refuse numbered files of which some are missing.

    Raises:
        FormatError: one is missing.
    """
    shards = [(path, match) for path in files if (match := shard(path.stem)) is not None]
    if shards:  # their numbers begin with 1, or with 0
        numbers = {int(match["number"]) for _, match in shards}
        wanted = range(0 not in numbers, int(shards[0][1]["count"]) + (0 not in numbers))
        _complain(shards[0], numbers, wanted)
    blocks = [(path, match) for path in files if (match := re.fullmatch(_BLOCK, path.stem)) is not None]
    if blocks:
        numbers = {int(match["number"]) for _, match in blocks}
        _complain(blocks[0], numbers, range(max(numbers)))


def _complain(example: tuple[File, re.Match[str]], numbers: set[int], wanted: Iterable[int]) -> None:
    path, match = example
    for number in wanted:
        if number not in numbers:
            begin, end = match.span("number")
            width = end - begin if "count" in match.re.groupindex else 1
            name = f"{path.name[:begin]}{number:0{width}d}{path.name[end:]}"
            raise FormatError("is missing", file=path.folder.at(name).url, hint="is the download complete?")


def serves(model: ModelSet) -> bool:
    """Whether the name of a model says that it serves another one: a VAE, a text encoder."""
    return re.search(_SIDE_MODEL, model.base) is not None


def is_standard(path: File) -> bool:
    """Whether a file has the name that loaders look for beside config.json, whatever its precision."""
    return re.fullmatch(_STANDARD, _split(path.stem)[0]) is not None


def choose(folder: Folder, sets: list[ModelSet], below: list[str]) -> tuple[ModelSet, tuple[str, ...]]:
    """The model that a folder stands for, and notes on what is left.

    Not meant, where there is something else: adapters, variants of a model that is there, Mistral's own names
    of a model that is there, and PyTorch files with names of their own beside ``pytorch_model.bin``.

    Args:
        sets: one or more.
        below: names of folders in it that hold weights.

    Raises:
        FormatError: it is not clear which is meant.
    """
    notes: list[str] = []

    def without(what: str, spared: list[ModelSet], kept: list[ModelSet]) -> list[ModelSet]:
        if not kept or not spared:
            return kept or spared
        notes.append(f"does not read {names_of(spare.lead for spare in spared)}, {what}")
        return kept

    def split(candidates: list[ModelSet], regex: str) -> tuple[list[ModelSet], list[ModelSet]]:
        hit = [one for one in candidates if re.fullmatch(regex, one.base)]
        return hit, [one for one in candidates if one not in hit]

    sets = without("an adapter", *split(sets, _ADAPTER))
    own, rest = split(sets, _OTHER_NAMES)
    standard = [one for one in rest if re.fullmatch(_STANDARD, one.base)]
    if own and standard:
        sets = without("the same model in its authors' names", own, rest)
    plain = {one.base for one in sets if one.variant is None}
    variants = [one for one in sets if one.variant is not None and one.base in plain]
    sets = without("a variant of the model", variants, [one for one in sets if one not in variants])
    standard = [one for one in sets if re.fullmatch(_STANDARD, one.base)]
    files = [file for one in sets for file in one.files]  # none of an index that names none
    if len(sets) > 1 and standard and files and _is_loose(files[0]):
        sets = without("beside it", [one for one in sets if one not in standard], standard)
    if len(sets) > 1:
        raise _unclear(folder, sets, below)
    if below:
        if serves(sets[0]):
            raise _unclear(folder, sets, below)
        notes.append(f"does not read {', '.join(below)} below it")
    return sets[0], tuple(notes)


def _unclear(folder: Folder, sets: list[ModelSet], below: list[str]) -> FormatError:
    indexed = [one for one in sets if one.index is not None]
    if len(indexed) == 1:
        stray = next(one for one in sets if one.index is None).files[0]
        index = indexed[0].lead
        return FormatError(
            f"is an extra shard, which {index.name} does not name", file=stray.url,
            hint=f"to ignore it, point SRC at {index}",
        )  # fmt: skip
    what = "several indexes, " if len(indexed) == len(sets) else ""
    shown = names_of(one.lead for one in sets) + (f", and weights in {', '.join(below)}" if below else "")
    return NoWeights(f"holds {what}{shown}", file=folder.url, hint="point SRC at one of them")


def names_of(paths: Iterable[File]) -> str:
    """The names of files, the first four of many."""
    names = [path.name for path in paths]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
