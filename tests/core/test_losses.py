"""Which expressions may change a value: each says so, or is known to move what is there."""

from __future__ import annotations

import importlib
import pkgutil

import transcode
from tests.expressions import NOTHING
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Expr
from transcode.core.losses import losses
from transcode.core.spec import Spec
from transcode.core.tensor import plain
from transcode.stages.cast import cast_tensor

MOVING = {
    "Assembled", "Constant", "Embedded", "Finite", "Joining", "Measured", "Ordered", "Padding", "Permuted",
    "Picking", "Recoded", "Reshaped", "Rows", "Stored", "Strided", "Swapped",
}  # fmt: skip
"""They hold values, or put them elsewhere."""


def test_every_expression_has_been_thought_of():
    for module in pkgutil.walk_packages(transcode.__path__, "transcode."):
        if "gpu" not in module.name and "__main__" not in module.name:
            importlib.import_module(module.name)
    todo, silent = [Expr], set()
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind is not Expr and kind.loses is Expr.loses and kind.__module__.startswith("transcode."):
            silent.add(kind.__name__)
    assert silent == MOVING


def test_casts_that_widen_lose_nothing():
    tensor = plain("x", Spec(DTYPES["BF16"], (4, 8)), NOTHING)
    assert list(losses(cast_tensor(tensor, DTYPES["F32"]))) == []
    wide = cast_tensor(tensor, DTYPES["F32"])
    assert list(losses(cast_tensor(wide, DTYPES["BF16"]))) == ["F32 is cast to BF16"]
    assert list(losses(cast_tensor(cast_tensor(wide, DTYPES["F16"]), DTYPES["F32"]))) == [
        "F32 is cast to F16"
    ]
