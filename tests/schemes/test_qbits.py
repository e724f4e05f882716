"""qbits equals torch's own steps, and loses what a line of least squares may lose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from transcode.codecs.strips import shared
from transcode.schemes import make

from .helpers import decode, encode, spec_of

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@pytest.mark.parametrize("kept", TORCH)
@pytest.mark.parametrize(("bits", "columns"), [(4, 256), (2, 192), (4, 72)])
def test_each_step_is_rounded_as_torch_does(bits: int, columns: int, kept: str) -> None:
    values = np.random.default_rng(bits).standard_normal((6, columns)).astype(np.float32) + np.float32(0.7)
    scheme: Any = make("qbits", bits=bits, scale_dtype=kept)
    parts = encode(scheme, values)
    size = {256: 128, 192: 96, 72: 72}[columns]
    stream = np.unpackbits(parts["codes"], bitorder="little").reshape(-1, bits)
    codes = torch.from_numpy(stream @ 2 ** np.arange(bits)).reshape(-1, size).to(torch.uint8)
    carrier = torch.float32 if kept == "F32" else torch.int16
    scale, shift = (
        torch.from_numpy(parts[role].view(np.float32 if kept == "F32" else np.int16)).to(carrier)
        .view(TORCH[kept]).reshape(-1, 1)
        for role in ("scale", "shift")
    )  # fmt: skip
    wanted = scale * codes
    assert wanted.dtype == TORCH[kept]
    wanted -= shift
    out = decode(scheme, parts, spec_of(values))
    assert np.array_equal(out, wanted.float().numpy().reshape(values.shape))
    lost = np.square(out - values).sum() / np.square(values).sum()
    assert lost < (0.012 if bits == 4 else 0.11)


def test_how_many_columns_share_a_scale() -> None:
    """As ``weight_group_size`` of quanto's modules, whose None is a whole row."""
    told = {64: 64, 128: 128, 136: 136, 160: 32, 192: 96, 256: 128, 320: 64, 288: 96, 1032: 1032}
    assert {columns: shared(columns) for columns in told} == told
