"""Golden names of published models, see fixtures/families/README.md; and a user's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

FAMILIES = Path(__file__).parents[2] / "fixtures" / "families"
_RUN = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Golden:
    """One model: which family and spelling it is of, its names and shapes, what is quantized of it."""

    family: str
    spelling: str
    shapes: dict[str, tuple[int, ...]]
    quantized: frozenset[str]


@cache
def _read(stem: str) -> Golden:
    data = json.loads((FAMILIES / f"{stem}.json").read_text())
    facts: dict[str, Any] = {}
    for name, fact in data["tensors"].items():
        run = _RUN.search(name)
        if run is None:
            facts[name] = fact
            continue
        for number in range(int(run[1]), int(run[2]) + 1):
            facts[f"{name[: run.start()]}{number}{name[run.end() :]}"] = fact
    assert len(facts) == data["count"]
    return Golden(
        data["family"],
        data["spelling"],
        {name: tuple(fact["shape"]) for name, fact in facts.items()},
        frozenset(name for name, fact in facts.items() if fact["quantize"]),
    )


_STEMS = sorted(path.stem for path in FAMILIES.glob("*.json") if path.stem != "strangers")


@pytest.fixture(params=_STEMS)
def golden(request: pytest.FixtureRequest) -> Golden:
    """Each published model in turn."""
    return _read(request.param)


@pytest.fixture(scope="session")
def read_golden() -> Callable[[str], Golden]:
    """A published model by the stem of its file."""
    return _read


@pytest.fixture(scope="session")
def goldens() -> list[Golden]:
    """All published models."""
    return [_read(stem) for stem in _STEMS]


@pytest.fixture
def own_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder, searched first."""
    folder = tmp_path / "formats"
    (folder / "families").mkdir(parents=True)
    (folder / "conventions").mkdir()
    monkeypatch.setenv("TRANSCODE_FORMATS", str(folder))
    return folder


_CONVENTION = """\
convention: mine
title: my runtime
parts:
  codes: "{stem}.qweight"
  scale: {name: "{stem}.scales", shape: [1]}
schemes:
  int8:
    options: {granularity: channel}
    reads: {granularity: [channel, tensor]}
    markers:
      - {name: "{stem}.kind", json: {format: int8, sign: true}}
      - {name: scaled, dtype: F8_E4M3, zeros: [2]}
    rows: 16
files:
  chunk: "{stem}.{j}.safetensors"
metadata: {made: "1"}
"""


@pytest.fixture(scope="session")
def own_convention() -> str:
    """The file of a user's own convention, ``mine.yaml``."""
    return _CONVENTION
