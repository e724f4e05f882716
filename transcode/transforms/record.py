"""The record of how a file was made, kept in its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .. import __version__
from ..core.flow import Transform

__all__ = ["KEY", "dumps", "make"]

KEY = "transcode"
"""Metadata key of the record."""


def make(steps: Iterable[Transform], layout: str, convention: str) -> dict[str, Any]:
    """Version, schemes, convention, and the recipe with its digest.

    Nothing in it differs between two runs of one recipe on two machines: no path, no date.
    """
    recipe = {
        "convention": convention,
        "layout": layout,
        "steps": [{step.kind: step.recorded()} for step in steps],
    }
    schemes = [scheme for step in steps if (scheme := getattr(step, "scheme", None)) is not None]
    return {
        "version": __version__,
        "schemes": sorted(set(schemes)),
        "convention": convention,
        "digest": "sha256:" + hashlib.sha256(_canonical(recipe).encode()).hexdigest(),
        "recipe": recipe,
    }


def dumps(made: Mapping[str, Any], *, before: str | None) -> str:
    """The record as metadata; it names the digest of the record that the source carried, if any."""
    try:
        earlier = json.loads(before or "{}").get("digest")
    except (ValueError, AttributeError):
        earlier = None
    return _canonical({**made, "from": earlier} if isinstance(earlier, str) else made)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
