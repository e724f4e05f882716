"""What is added to rows: products of low rank, with a core, stored either way; differences."""

import numpy as np
import pytest

from transcode.core.context import Context
from transcode.errors import DataError
from transcode.stages.lora.delta import Difference, LowRank, bare, elements, load_all

from .arrays import FILE, lazy, merged, near, rand, spec

W = rand(37, 24, seed=1)


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("turned", [False, True])
def test_a_product(turned, rows):
    up, down = rand(37, 5, seed=2), rand(5, 24, seed=3)
    delta = LowRank(FILE, lazy(up.T if turned else up), lazy(down), turned=turned)
    assert (delta.rank, delta.shape, delta.disagree()) == (5, (37, 24), None)
    near(merged(W, delta, scale=0.5, rows=rows), W + 0.5 * (up.astype(float) @ down), W)


def test_a_core():
    kernel = rand(6, 8, 3, 2, seed=1)
    up, mid, down = rand(6, 4, 1, 1, seed=2), rand(4, 4, 3, 2, seed=3), rand(4, 8, 1, 1, seed=4)
    delta = LowRank(FILE, lazy(up), lazy(down), lazy(mid))
    wanted = np.einsum("oa,abxy,bi->oixy", up[..., 0, 0].astype(float), mid, down[..., 0, 0])
    assert delta.shape == (6, 8, 3, 2)
    near(merged(kernel, delta), kernel + wanted, kernel)


@pytest.mark.parametrize(
    ("up", "down", "mid"), [((4, 3), (2, 5), None), ((4, 0), (0, 5), None), ((4, 3), (3, 5), (3, 2, 1, 1))]
)
def test_factors_of_no_product(up, down, mid):
    delta = LowRank(FILE, lazy(rand(*up)), lazy(rand(*down)), None if mid is None else lazy(rand(*mid)))
    assert "no factors of one product" in delta.disagree()


def test_shapes_that_it_is_for():
    delta = LowRank(FILE, lazy(rand(4, 2)), lazy(rand(2, 6)))
    assert delta.refuses(spec(4, 6)) is None
    assert delta.refuses(spec(4, 6, 1, 1)) is None  # a kernel of one place
    assert "do not make" in delta.refuses(spec(6, 4))
    assert "do not make" in delta.refuses(spec(24))


def test_a_difference():
    values = rand(37, 24, seed=5)
    delta = Difference(FILE, lazy(values))
    near(merged(W, delta, scale=2.0, rows=7), W + 2.0 * values.astype(float), W)
    assert delta.refuses(spec(37, 24, 1)) is None
    assert "does not fit" in delta.refuses(spec(24, 37))


@pytest.mark.parametrize(
    ("shape", "without"),
    [((4, 1, 1), (4, 1)), ((4, 2, 1, 1), (4, 2)), ((1, 1), (1, 1)), ((3,), (3,)), ((2, 1, 3), (2, 1, 3))],
)
def test_trailing_ones(shape, without):
    assert bare(shape) == without


def test_elements_of_any_rows():
    values = rand(5, 7)
    got = elements(lazy(values), 9, 23, Context())
    np.testing.assert_array_equal(got, values.reshape(-1)[9:23])


def test_what_is_not_finite_is_named():
    values = rand(3, 4)
    np.testing.assert_array_equal(load_all(FILE, lazy(values)), values)
    values[2, 1] = np.inf
    with pytest.raises(DataError, match=r"lora\.safetensors: m: inf at \[2, 1\]; the LoRA is damaged"):
        load_all(FILE, lazy(values, "m"))
