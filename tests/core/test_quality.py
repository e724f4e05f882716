"""Losses: decibels by their definition, and sums over tiles in any order."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.core.quality import Loss, Quality, total


def loss(x: np.ndarray, y: np.ndarray, worse: np.ndarray | None = None) -> Loss:
    return Loss(
        float((x**2).sum()),
        float(((x - y) ** 2).sum()),
        None if worse is None else float(((x - worse) ** 2).sum()),
        float(np.abs(x - y).max()),
    )


def test_decibels_by_definition():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1000)
    y = x + rng.standard_normal(1000) * 0.01
    one = loss(x, y, x + 2 * (y - x))
    snr = 10 * np.log10(np.mean(x**2) / np.mean((x - y) ** 2))
    assert one.decibels == pytest.approx(snr, rel=1e-12)
    assert one.gain == pytest.approx(20 * np.log10(2), rel=1e-12)
    assert one.to_json() == {
        "sqnr_db": one.decibels, "largest_error": np.abs(x - y).max(), "search_gain_db": one.gain,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "decibels", "gain"),
    [
        (Loss(1.0, 0.01, None, 0.1), 20.0, None),
        (Loss(100.0, 1.0, 10.0, 0.1), 20.0, 10.0),
        (Loss(1.0, 0.0, None, 0.0), None, None),  # nothing was lost
        (Loss(1.0, 0.0, 1.0, 0.0), None, None),
        (Loss(0.0, 1.0, None, 1.0), None, None),  # there was nothing
        (Loss(1.0, 2.0, 1.0, 1.0), pytest.approx(-3.0103, abs=1e-4), pytest.approx(-3.0103, abs=1e-4)),
    ],
)
def test_worked_figures(one, decibels, gain):
    assert one.decibels == decibels
    assert one.gain == gain
    assert ("search_gain_db" in one.to_json()) == (one.plain is not None)


def test_of_none_there_is_none():
    assert total([]) is None
    assert Quality().total() is None


def test_a_total_is_the_loss_of_all_values_together():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((6, 500)) * np.logspace(-3, 3, 6)[:, None]
    y = x + rng.standard_normal(x.shape) * 0.01
    joined = total([loss(a, b) for a, b in zip(x, y, strict=True)])
    whole = loss(x, y)
    assert joined is not None
    assert joined.signal == pytest.approx(whole.signal, rel=1e-12)
    assert joined.noise == pytest.approx(whole.noise, rel=1e-12)
    assert joined.largest == whole.largest
    assert joined.plain is None


def test_searched_and_plain_losses_may_be_mixed():
    """Where nothing was searched, the plain scales are those that were used."""
    joined = total([Loss(4.0, 1.0, 3.0, 0.5), Loss(6.0, 2.0, None, 0.25)])
    assert joined == Loss(10.0, 3.0, 5.0, 0.5)


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=30), st.randoms())
def test_the_order_of_tiles_changes_no_bit(noises, shuffle: random.Random):
    losses = [Loss(noise * 3, noise, noise * 2, noise) for noise in noises]
    tiles = list(enumerate(losses))
    first = Quality()
    for start, one in tiles:
        first.add(start, one)
    shuffle.shuffle(tiles)
    second = Quality()
    for start, one in tiles:
        second.add(start, one)
    assert first.total() == second.total()


def test_a_tile_that_is_read_again_counts_once():
    quality = Quality()
    quality.add(0, Loss(1.0, 9.0, None, 9.0))
    quality.add(8, Loss(1.0, 0.5, None, 0.25))
    quality.add(0, Loss(1.0, 0.5, None, 0.5))
    assert quality.total() == Loss(2.0, 1.0, None, 0.5)


def test_many_workers():
    quality = Quality()

    def work(first: int) -> None:
        for start in range(first, 4000, 8):
            quality.add(start, Loss(1.0, 0.5, None, float(start)))

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert quality.total() == Loss(4000.0, 2000.0, None, 3999.0)
