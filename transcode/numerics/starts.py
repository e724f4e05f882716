"""Where the search of a scale and an offset begins, and how often a line is fitted to the codes."""

from __future__ import annotations

import numpy as np

__all__ = ["PHASES", "ROUNDS", "SEARCHED", "SHARES", "TINY"]

TINY = np.float32(2.0**-100)
"""A step below which nothing is fitted: squares of such values have no place in float32."""

ROUNDS = (4, 6)
"""How often a line is fitted: without a search, and from each beginning of one."""

_STARTS = tuple((share, phase) for share in (1, 1.08, 0.92) for phase in (0, 1 / 3, 2 / 3))

SEARCHED = len(_STARTS)
"""How often a search begins."""

SHARES, PHASES = (np.array(one, np.float32) for one in zip(*_STARTS, strict=True))
"""Where: shares of the range, each with the first level moved by that part of a step, float32 ``[9]``. The
first is the whole range as it is, where everything begins that is not searched.
"""
