"""What a scheme or its consumer cannot take, and what stays with it."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.expressions import NOTHING
from transcode import catalog, schemes
from transcode.catalog.limits import Limit
from transcode.consumers.fit import alike, misfit, multiple
from transcode.core.dtypes import DTYPES
from transcode.core.event import Reason
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain

WHY = Reason("target", "target q")
NO_LIMIT = Limit()


def tensor(name: str, *shape: int, dtype: str = "BF16") -> LazyTensor:
    return plain(name, Spec(DTYPES[dtype], shape), NOTHING)


def consumer(limit: Limit = NO_LIMIT, **more: Any) -> Any:
    """As much of a convention as is asked here."""
    rule = SimpleNamespace(limits_for=lambda scheme: (limit,))
    return SimpleNamespace(
        **{"name": "mine", "dims": (), "joins": False, "scheme": lambda name: rule, **more}
    )


@pytest.mark.parametrize(
    ("scheme", "shape", "who", "followed", "words"),
    [
        ("int8", (7, 5), None, False, None),
        ("mxfp8", (7, 65), None, False, "65 columns are not a multiple of 32"),
        ("int8", (7,), None, False, "1-D, neither"),
        ("int8", (0, 4), None, False, "is empty"),
        ("int8", (7, 5), consumer(), False, None),
        ("int8", (7, 5), consumer(Limit(rows=2, why="so")), False, "7 rows are not a multiple of 2, so"),
        (
            "int8",
            (8, 5),
            consumer(Limit(columns=16, why="so")),
            False,
            "5 columns are not a multiple of 16, so",
        ),
        ("int8", (8, 5), consumer(Limit(fused_rows=16, why="so")), False, None),
        (
            "int8",
            (8, 5),
            consumer(Limit(fused_rows=16, why="so")),
            True,
            "8 rows .* of 16, where tensors are",
        ),
        ("int8", (2, 8, 5), consumer(dims=(2,)), False, "mine takes no 3-D tensor"),
    ],
)
def test_misfits(scheme, shape, who, followed, words) -> None:
    said = misfit(tensor("a.weight", *shape), schemes.make(scheme), who, followed=followed)
    assert said is None if words is None else re.search(words, str(said))


def test_experts_that_a_consumer_does_not_take() -> None:
    who = consumer(Limit(experts=False, why="its kernels know none"))
    expert = tensor("model.layers.0.mlp.experts.3.up_proj.weight", 8, 8)
    assert (
        misfit(expert, schemes.make("int8"), who, followed=False)
        == "it is of an expert, and its kernels know none"
    )
    assert (
        misfit(tensor("model.layers.0.mlp.up_proj.weight", 8, 8), schemes.make("int8"), who, followed=False)
        is None
    )


def test_multiples_of_scheme_and_consumer_are_common() -> None:
    assert multiple(schemes.make("mxfp8"), consumer(Limit(rows=6, columns=48))) == (6, 96)
    assert multiple(schemes.make("int8"), None) == (1, 1)


def _group(one: LazyTensor) -> str | None:
    return "qk" if one.name.split(".")[1] in ("q", "k") else None


def test_what_is_joined_with_a_kept_tensor_is_kept() -> None:
    scheme, planning = schemes.make("int8"), Planning()
    decided = [
        (tensor("a.q.weight", 8, 8), scheme, WHY),
        (tensor("a.k.weight", 8, 8), None, Reason("misfit", "too odd")),
        (tensor("a.v.weight", 8, 8), scheme, WHY),
    ]
    assert alike(decided, {1: "too odd"}, _group, consumer(), planning) == decided
    assert alike(decided, {1: "too odd"}, _group, None, planning) == decided
    settled = alike(decided, {1: "too odd"}, _group, consumer(joins=True), planning)
    assert [action for _, action, _ in settled] == [None, None, scheme]
    assert settled[0][2].kind == "joined"
    assert str(settled[0][2]) == "a.k.weight, which it is joined with, is not: too odd"
    assert [str(one) for one in planning.warnings] == [f"a.q.weight: not quantized: {settled[0][2]}"]


def test_different_schemes_in_one_group_are_a_warning() -> None:
    planning = Planning()
    decided = [
        (tensor("a.q.weight", 8, 8), schemes.make("int8"), WHY),
        (tensor("a.k.weight", 8, 8), schemes.make("fp8"), WHY),
    ]
    assert alike(decided, {}, _group, consumer(joins=True), planning) == decided
    assert "join a.q.weight, a.k.weight refuse them unless" in str(next(iter(planning.warnings)))


def test_generic_experts_are_joined_by_layer() -> None:
    name = "model.layers.0.mlp.experts.{}.up_proj.weight"
    assert catalog.experts_of(name.format(0)) == catalog.experts_of(name.format(1)) is not None
