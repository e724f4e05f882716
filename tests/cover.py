"""Products of which a cover is run, and the whole with ``pytest --all``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["ring", "whole_products"]


def whole_products() -> bool:
    """Whether ``--all`` was said: ``conftest.py`` puts it here, where functions that are no tests can ask."""
    return "TESTS_WHOLE_PRODUCTS" in os.environ


def ring(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """All pairs as parameters, those marked ``whole`` that are not of the ring: the one of number ``i`` among
    the first with that of number ``i`` among the second, the shorter one over and over. Each value occurs.
    """
    pairs = []
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            whole = i % len(second) != j if len(first) >= len(second) else j % len(first) != i
            pairs.append(pytest.param(one, other, marks=[pytest.mark.whole] if whole else []))
    return pairs
