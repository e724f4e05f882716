"""Tables of names, of which values of options are: for shells to complete, and for the schema of recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import catalog
from ..catalog.mixes import mix_names
from ..catalog.programs import programs
from ..core.dtypes import CASTS, spellings
from ..schemes import SCHEMES
from .lora.written import STYLES

__all__ = ["STORED_AS", "TABLES", "names", "schema"]

STORED_AS = ("auto", "safetensors", "pytorch", "pth", "pt", "bin", "ckpt")
"""What ``source.type`` and ``source.format`` may say of the files; they are recognised by their content."""


def _schemes() -> list[str]:
    """Their names alone, which load nothing that they compute with."""
    return list(SCHEMES)


def _spellings() -> list[str]:
    known = (spelling for name in catalog.families() for spelling in catalog.family(name).spellings)
    return list(dict.fromkeys([*known, *STYLES]))  # of LoRAs, too


def _models() -> list[str]:
    from ..catalog.folders import listing

    return list(listing("nunchaku"))


def _components() -> list[str]:
    from ..catalog.components import component_table

    known = ((name, one.folder, *one.names) for name, one in component_table().entries.items())
    return sorted({name for names in known for name in names})


TABLES: dict[str, Callable[[], list[str]]] = {
    "components": _components,
    "schemes": _schemes,
    "schemes and mixes": lambda: [*_schemes(), *mix_names()],
    "conventions": lambda: list(catalog.conventions()),
    "families": lambda: list(catalog.families()),
    "spellings": _spellings,
    "dtypes": lambda: list(CASTS),
    "actions": lambda: [*_schemes(), *CASTS, "keep"],
    "programs": lambda: list(programs()),
    "devices": lambda: ["cpu", "auto", "cuda", "cuda:0"],
    "nunchaku models": _models,
    "source types": lambda: [*STORED_AS, *catalog.families()],
    "source formats": lambda: [*STORED_AS, *dict.fromkeys([*_spellings(), *catalog.conventions()])],
    "target formats": lambda: list(dict.fromkeys([*_spellings(), *catalog.conventions()])),
    "precisions": lambda: [*_schemes(), *spellings(CASTS)],
    "scheme options": list,
}
"""Each is asked when it is needed, and not before."""

_PATTERNS: dict[str, Callable[[], str]] = {
    "actions": lambda: f"^(keep|({'|'.join(_schemes())})(:.*)?|{'|'.join(spellings(CASTS))})$",
    # A configuration of another machine may name what is not here.
    "devices": lambda: r"^(cpu|auto|cuda|cuda:\d+(,cuda:\d+)*|(npu|xpu|mps|mlu|musa|hpu|dcu)(:\d+)?)$",
}
"""Where values only begin with a name."""

_ANY = frozenset({"components", "dtypes", "scheme options"})
"""What the kind of the option describes itself, or the schemes do; or what files may name otherwise."""


def names(table: str) -> list[str]:
    """The names of a table."""
    return TABLES[table]()


def schema(table: str) -> dict[str, Any]:
    """JSON Schema of the texts that a table allows."""
    if table in _ANY:
        return {}
    if table in _PATTERNS:
        return {"pattern": _PATTERNS[table]()}
    return {"enum": names(table)}
