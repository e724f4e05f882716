"""OFT and BOFT of inputs, as PEFT has them, against numpy in float64."""

import numpy as np
import pytest

from transcode.stages.lora.turned_inputs import InputBlocks, InputButterflies

from .arrays import FILE, lazy, merged, near, rand, spec


def skews(packed, size):
    above = np.triu_indices(size, 1)
    skew = np.zeros((len(packed), size, size))
    skew[:, above[0], above[1]] = packed
    return skew - skew.swapaxes(1, 2)


def cayley(skew):
    one = np.eye(skew.shape[-1])
    return (one + skew) @ np.linalg.inv(one - skew)


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("shared", [False, True])
def test_blocks(shared, rows):
    """``peft/tuners/oft/layer.py``: Cayley's transform of -Q, and inputs times its transpose."""
    weight, packed = rand(9, 12, seed=1), 0.3 * rand(1 if shared else 3, 6, seed=2)
    delta = InputBlocks(FILE, lazy(packed), None, None)
    assert delta.shape == (len(packed), 4)
    turns = cayley(-skews(packed, 4))
    wanted = np.concatenate(
        [weight[:, 4 * n : 4 * n + 4] @ turns[n % len(turns)].T for n in range(3)], axis=1
    )
    near(merged(weight, delta, rows=rows), wanted, weight)


def test_the_series_comes_near_the_transform():
    """``I + 2Q + 2Q^2 + ...`` is Cayley's transform where Q is small."""
    weight, packed = rand(9, 12, seed=1), 0.01 * rand(3, 6, seed=2)
    skew = skews(packed, 4)
    got = merged(weight, InputBlocks(FILE, lazy(packed), 8, None))
    turns = cayley(skew)
    wanted = np.concatenate([weight[:, 4 * n : 4 * n + 4] @ turns[n].T for n in range(3)], axis=1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert not np.allclose(got, weight, atol=1e-3)


def test_a_limit_holds_each_block():
    weight, packed = rand(9, 12, seed=1), rand(3, 6, seed=2)
    skew = skews(packed, 4)
    skew *= (0.1 / np.linalg.norm(skew, axis=(1, 2)))[:, None, None]
    turns = cayley(-skew)
    wanted = np.concatenate([weight[:, 4 * n : 4 * n + 4] @ turns[n].T for n in range(3)], axis=1)
    near(merged(weight, InputBlocks(FILE, lazy(packed), None, 0.1)), wanted, weight)


def test_blocks_are_refused_where_they_turn_other_inputs():
    delta = InputBlocks(FILE, lazy(rand(3, 6)), None, None)
    assert delta.refuses(spec(5, 12)) is None
    assert delta.refuses(spec(5, 3, 2, 2)) is None
    assert "turns other inputs" in delta.refuses(spec(5, 16))
    assert InputBlocks(FILE, lazy(rand(3, 5)), None, None).size == 0


@pytest.mark.parametrize("rows", [0, 4])
def test_butterflies_of_one_stage(rows):
    """``peft/tuners/boft/layer.py``: Cayley's transform of ``(B.T - B) / 2``, outputs times a factor."""
    weight, blocks, scales = rand(9, 12, seed=1), rand(1, 3, 4, 4, seed=2), rand(9, 1, seed=3) + 2
    delta = InputButterflies(FILE, lazy(blocks), lazy(scales))
    turns = cayley(0.5 * (blocks[0].swapaxes(1, 2).astype(float) - blocks[0]))
    wanted = np.concatenate([weight[:, 4 * n : 4 * n + 4] @ turns[n].T for n in range(3)], axis=1)
    near(merged(weight, delta, rows=rows), wanted * scales, weight)
    assert delta.shape == (12,)
    assert delta.refuses(spec(9, 12)) is None
    assert "turns 12 inputs" in delta.refuses(spec(9, 11))
