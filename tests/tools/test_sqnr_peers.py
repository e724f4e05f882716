"""The table of what each format loses here and by its owners' encoders."""

from __future__ import annotations

import numpy as np
import pytest
import sqnr_peers as peers
import torch

from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec


def gaussian(rows: int, columns: int) -> tuple[Spec, np.ndarray]:
    values = np.random.default_rng(5).standard_normal((rows, columns), np.float32)
    return Spec(DTYPES["F32"], values.shape), values


def coarse(x: torch.Tensor) -> torch.Tensor:
    """int8 with twice the step that it needs: 6 dB more noise."""
    scale = x.abs().amax(1, keepdim=True) / 63.5
    return torch.round(x / scale) * scale


def absent(x: torch.Tensor) -> torch.Tensor:
    raise ImportError("no such thing", name="thing")


def test_a_row_to_each_encoder_and_missing_ones_by_name() -> None:
    line = peers.Line("int8", theirs=(("coarse", coarse), ("nobody", absent)))
    rows, missing = peers.measured(line, [[gaussian(32, 256)], [], [gaussian(32, 512)]])
    ours, theirs = rows
    assert (ours.by, theirs.by, missing) == ("transcode", "coarse", ["nobody (thing)"])
    assert ours.bits == pytest.approx(8 + 32 / 384, abs=0.01)
    assert ours.db[1] is theirs.db[1] is None
    assert ours.db[0] - theirs.db[0] == pytest.approx(6.02, abs=0.1)
    assert peers.behind(rows) == []
    better = peers.Row("int8", "coarse", None, (99.0, None, 1.0))
    assert peers.behind([ours, better]) == [f"int8: coarse 99.00 dB, transcode {ours.db[0]:.2f} dB"]
    assert list(peers.printed(rows))[1].startswith("|  | coarse |  | ")


@pytest.mark.parametrize(("scheme", "by"), [("mxfp8", "comfy-kitchen"), ("nvfp4", "comfy-kitchen")])
def test_encoders_of_others_are_their_own(scheme: str, by: str) -> None:
    pytest.importorskip("comfy_kitchen")
    line = next(one for one in peers.LINES if one.scheme == scheme)
    found = [gaussian(16, 256)]
    theirs = peers.loss(dict(line.theirs)[by], found)
    assert theirs == pytest.approx(peers.sqnr(peers.schemes.make(scheme), found), abs=0.1)
