"""What a source says of how it is quantized: its record, its config.json, its metadata and its markers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .. import catalog
from ..catalog.foreign import foreign
from ..core.records import dataclass
from ..core.small_json import object_or_none
from . import record, torchao
from .config.stated import CONFIG, KEY, KEYS, Json, read_json, statements

__all__ = ["LAYERS", "Claim", "claims", "layers"]

LAYERS = "_quantization_metadata"
"""Metadata key of ComfyUI: what its markers say, for all layers in one place."""

_BITSANDBYTES = ("load_in_", "_load_in_", "bnb_")
"""How its keys begin, which early files have without a ``quant_method``."""


@dataclass(frozen=True)
class Claim:
    """One statement of a source.

    Attributes:
        said: the words, for errors: ``config.json says quant_method 'gptq'``.
        conventions: those that it may mean; empty where it means none that is known.
        title: what it is called, where no convention is meant.
    """

    said: str
    conventions: frozenset[str]
    title: str = ""


def claims(metadata: Mapping[str, str], side_files: Sequence[Path], names: Iterable[str]) -> list[Claim]:
    """All that is said, the most specific first."""
    return [
        *_of_record(metadata),
        *(claim for path in side_files for claim in _of_side_file(path)),
        *_of_metadata(metadata),
        *_of_markers(names),
    ]


def _of_record(metadata: Mapping[str, str]) -> Iterator[Claim]:
    if (recorded := record.stored(metadata)) is not None:
        yield Claim(f"the record in its metadata says {recorded[0]}", frozenset({recorded[0]}))


def _of_side_file(path: Path) -> Iterator[Claim]:
    file = path.name
    if file == CONFIG:
        content = read_json(path) or {}
        for holder, key in statements(content):
            yield from _of_statement(f"{file} says", holder[key], key)
    elif path.suffix == ".json":
        from .config.table import BESIDE  # all dialects: most sources do without

        if file in BESIDE:
            dialect, side = BESIDE[file]
            content = read_json(path) or {}
            for holder, key in statements(content):
                yield from _of_statement(f"{file} says", holder[key], key)
            if not side.key:
                yield from _of_statement(f"{file} says", content, KEY)
            elif side.key in content:
                yield Claim(f"{file} is beside it", _answering(dialect.method))


def _of_metadata(metadata: Mapping[str, str]) -> Iterator[Claim]:
    for key in KEYS:
        yield from _of_statement("its metadata says", object_or_none(metadata.get(key)) or {}, key)
    if layers(metadata):
        yield Claim(f"its metadata has {LAYERS}", frozenset({"comfyui"}))
    if torchao.listed(metadata):
        yield Claim("its metadata lists tensors as torchao does", frozenset({"torchao"}))


def layers(metadata: Mapping[str, str]) -> dict[str, Json]:
    """What ``_quantization_metadata`` says of each layer."""
    stated = (object_or_none(metadata.get(LAYERS)) or {}).get("layers")
    if not isinstance(stated, dict):
        return {}
    return {name: marker for name, marker in stated.items() if isinstance(marker, dict)}


def _of_markers(names: Iterable[str]) -> list[Claim]:
    """One claim for each set of conventions that a marker may be of."""
    marking = [
        one for one in catalog.every_convention() if any(rule.markers for rule in one.schemes.values())
    ]
    markers = [marker.name for one in marking for rule in one.schemes.values() for marker in rule.markers]
    endings = tuple({template.after or template.text for template in markers})
    first: dict[frozenset[str], str] = {}
    for name in names:
        if name.endswith(endings) and (
            conventions := frozenset(one.name for one in marking if one.is_marker(name))
        ):
            first.setdefault(conventions, name)
    return [
        Claim(f"{name!r} is a marker of {' or '.join(sorted(conventions))}", conventions)
        for conventions, name in first.items()
    ]


def _of_statement(where: str, statement: Json, key: str) -> Iterator[Claim]:
    if not statement:
        return
    from .config.table import speaker

    method = speaker(statement, key)
    if method is None and any(name.startswith(_BITSANDBYTES) for name in statement):
        method = "bitsandbytes"
    if method is not None:
        said = f"{where} quant_method {method!r}"
        conventions = _answering(method)
        title = "" if conventions else foreign().methods.get(method.lower(), method)
        yield Claim(said, conventions, title)


def _answering(method: str) -> frozenset[str]:
    """Conventions that are meant by a ``quant_method``."""
    wanted = method.lower().replace("_", "-")
    return frozenset(
        one.name
        for one in catalog.every_convention()
        if any(other.replace("_", "-") == wanted for other in (one.config or "", *one.methods))
    )
