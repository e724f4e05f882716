"""LoRAs of stacks of matrices, against a loop over them in float64."""

import numpy as np
import pytest

from transcode.core.context import Context
from transcode.stages.lora.stacked import Stacked

from .arrays import FILE, lazy, merged, near, rand, spec

COUNT, OUTPUTS, INPUTS, RANK = 3, 5, 4, 2
UP, DOWN = rand(OUTPUTS, RANK * COUNT, seed=1), rand(COUNT * RANK, INPUTS, seed=2)


def delta(turned=None):
    return Stacked(FILE, lazy(UP), lazy(DOWN), RANK, turned)


@pytest.mark.parametrize("rows", [0, 1, 4])
@pytest.mark.parametrize("turned", [False, True])
def test_each_matrix_has_its_own_product(turned, rows):
    # PEFT: weight_A.reshape(count, rank, I), weight_B.reshape(O, rank, count)
    ups, downs = UP.reshape(OUTPUTS, RANK, COUNT).astype(float), DOWN.reshape(COUNT, RANK, INPUTS)
    wanted = np.einsum("ore,eri->eoi", ups, downs)
    if turned:
        wanted = wanted.swapaxes(1, 2)
    weight = rand(wanted.shape[0] * wanted.shape[1], wanted.shape[2], seed=3)  # one below the other
    stacked = delta().turn(turned)
    assert (stacked.count, stacked.shape, stacked.disagree()) == (COUNT, wanted.shape, None)
    near(merged(weight, stacked, scale=0.5, rows=rows), weight + 0.5 * wanted.reshape(weight.shape), weight)


def test_the_shape_tells_which_way_matrices_lie():
    assert delta().turns(spec(COUNT, OUTPUTS, INPUTS)) is False
    assert delta().turns(spec(COUNT, INPUTS, OUTPUTS)) is True
    assert delta().turns(spec(COUNT, 7, 7)) is None
    square = Stacked(FILE, lazy(rand(4, RANK * COUNT)), lazy(rand(COUNT * RANK, 4)), RANK)
    assert square.turns(spec(COUNT, 4, 4)) is None
    assert square.refuses(spec(COUNT, 4, 4)) is None
    assert "do not make" in delta().refuses(spec(COUNT + 1, OUTPUTS, INPUTS))


def test_a_rank_that_does_not_divide_is_refused():
    assert "no factors of a stack" in Stacked(FILE, lazy(UP), lazy(DOWN), 4).disagree()


def test_picked_rows_and_columns():
    pair = delta(True)._pair(1)
    np.testing.assert_array_equal(pair.up.matrix(0, INPUTS, Context()), DOWN[RANK : 2 * RANK].T)
    np.testing.assert_array_equal(pair.down.matrix(0, RANK, Context()), UP[:, 1::COUNT].T)
    assert pair.up.spec.shape == (INPUTS, RANK)
