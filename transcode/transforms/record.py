"""The record of how a file was made, kept in its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .. import __version__
from ..core.flow import Transform

__all__ = ["KEY", "dumps", "make", "recipe", "schemes"]

KEY = "transcode"
"""Metadata key of the record."""


def make(
    steps: Iterable[Transform],
    layout: str,
    convention: str,
    schemes: Iterable[str],
    limits: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Version, schemes that the file holds, convention, and the recipe with its digest.

    Nothing in it differs between two runs of one recipe on two machines: no path, no date.

    Args:
        limits: of the layout, where they were given: ``max_shard_size``, ``max_tensors``.
    """
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
    }


def dumps(made: Mapping[str, Any], *, before: str | None) -> str:
    """The record as metadata; it names the digest of the record that the source carried, if any."""
    earlier = _read(before).get("digest")
    return _canonical({**made, "from": earlier} if isinstance(earlier, str) else made)


def recipe(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recipe that a record tells, as recipe files have it; None where it tells none."""
    found = record.get("recipe")
    if not isinstance(found, dict) or not isinstance(found.get("steps"), list):
        return None
    return {"steps": found["steps"], "target": {key: found[key] for key in found if key != "steps"}}


def schemes(metadata: Mapping[str, str]) -> list[str]:
    """Names of the schemes that a file holds, as far as its record tells."""
    found = _read(metadata.get(KEY)).get("schemes")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _read(record: str | None) -> dict[str, Any]:
    try:
        found = json.loads(record or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
