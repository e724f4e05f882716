"""Adapters one after the other, in float32, rounded once; looks at whole tensors; sums by tiles."""

import numpy as np
import pytest

from transcode.core.context import Context
from transcode.errors import DataError
from transcode.stages.lora.delta import Added, Difference
from transcode.stages.lora.merge import ColumnSquares, merge
from transcode.stages.lora.places import Whole
from transcode.stages.lora.rows import Decomposed, Scaled
from transcode.stages.lora.turns import OutputBlocks

from .arrays import FILE, lazy, merged, near, rand

W = rand(24, 6, seed=1)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_each_gets_what_the_one_before_made(rows):
    values, factors = rand(24, 6, seed=2), rand(24, seed=3)
    difference, scaled = Difference(FILE, lazy(values)), Scaled(FILE, lazy(factors), False, 0.0)
    by = (1 + factors.astype(float))[:, None]
    near(merged(W, difference, scaled, rows=rows), (W + values.astype(float)) * by, W)
    near(merged(W, scaled, difference, rows=rows), W * by + values, W)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rows_made_of_many_after_what_was_added_and_before_what_is(rows):
    values, blocks = rand(24, 6, seed=2), 0.4 * rand(6, 4, 4, seed=3)
    difference = Difference(FILE, lazy(values))
    skew = blocks.astype(float) - blocks.swapaxes(1, 2)
    turns = (np.eye(4) + skew) @ np.linalg.inv(np.eye(4) - skew)
    added = (W + values.astype(float)).reshape(6, 4, 6)
    wanted = np.einsum("knm,knj->kmj", turns, added).reshape(24, 6) + values
    turn = OutputBlocks(FILE, (lazy(blocks),), None, 0.0)
    near(merged(W, difference, turn, difference, rows=rows), wanted, W)


def test_the_look_sees_what_is_added_before():
    values, magnitude = rand(24, 6, seed=2), np.abs(rand(1, 6, seed=3)) + 1
    first, inner = rand(24, 6, seed=4), Difference(FILE, lazy(values))
    delta = Decomposed(FILE, inner, np.float32(1), lazy(magnitude), 0.0, False)
    _, needs = merge(lazy(W), [Added(delta, np.float32(1))])
    assert [type(need) for need in needs] == [ColumnSquares]
    whole = W.astype(float) + first + values
    wanted = whole * magnitude / np.linalg.norm(whole, axis=0)
    near(merged(W, Difference(FILE, lazy(first)), delta), wanted, W)


def test_sums_of_squares_by_block():
    _, (need,) = merge(
        lazy(W),
        [
            Added(
                Decomposed(FILE, Difference(FILE, lazy(W)), np.float32(1), lazy(rand(1, 6)), 0.0, False),
                np.float32(1),
            )
        ],
    )
    total = need.total(Context())
    np.testing.assert_allclose(total, np.square(2 * W.astype(float)).sum(axis=0), rtol=1e-6)
    assert need.merge({0: total}, {8: total}).keys() == {0, 8}
    tiles = list(need.tiles(1))
    assert [start for start, _ in tiles[1:]] == [stop for _, stop in tiles[:-1]]
    assert (tiles[0][0], tiles[-1][1]) == (0, 24)


def test_what_does_not_fit_the_dtype_is_named():
    from transcode.core.dtypes import dtype
    from transcode.core.expr import Constant
    from transcode.core.spec import Spec
    from transcode.core.tensor import plain

    spec = Spec(dtype("F16"), (2, 3))
    half = plain("w", spec, Constant(spec, np.zeros((2, 3), np.float16).tobytes()))
    values = np.zeros((2, 3), np.float32)
    values[1, 2] = 70000
    tensor, _ = merge(half, [Added(Whole(FILE, lazy(values)), np.float32(1))])
    with pytest.raises(
        DataError, match=r"w: with its LoRA 70000\.0 at row 1, column 2, which does not fit F16"
    ):
        list(tensor.read(0, 2, Context()))


@pytest.mark.parametrize("stored", ["BF16", "F32"])
def test_what_does_not_fit_float32_is_named_but_infinities_of_the_model_stay(stored):
    """An alpha of 3e38 gave infinities and exit code 0: the cast takes those for the model's own."""
    from transcode.core.dtypes import dtype
    from transcode.core.expr import Constant
    from transcode.core.spec import Spec
    from transcode.core.tensor import plain

    spec = Spec(dtype(stored), (5, 3))
    before = np.zeros((5, 3), np.float32)
    before[0, 1] = np.inf
    bits = before if stored == "F32" else (before.view(np.uint32) >> 16).astype(np.uint16)
    tensor = plain("w", spec, Constant(spec, bits.tobytes()))
    values = np.ones((5, 3), np.float32)
    (piece,) = merge(tensor, [Added(Difference(FILE, lazy(values)), np.float32(1))])[0].read(0, 5, Context())
    assert piece.data.view(bits.dtype)[0, 1] == bits[0, 1]
    values[3, 2] = -10
    made, _ = merge(tensor, [Added(Difference(FILE, lazy(values)), np.float32(3e38))])
    with pytest.raises(DataError, match=f"LoRA -inf at row 3, column 2, which does not fit {stored}"):
        list(made.read(1, 5, Context()))
