"""OFT and BOFT of outputs, against numpy in float64."""

import numpy as np
import pytest

from transcode.stages.lora.turns import Butterflies, OutputBlocks, constrained, towards

from .arrays import FILE, lazy, merged, near, rand, spec


def rotations(blocks, limit=0.0):
    """Cayley's transforms of ``B - B.T``, whose norm is at most the limit, if there is one."""
    skew = blocks.astype(float) - blocks.swapaxes(-1, -2)
    norm = np.linalg.norm(skew) + 1e-8
    if 0 < limit < norm:
        skew = skew * (limit / norm)
    one = np.eye(blocks.shape[-1])
    return (one + skew) @ np.linalg.inv(one - skew)


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("constraint", [0.0, 0.01])
def test_blocks_of_several_parts(constraint, strength, rows):
    weight, rescale = rand(18, 7, seed=1), np.abs(rand(18, 1, seed=2)) + 0.5
    parts = 0.5 * rand(3, 4, 4, seed=3), 0.5 * rand(2, 3, 3, seed=4)
    delta = OutputBlocks(FILE, tuple(map(lazy, parts)), lazy(rescale), constraint)
    assert delta.shape == (18,)
    wanted, first = [], 0
    for part in parts:
        count, size, _ = part.shape
        for turn in rotations(part, constraint * count * size):
            turn = strength * turn + (1 - strength) * np.eye(size)
            wanted.append(turn.T @ weight[first : first + size])
            first += size
    near(merged(weight, delta, scale=strength, rows=rows), np.concatenate(wanted) * rescale, weight)


def test_blocks_are_refused_where_they_turn_other_rows():
    delta = OutputBlocks(FILE, (lazy(rand(3, 4, 4)),), None, 0.0)
    assert delta.refuses(spec(12, 5)) is None
    assert "turn 12 outputs" in delta.refuses(spec(11, 5))
    assert "has not one value" in OutputBlocks(FILE, delta.blocks, lazy(rand(11)), 0.0).refuses(spec(12, 5))
    assert delta.span(5) == (4, 8)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("stages", [1, 2])
def test_butterflies(stages, rows):
    """``lycoris/functional/boft.py``: in each stage rows ``half`` apart meet in a block, and go back."""
    weight, blocks = rand(16, 5, seed=1), 0.5 * rand(stages, 4, 4, 4, seed=2)
    wanted = weight.astype(float)
    for stage, turns in enumerate(rotations(blocks)):
        half = 2**stage * 2
        order = np.arange(16).reshape(-1, 2, half).swapaxes(1, 2).reshape(-1)
        met = np.concatenate([turns[n] @ wanted[order][4 * n : 4 * n + 4] for n in range(4)])
        wanted[order] = met
    delta = Butterflies(FILE, lazy(blocks), None, 0.0)
    near(merged(weight, delta, rows=rows), wanted, weight)
    assert delta.refuses(spec(16, 5)) is None


def test_butterflies_turn_and_keep_lengths():
    weight, blocks = rand(16, 5, seed=1), 0.5 * rand(2, 4, 4, 4, seed=2)
    delta = Butterflies(FILE, lazy(blocks), None, 0.0)
    got = merged(weight, delta)
    np.testing.assert_allclose(np.linalg.norm(got, axis=0), np.linalg.norm(weight, axis=0), rtol=1e-5)
    assert not np.allclose(got, weight, atol=0.1)
    assert delta.span(9) == (8, 16)
    assert "make no butterflies" in Butterflies(FILE, lazy(rand(4, 4, 4, 4)), None, 0.0).refuses(spec(16, 5))


def test_norms_are_held():
    skew = rand(2, 3, 3, seed=1).astype(float)
    skew -= skew.swapaxes(1, 2)
    assert np.linalg.norm(constrained(skew, 0.5, 0)) == pytest.approx(0.5)
    np.testing.assert_array_equal(constrained(skew, 1e9, 0), skew)
    np.testing.assert_array_equal(constrained(skew, 0, 0), skew)
    np.testing.assert_allclose(towards(skew, 0.25), 0.25 * skew + 0.75 * np.eye(3))
