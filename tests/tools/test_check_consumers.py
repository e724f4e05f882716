"""The table of consumers' own decoders says what they decode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import check_consumers
import pytest


def test_a_consumer_that_decodes_otherwise_is_told(tmp_path: Path) -> None:
    pytest.importorskip("comfy_kitchen")
    case = next(one for one in check_consumers.CASES if (one.convention, one.scheme) == ("comfyui", "int8"))
    told, lost = check_consumers.checked(case, tmp_path)
    assert told == "bits (float32)"
    assert 40 < lost < 44
    (tmp_path / "other").mkdir()
    other = replace(case, decode=lambda stored, file: 1.5 * case.decode(stored, file))
    told, lost = check_consumers.checked(other, tmp_path / "other")
    assert told.startswith("5.0e-01")
    assert 5 < lost < 7
