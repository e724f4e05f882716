"""Schemes beside a branch of low rank: sums by one chain of fused multiply-adds, and what they refuse.

That whole files come out as SDNQ decodes them is in ``tests/consumers/config/test_sdnq.py``.
"""

from __future__ import annotations

import numpy as np
import pytest

import transcode as tc
from transcode.core.dtypes import DTYPES
from transcode.core.scheme import Hints
from transcode.core.spec import Spec
from transcode.errors import PlanError, RecipeError
from transcode.schemes.low_rank import Int8Svd, add_branch

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("rows", "rank", "columns"), [(1, 1, 8), (4, 4, 16), (7, 5, 600), (9, 32, 40)])
def test_a_branch_is_added_wherever_rows_are_cut(rows, rank, columns):
    up, down, rest = (
        RANDOM.standard_normal(shape).astype(np.float32)
        for shape in ((rows, rank), (rank, columns), (rows, columns))
    )
    whole = rest.copy()
    add_branch(up, down, whole)
    exact = rest + up.astype(np.float64) @ down.astype(np.float64)
    assert (np.abs(whole - exact) <= (rank + 1) * 2.0**-24 * (abs(rest) + abs(up) @ abs(down))).all()
    for cut in range(rows):
        apart = rest.copy()
        add_branch(up[:cut], down, apart[:cut])
        add_branch(up[cut:], down, apart[cut:])
        assert apart.tobytes() == whole.tobytes()


def test_values_are_rounded_to_the_dtype_of_the_branch_before_the_sum_and_after():
    scheme, spec = Int8Svd(scale_dtype="F32", rank=1, branch_dtype="BF16"), Spec(DTYPES["F32"], (1, 8))
    bf16 = np.float32([1, 1.0078125]).view(np.uint32) >> 16  # neighbours
    parts = {
        "codes": np.full((1, 8), 100, np.int8),
        "scale": np.float32([[1.003e-2]]),
        "lora_down": np.full((1, 8), bf16[1], np.uint16),
        "lora_up": np.full((1, 1), bf16[0], np.uint16),
    }
    assert {one.role: one.spec.shape for one in scheme.parts(spec)} == {
        "codes": (1, 8), "scale": (1, 1), "lora_down": (1, 8), "lora_up": (1, 1),
    }  # fmt: skip
    out = np.empty((1, 8), np.float32)
    scheme.decode(parts, spec, 0, 1, out)
    assert (out == 2.0).all()  # 1.003 is 1; and 1 + 1.0078125 lies between 2 and 2.015625, the even one is 2


def test_there_is_none_without_a_branch():
    assert not list(Int8Svd.variants({}, Hints("F32")))
    assert {one.rank for one in Int8Svd.variants({}, Hints("F32", rank=3, branch="F16"))} == {3}


def test_it_is_decoded_and_not_encoded(tmp_path):
    from safetensors.numpy import save_file

    from tests.consumers.config.test_sdnq import FIXTURES, NARROW

    with pytest.raises(RecipeError, match="int8_svd is decoded, not encoded"):
        tc.open(FIXTURES / "svd") | tc.quantize("int8_svd")
    change = {f"{NARROW}.lora_A.weight": np.ones((1, 128), np.float32)}
    save_file(change | {f"{NARROW}.lora_B.weight": np.ones((16, 1), np.float32)}, tmp_path / "l.safetensors")
    flow = tc.open(FIXTURES / "svd") | tc.lora(tmp_path / "l.safetensors") | tc.requantize()
    with pytest.raises(PlanError, match="cannot become affine_svd again: it is only decoded"):
        flow | tc.write(tmp_path / "out", convention="sdnq")
