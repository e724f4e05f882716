"""What other programs keep in high precision of a model, beside what we keep: fixtures/skip_lists.yaml.

For ``make_models.py`` and its test. Needs diffusers, whose classes say for themselves what they keep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = ["LISTS", "Compared", "compared", "unexplained"]

FIXTURES = Path(__file__).parents[1] / "fixtures"
LISTS: dict[str, Any] = yaml.safe_load((FIXTURES / "skip_lists.yaml").read_text("utf-8"))
PROGRAMS = ("lightx2v", "comfyui", "diffusers")


class Compared(NamedTuple):
    """One model, by one program's list.

    Attributes:
        program: of :data:`PROGRAMS`, also the convention whose default is ours.
        entry: the key of its list, and of ``differences``.
        more: what is quantized by theirs and not by ours.
        less: what ours quantizes and theirs keeps.
    """

    program: str
    entry: str
    more: frozenset[str]
    less: frozenset[str]


def compared(stem: str, golden: Any, source: str) -> Iterator[Compared]:
    """Every list that has a word on a model.

    Args:
        stem: of its file in fixtures/families.
        golden: the family, spelling, and shapes of it, see ``tests/catalog/conftest.py``.
        source: what the file says of where its names are from.
    """
    from transcode import catalog

    family = catalog.family(golden.family).spelled(golden.spelling)
    matrices = {name for name, shape in golden.shapes.items() if len(shape) == 2}

    def ours(convention: str) -> set[str]:
        return {name for name in matrices if family.is_target(name, golden.shapes[name], convention)[0]}

    for program in ("lightx2v", "comfyui"):
        for entry, told in LISTS[program].items():
            if entry.partition(" of ")[0] != golden.family or told["spelling"] != golden.spelling:
                continue
            if stem in told.get("models", [stem]):
                theirs = {name for name in matrices if _quantized(name, told)}
                mine = ours(program)
                yield Compared(program, entry, frozenset(theirs - mine), frozenset(mine - theirs))
    kept = _kept_by_diffusers(source) if golden.spelling == "diffusers" else None
    if kept is not None:
        less = {name for name in ours("plain") if re.search(kept, name.removesuffix(".weight"))}
        yield Compared("diffusers", golden.family, frozenset(), frozenset(less))


def _quantized(name: str, told: Mapping[str, Any]) -> bool:
    """Whether a list quantizes a matrix."""
    if "component" not in told:
        return name.endswith(".weight") and not any(part in name for part in told["keeps"])
    parts = name.split(".")
    within = len(parts) > told["component"] and parts[told["component"]] in told["targets"]
    return within and not any(part in name for part in told.get("drops", ()))


def _kept_by_diffusers(source: str) -> str | None:
    """A regular expression for the modules that a class of diffusers keeps; None where it says nothing."""
    import diffusers

    stated = re.match(r"diffusers: (\w+)$", source)
    kind = getattr(diffusers, stated[1], None) if stated else None
    kept = [
        *(getattr(kind, "_skip_layerwise_casting_patterns", None) or ()),
        *(getattr(kind, "_keep_in_fp32_modules", None) or ()),
    ]
    return "|".join(kept) or None


def unexplained(one: Compared) -> set[str]:
    """Tensors that both treat differently without a reason in the file."""
    told = LISTS["differences"][one.program].get(one.entry, {})
    return {
        name
        for way in ("more", "less")
        for name in getattr(one, way)
        if not any(fnmatchcase(name, pattern) for pattern in told.get(way, ()))
    }
