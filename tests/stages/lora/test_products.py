"""Products of Hadamard and of Kronecker, against numpy in float64."""

import numpy as np
import pytest

from transcode.stages.lora.delta import LowRank
from transcode.stages.lora.products import Hadamard, Kronecker

from .arrays import FILE, lazy, merged, near, rand, spec


def pair(rows: int, rank: int, columns: int, seed: int):
    up, down = rand(rows, rank, seed=seed), rand(rank, columns, seed=seed + 1)
    return LowRank(FILE, lazy(up), lazy(down)), up.astype(float) @ down


@pytest.mark.parametrize("rows", [0, 3])
def test_hadamard(rows):
    weight = rand(20, 12, seed=1)
    (one, left), (other, right) = pair(20, 3, 12, 2), pair(20, 3, 12, 4)
    delta = Hadamard(one, other)
    assert (delta.rank, delta.shape, delta.disagree()) == (3, (20, 12), None)
    near(merged(weight, delta, scale=0.25, rows=rows), weight + 0.25 * left * right, weight)


def test_hadamard_of_two_shapes():
    (one, _), (other, _) = pair(20, 3, 12, 2), pair(20, 3, 11, 4)
    assert Hadamard(one, other).disagree() == "makes (20, 12), the other side (20, 11)"


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("factored", [(), (1,), (2,), (1, 2)])
def test_kronecker(factored, rows):
    weight = rand(15, 8, seed=1)
    w1, w2 = rand(3, 2, seed=2), rand(5, 4, seed=3)
    one, two = lazy(w1), lazy(w2)
    rank = None
    if 1 in factored:
        one, w1 = pair(3, 2, 2, 4)
        rank = 2
    if 2 in factored:
        two, w2 = pair(5, 3, 4, 6)
        rank = 3
    delta = Kronecker(FILE, one, two)
    assert (delta.rank, delta.shape, delta.disagree()) == (rank, (15, 8), None)
    near(merged(weight, delta, scale=0.5, rows=rows), weight + 0.5 * np.kron(w1.astype(float), w2), weight)


def test_kronecker_of_a_kernel():
    weight = rand(6, 4, 3, 3, seed=1)
    w1, w2 = rand(2, 2, seed=2), rand(3, 2, 3, 3, seed=3)
    wanted = np.kron(w1[..., None, None].astype(float), w2)
    near(merged(weight, Kronecker(FILE, lazy(w1), lazy(w2))), weight + wanted, weight)


def test_shapes_that_they_are_for():
    delta = Kronecker(FILE, lazy(rand(2, 2)), lazy(rand(3, 18)))
    assert delta.refuses(spec(6, 36)) is None
    assert delta.refuses(spec(6, 4, 3, 3)) is None  # flattened into its columns
    assert "does not fit" in delta.refuses(spec(6, 4, 3, 2))
    assert "no sides" in Kronecker(FILE, lazy(rand(2)), lazy(rand(3, 3))).disagree()
