"""The table of what each scheme loses."""

from __future__ import annotations

import numpy as np
import pytest
import sqnr
import torch

from transcode import schemes
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec


def test_int8_against_torch() -> None:
    rows = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    scale = rows.abs().amax(1, keepdim=True) / 127
    decoded = torch.round(rows / scale) * scale
    noise = ((rows.double() - decoded.double()) ** 2).sum()
    expected = 10 * torch.log10((rows.double() ** 2).sum() / noise)
    found = sqnr.sqnr(schemes.make("int8"), [(Spec(DTYPES["F32"], (64, 256)), rows.numpy())])
    assert found == pytest.approx(float(expected), abs=1e-3)


def test_every_variant_is_made_and_measured() -> None:
    rows = np.random.default_rng(3).standard_normal((128, 128), np.float32)
    for name, options in sqnr.VARIANTS:
        found = sqnr.sqnr(schemes.make(name, **options), [(Spec(DTYPES["F32"], rows.shape), rows)])
        assert 15 < found < 60, (name, options)
