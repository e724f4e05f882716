"""The levels and errors of W6A8 are those of all 63 levels tried, in numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from transcode.numerics.grouped6 import level6, lost6
from transcode.numerics.jit import kernel
from transcode.numerics.vectors import get16, put16

F = np.float32
LEVELS = np.arange(-31, 32, dtype=F)


@kernel
def judge(lines, size, scales, sums, errors, levels):
    scale = get16(scales, 0)
    inverse = np.float32(1) / scale
    put16(errors, 0, lost6(lines, size, scale, sums))
    for at in range(0, 16 * size, 16):
        put16(levels, at, level6(get16(lines, at), scale, inverse, True))
        put16(levels, 16 * size + at, level6(get16(lines, at), scale, inverse, False))


def test_no_level_is_nearer():
    random = np.random.default_rng(0)
    scales = np.arange(1, 127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(F)
    for start in range(0, 112, 16):
        scale = scales[start : start + 16]
        integers = np.clip(np.rint(LEVELS[:, None] * scale), -127, 127)
        halves = random.integers(-280, 280, (32, 16)) / 2  # where two integers are as near as each other
        smooth = random.uniform(-1, 1, (32, 16)) * np.minimum(33 * scale, 140)
        t = np.concatenate([halves, smooth]).astype(F)
        errors, levels = np.empty(16, F), np.empty((2, 64, 16), F)
        judge(t.reshape(-1), 64, scale, np.empty(128, F), errors, levels.reshape(-1))
        gap = np.abs(integers[:, None] - t)
        least = gap.min(0)
        for fine, found in zip((True, False), levels, strict=True):
            here = slice(None) if fine else scale >= 1
            chosen = np.take_along_axis(gap, (found + 31).astype(int)[None], 0)[0]
            np.testing.assert_array_equal(chosen[:, here], least[:, here])
        squares = (least[0::2] ** 2 + least[1::2] ** 2).reshape(-1, 8, 16)
        total = np.zeros(16, F)
        for part in squares:
            while len(part) > 1:
                part = part[: len(part) // 2] + part[len(part) // 2 :]
            total += part[0]
        np.testing.assert_array_equal(errors, total)
