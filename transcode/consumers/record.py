"""The record of how a file was made, kept in its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..core import small_json

if TYPE_CHECKING:
    from ..core.flow import Transform

__all__ = ["KEY", "dumps", "leaves_out", "make", "options", "recipe", "schemes", "stored"]

KEY = "transcode"
"""Metadata key of the record."""


def make(
    steps: Iterable[Transform],
    layout: str,
    convention: str,
    schemes: Iterable[str],
    limits: Mapping[str, int] | None = None,
    held: Iterable[tuple[str, Mapping[str, Any]]] = (),
) -> dict[str, Any]:
    """Version, schemes that the file holds, convention, and the recipe with its digest.

    Nothing in it differs between two runs of one recipe on two machines: no path, no date.

    Args:
        limits: of the layout, where they were given: ``max_shard_size``, ``max_tensors``.
        held: schemes with their options, where no recipe tells them all.
    """
    told = [[name, dict(options)] for name, options in held]
    recipe = {
        "convention": convention,
        "layout": layout,
        **(limits or {}),
        "steps": [{step.kind: step.recorded()} for step in steps],
    }
    return {
        "version": __version__,
        "schemes": sorted(schemes),
        "convention": convention,
        "digest": "sha256:" + hashlib.sha256(_canonical(recipe).encode()).hexdigest(),
        "recipe": recipe,
        **({"held": sorted(told, key=_canonical)} if told else {}),
    }


def dumps(record: Mapping[str, Any], *, before: str | None, still: bool = False) -> str:
    """The record as metadata; it names the digest of the record that the source carried, if any.

    Args:
        still: what the source holds quantized goes along as it is stored there; the record keeps saying so.
    """
    earlier = _read(before)
    more: dict[str, Any] = {}
    if isinstance(earlier.get("digest"), str):
        more["from"] = earlier["digest"]
    if still and not record["schemes"] and (kept := _stored(earlier)) is not None:
        more["stored"] = {"convention": kept[0], "schemes": kept[1]}
    return _canonical({**record, **more})


def stored(metadata: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """Convention and schemes of what a file holds quantized, if its record tells of any."""
    return _stored(_read(metadata.get(KEY)))


def _stored(record: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    holds = record.get("stored", record)
    if not isinstance(holds, dict):
        return None
    convention, schemes = holds.get("convention"), holds.get("schemes")
    if not isinstance(convention, str) or not isinstance(schemes, list):
        return None
    names = [name for name in schemes if isinstance(name, str)]
    return (convention, names) if names else None


def recipe(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recipe that a record tells, as recipe files have it; None where it tells none."""
    recorded = record.get("recipe")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("steps"), list):
        return None
    target = {key: value for key, value in recorded.items() if key != "steps"}
    return {"steps": recorded["steps"], "target": target}


def schemes(metadata: Mapping[str, str]) -> list[str]:
    """Names of the schemes that a file holds, as far as its record tells."""
    holds = stored(metadata)
    return [] if holds is None else holds[1]


def options(metadata: Mapping[str, str]) -> list[tuple[str, Mapping[str, Any]]]:
    """The schemes that a file was made with, each with the options that the recipe gave it."""
    return _options(_read(metadata.get(KEY)))


def leaves_out(record: Mapping[str, Any], held: Iterable[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether a record tells some sizes or formats of what a file holds, and not all.

    Where it tells none, all are tried; where it tells some, none but those. What has the defaults of its
    scheme or convention is told by no recipe.

    Args:
        held: all schemes that the file holds, with their options.
    """
    stated, used = _sizes(_options(record)), _sizes(held)
    return any(used[key] - sizes for key, sizes in stated.items() if key in used)


def _sizes(schemes: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, set[str]]:
    """The values of each option that is looked up by itself; that of a format, by its scheme too."""
    sizes: dict[str, set[str]] = {}
    for name, chosen in schemes:
        for key, value in chosen.items():
            if key in ("group_size", "block"):
                sizes.setdefault(key, set()).add(_canonical(value))
            elif key == "format":
                sizes.setdefault(f"{key} of {name}", set()).add(_canonical(value))
    return sizes


def _options(stated: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    from ..schemes.text import parse_scheme

    recorded = recipe(stated)
    used: list[tuple[str, Mapping[str, Any]]] = []
    held = stated.get("held")
    for one in held if isinstance(held, list) else ():
        if isinstance(one, list) and [type(part) for part in one] == [str, dict]:
            used.append((one[0], one[1]))
    for step in recorded["steps"] if recorded is not None else ():
        quantize = step.get("quantize") if isinstance(step, dict) else None
        if not isinstance(quantize, dict) or not isinstance(quantize.get("scheme"), str):
            continue
        chosen = quantize.get("options")
        used.append((quantize["scheme"], chosen if isinstance(chosen, dict) else {}))
        for override in quantize.get("overrides", ()):
            if isinstance(override, list) and len(override) == 2 and ":" in str(override[1]):
                name, more = parse_scheme(str(override[1]))
                used.append((name, dict(more)))
    return used


def _read(record: str | None) -> dict[str, Any]:
    return small_json.object_or_none(record) or {}


def _canonical(value: Any) -> str:
    return small_json.spell(value, compact=True)
