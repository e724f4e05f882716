"""DoRA, IA3 and GLoRA, against their formulas in float64."""

import numpy as np
import pytest

from transcode.errors import DataError
from transcode.stages.lora.delta import LowRank
from transcode.stages.lora.rows import Decomposed, Generalized, Scaled

from .arrays import FILE, lazy, merged, near, rand, spec

W = rand(18, 10, seed=1)
UP, DOWN = rand(18, 3, seed=2), rand(3, 10, seed=3)
PAIR = LowRank(FILE, lazy(UP), lazy(DOWN))
DELTA = UP.astype(float) @ DOWN


def decomposed(magnitude, **rest):
    options = {"epsilon": 0.0, "outputs": False, **rest}
    return Decomposed(FILE, PAIR, np.float32(0.5), lazy(magnitude), **options)


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("strength", [1.0, 0.25])
@pytest.mark.parametrize("axis", [0, 1])
def test_dora(axis, strength, rows):
    """``lycoris/functional/general.py``, weight_decompose; PEFT's has magnitudes of outputs."""
    magnitude = np.abs(rand(*((18, 1) if axis == 0 else (1, 10)), seed=4)) + 0.5
    whole = W + 0.5 * DELTA
    whole = whole * magnitude / np.linalg.norm(whole, axis=1 - axis, keepdims=True)
    got = merged(W, decomposed(magnitude), scale=strength, rows=rows)
    near(got, W + strength * (whole - W), W)


def test_which_side_magnitudes_are_of():
    assert decomposed(rand(18, 1)).refuses(spec(18, 10)) is None
    assert decomposed(rand(1, 10)).refuses(spec(18, 10)) is None
    assert "neither of outputs nor of inputs" in decomposed(rand(1, 11)).refuses(spec(18, 10))
    # PEFT's of convolutions are [1, O, 1, 1], and never of inputs.
    assert "neither" in decomposed(rand(1, 10), outputs=True).refuses(spec(18, 10))


def test_a_row_without_direction_is_an_error():
    weight = W.copy()
    weight[4] = -(0.5 * DELTA)[4]
    up = UP.copy()
    up[4] = 0
    weight[4] = 0
    delta = Decomposed(
        FILE, LowRank(FILE, lazy(up), lazy(DOWN)), np.float32(0.5), lazy(rand(18), "m"), 0.0, True
    )
    with pytest.raises(DataError, match=r"lora\.safetensors: m: a row of the merged tensor is zero"):
        merged(weight, delta)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("inputs", [False, True])
def test_ia3(inputs, offset):
    factors = rand(10 if inputs else 18, seed=5)
    wanted = W * (
        1
        + 0.5
        * (
            factors.astype(float)[None if inputs else slice(None), None if not inputs else slice(None)]
            - offset
        )
    )
    got = merged(W, Scaled(FILE, lazy(factors), inputs, offset), scale=0.5, rows=4)
    near(got, wanted, W)


def test_ia3_of_a_kernel_counts_for_all_its_places():
    weight, factors = rand(4, 3, 2, 2, seed=1), rand(3, seed=2)
    got = merged(weight, Scaled(FILE, lazy(factors), True, 0.0))
    near(got, weight * (1 + factors.astype(float)[None, :, None, None]), weight)
    assert "for each of the inputs" in Scaled(FILE, lazy(factors), True, 0.0).refuses(spec(3, 4))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_glora(rows):
    """``W + s * (W @ a1 @ a2 + b1 @ b2)``."""
    a1, a2 = rand(10, 3, seed=6), rand(3, 10, seed=7)
    delta = Generalized(LowRank(FILE, lazy(a1), lazy(a2)), PAIR)
    assert (delta.rank, delta.shape, delta.disagree()) == (3, (18, 10), None)
    near(merged(W, delta, scale=0.5, rows=rows), W + 0.5 * (W.astype(float) @ a1 @ a2 + DELTA), W)
    other = Generalized(LowRank(FILE, lazy(rand(9, 3)), lazy(rand(3, 9))), PAIR)
    assert "turns (9, 9), where (18, 10) is added" in other.disagree()
