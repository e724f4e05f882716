"""Codes by comparing mantissas against the quotient in float32, rounded by ml_dtypes: all values of BF16."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.numerics import floats, mantissas
from transcode.numerics.floats import scaled, scaled_under
from transcode.numerics.jit import Kernel
from transcode.numerics.minifloat import FORMATS

F = np.float32
KINDS = {"e4m3fn": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}


def scales():
    """Those that put quotients halfway between two codes, those beside them, and any."""
    halfway = [F(m) / F(step) for m in (129, 200, 255) for step in (17, 19, 31, 9, 13)]
    beside = [np.nextafter(scale, F(side)) for scale in halfway for side in (0, 100)]
    return [*halfway, *beside, F(0.37), F(1), F(2.0**-50), F(3e4)]


@pytest.mark.parametrize("registers", [(), (("", 32),), None], ids=["none", "wide", "own"])
def test_every_word(registers, monkeypatch):
    if registers is not None:
        wide = ((feature, width) for feature in ("+sse2", "+neon", "+64bit") for _, width in registers)
        monkeypatch.setattr(mantissas, "_REGISTERS", tuple(wide))
        # Not from the folder of kernels, where the one for this machine is.
        monkeypatch.setattr("transcode.numerics.jit.kept", lambda *_: None)
        monkeypatch.setattr("transcode.numerics.jit.keep", lambda *_: None)
        monkeypatch.setattr(floats, "scaled_under", Kernel(scaled_under.function))
    for kind, dtype in KINDS.items():
        form = FORMATS[kind]
        top = F(form.max)
        words = np.arange(1 << 16, dtype=np.uint16)
        values = words.view(ml_dtypes.bfloat16).astype(F)
        for scale in scales():
            fits = np.abs(values) <= scale * top  # no scale of a tensor is smaller; nor is that NaN
            row = np.ascontiguousarray(words[fits])[None]
            row.setflags(write=False)
            codes, out = np.empty(row.shape, np.uint8), np.empty((1, 1), F)
            assert scaled(
                row, 1, row.shape[1], 0, scale,
                top, form.normal_bits, form.mantissa_shift, form.magic, codes, out,
            )  # fmt: skip
            wanted = np.clip(values[fits] / scale, -top, top).astype(dtype).view(np.uint8)
            np.testing.assert_array_equal(codes[0], wanted)
