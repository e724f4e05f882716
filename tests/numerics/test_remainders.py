"""Remainders are those in float64, but for what is said of them, with the instructions of each processor."""

import numpy as np
import pytest

from transcode.core.scratch import Scratch
from transcode.numerics import remainders
from transcode.numerics.jit import kernel
from transcode.numerics.remainders import NOISE, REACH, VALUES, put_pairs, remainders32
from transcode.numerics.vectors import columns32, numbers32, put32

F = np.float32


@kernel
def with_neighbours(values, factor, most, pairs, shares, masks, out):
    for j in range(0, values.shape[0], 32):
        even, odd = columns32(values, j)
        masks[j // 32] = put_pairs(even, odd, factor, most, pairs, j // 2)
    put32(out, 0, remainders32(pairs, values.shape[0] // 2, numbers32(shares, 0)))


@kernel
def without(values, factor, most, pairs, shares, masks, out):
    for j in range(0, values.shape[0], 32):
        even, odd = columns32(values, j)
        masks[j // 32] = put_pairs(even, odd, factor, most, pairs, j // 2)
    put32(out, 0, remainders32(pairs, values.shape[0] // 2, numbers32(shares, 0)))


def run(work, values, peak, most, shares):
    masks, out = np.zeros(len(values) // 32, np.uint32), np.full(32, np.nan, F)
    pairs = Scratch().take((len(values) // 2,), F)
    work(values.view(np.uint32), VALUES / F(peak), np.uint32(most), pairs, shares, masks, out)
    return np.unpackbits(masks.view(np.uint8), bitorder="little").astype(bool), out


@pytest.mark.parametrize("work", [with_neighbours, without], ids=lambda work: work.__name__)
@pytest.mark.parametrize("size", [32, 128, 2048])
@pytest.mark.parametrize("kind", ["any", "halves"])
def test_remainders_are_close(work, size, kind, monkeypatch):
    if work is without:
        monkeypatch.setattr(remainders, "_PAIRWISE", ())
    rng = np.random.default_rng(size)
    shares = np.linspace(7, REACH - F(0.01), 32, dtype=F)
    for peak in (1, 3e-12, 7.7e30):
        values = (rng.uniform(-1, 1, size) * peak).astype(F)
        if kind == "halves":  # the largest remainders there are: sums must hold them all
            values = (rng.integers(-7, 7, size) + 0.5).astype(F) / shares[0] * F(peak)
        exact = np.abs(values.astype(np.float64)) / peak * shares[:, None]
        apart = np.abs(exact - np.rint(exact))
        large, sums = run(work, values, peak, 52428, shares)
        np.testing.assert_array_equal(large, np.rint(np.abs(values) * (VALUES / F(peak))) > 52428)
        true = (apart[:, ~large] ** 2).sum(1)
        assert (np.abs(np.sqrt(sums) - np.sqrt(true)) <= NOISE * np.sqrt(size)).all()
        if kind == "halves":
            assert sums[0] > 0.24 * (~large).sum()
