"""Rows that lie elsewhere, tensors and rows that are replaced."""

import numpy as np
import pytest

from transcode.stages.lora.delta import Difference, LowRank
from transcode.stages.lora.places import Moved, Placed, Tokens, Whole, adds, by_rows
from transcode.stages.lora.rows import Scaled
from transcode.stages.lora.spellings import Move

from .arrays import FILE, lazy, merged, near, rand, spec

W = rand(30, 6, seed=1)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_rows_of_a_change_lie_elsewhere(rows):
    up, down = rand(10, 2, seed=2), rand(2, 6, seed=3)
    product, values = up.astype(float) @ down, rand(8, 6, seed=4)
    wanted = W.astype(float)
    wanted[20:24] += 0.5 * product[0:4]
    wanted[3:9] += 0.5 * product[4:10]
    wanted[12:15] += 0.5 * values[5:8]
    delta = Placed(
        (
            Moved(LowRank(FILE, lazy(up), lazy(down)), (Move(4, 3, 6), Move(0, 20, 4))),
            Moved(Difference(FILE, lazy(values)), (Move(5, 12, 3),)),
        ),
        W.shape,
    )
    got = merged(W, delta, scale=0.5, rows=rows)
    near(got, wanted, W)
    untouched = [*range(3), 9, 10, 11, *range(15, 20), *range(24, 30)]
    np.testing.assert_array_equal(got[untouched], W[untouched])
    assert delta.refuses(spec(30, 6)) is None
    assert "do not lie in" in delta.refuses(spec(31, 6))


def test_a_whole_tensor_takes_the_place():
    values = rand(30, 6, seed=2)
    np.testing.assert_array_equal(merged(W, Whole(FILE, lazy(values)), rows=4), values)
    near(merged(W, Whole(FILE, lazy(values)), scale=0.25), 0.25 * values.astype(float) + 0.75 * W, W)
    assert "does not take the place" in Whole(FILE, lazy(values)).refuses(spec(6, 30))


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_tokens_take_the_places_of_their_rows(rows):
    values = rand(3, 6, seed=2)
    wanted = W.copy()
    wanted[[17, 2, 29]] = values
    delta = Tokens(FILE, lazy(values), (17, 2, 29))
    np.testing.assert_array_equal(merged(W, delta, rows=rows), wanted)
    assert delta.refuses(spec(30, 6)) is None
    assert "there is no row 29" in delta.refuses(spec(29, 6))
    assert "are none of" in delta.refuses(spec(30, 7))


def test_what_only_adds_and_what_lies_by_rows():
    difference, whole = Difference(FILE, lazy(W)), Whole(FILE, lazy(W))
    scaled = Scaled(FILE, lazy(rand(30)), False, 0.0)
    assert [adds(one) for one in (difference, whole, scaled)] == [True, False, False]
    spec = difference.values.spec
    assert all(by_rows(one, spec) for one in (difference, whole, scaled))
    assert not by_rows(Tokens(FILE, lazy(W), (0,)), spec)
