"""Stacks, alternating and permuted rows, transposes, other shapes and constants: numpy's, and back again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transcode.catalog import strict
from transcode.catalog.rule import rules
from transcode.catalog.spelling import Conversion, Direction
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Constant
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError, RecipeError
from transcode.stages.stored_rows import Item
from transcode.stages.structure import Structure

Arrays = dict[str, np.ndarray[Any, Any]]
RNG = np.random.default_rng(0)


def table(text: str) -> Conversion:
    return Conversion(rules(strict.parse(text, "x.yaml")))


def tensor(name: str, array: np.ndarray[Any, Any]) -> LazyTensor:
    spec = Spec(DTYPES["F32"], array.shape)
    return plain(name, spec, Constant(spec, np.ascontiguousarray(array).tobytes()))


def convert(conversion: Conversion, forward: bool, arrays: Arrays, **facts: object) -> Arrays:
    direction, planning = Direction(conversion, forward), Planning()
    items = {name: Item(name, tensor(name, array), array.shape) for name, array in arrays.items()}
    structure = Structure(direction, items, facts)
    made: Arrays = {}
    for item in items.values():
        hit = direction.find(item.name)
        assert hit is not None, item.name
        assert structure.whole(hit), structure.lacking(hit)
        if hit.rule.renames:
            made[hit.others[0]] = item.tensor.numpy()
        else:
            made |= {one.name: one.numpy() for one in structure.of(item, hit, planning)}
    return made


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


GATES, UPS = [normal(6, 4) for _ in range(3)], [normal(6, 4) for _ in range(3)]
Q, BIAS = normal(16, 8), normal(16)
CONV = normal(5, 3, 1, 2, 2)
EXPERTS = {f"e.{e}.{name}.weight": one[e] for e in range(3) for name, one in (("gate", GATES), ("up", UPS))}

CASES: dict[str, tuple[str, Arrays, Arrays, dict[str, object]]] = {
    "stacked": (
        "[[ups, {stack: 'e.{e}.up.weight'}]]",
        {"ups": np.stack(UPS)}, {f"e.{e}.up.weight": UPS[e] for e in range(3)}, {},
    ),
    "stacks of biases": (
        "[[ups, {stack: 'e.{e}.up.bias'}]]",
        {"ups": np.stack([up[:, 0] for up in UPS])}, {f"e.{e}.up.bias": UPS[e][:, 0] for e in range(3)}, {},
    ),
    "halves": (
        "[[gate_up, {stack: ['e.{e}.gate.weight', 'e.{e}.up.weight']}]]",
        {"gate_up": np.stack([np.concatenate(both) for both in zip(GATES, UPS, strict=True)])}, EXPERTS, {},
    ),
    "interleaved": (
        "[[gate_up, {stack: ['e.{e}.gate.weight', 'e.{e}.up.weight'], interleave: true}]]",
        {"gate_up": np.stack([np.stack(both, 1).reshape(12, 4) for both in zip(GATES, UPS, strict=True)])},
        EXPERTS, {},
    ),
    # gpt-oss: columns alternate.
    "interleaved and turned": (
        "[[gate_up, {stack: ['e.{e}.gate.weight', 'e.{e}.up.weight'],"
        " permute: {elements: [2, ~, columns], order: [2, 1, 0]}}]]",
        {"gate_up": np.stack([np.stack(both, 1).reshape(12, 4).T for both in zip(GATES, UPS, strict=True)])},
        EXPERTS, {},
    ),
    "turned": (
        "[[a, {view: b, transpose: true}]]",
        {"a.weight": Q.T, "a.bias": BIAS}, {"b.weight": Q, "b.bias": BIAS}, {},
    ),
    # Llama's q and k: pairs of a head's rows lie together.
    "heads": (
        "[[a, {view: b, permute: {rows: [heads, 2, ~], order: [0, 2, 1]}}]]",
        {"a.weight": Q.reshape(2, 2, 4, 8).swapaxes(1, 2).reshape(16, 8),
         "a.bias": BIAS.reshape(2, 2, 4).swapaxes(1, 2).reshape(16)},
        {"b.weight": Q, "b.bias": BIAS}, {"heads": 2},
    ),
    "three axes in turn": (
        "[[a, {view: b, permute: {rows: [2, 4, ~], order: [1, 2, 0]}}]]",
        {"a.weight": Q.reshape(2, 4, 2, 8).transpose(1, 2, 0, 3).reshape(16, 8)}, {"b.weight": Q}, {},
    ),
    # DeepSeek's kv_b_proj: a part of each head's rows, the first of them turned.
    "parts of heads": (
        "[[a.weight, {join: [q.weight, k.weight], rows: [1, rest],"
        " permute: {rows: [2, heads, ~], order: [1, 0, 2]}}]]",
        {"a.weight": Q.reshape(2, 2, 4, 8).swapaxes(0, 1).reshape(16, 8)},
        {"q.weight": Q[:8], "k.weight": Q[8:]}, {"heads": 2},
    ),
    "a convolution": (
        "[[a, {view: b, shapes: [[rows, ~], [rows, ~, 1, 2, 2]]}]]",
        {"a.weight": CONV.reshape(5, 12), "a.bias": BIAS[:5]}, {"b.weight": CONV, "b.bias": BIAS[:5]}, {},
    ),
    "channels last": (
        "[[a, {view: b, permute: {elements: [rows, 3, ~], order: [0, 2, 1]},"
        " shapes: [[rows, ~], [rows, 3, 1, 2, 2]]}]]",
        {"a.weight": CONV.reshape(5, 3, 4).swapaxes(1, 2).reshape(5, 12)}, {"b.weight": CONV}, {},
    ),
    "grouped heads": (
        "[[a, {join: [q, k, v], ratio: [2, 1, 1]}]]",
        {"a.weight": Q, "a.bias": BIAS},
        {"q.weight": Q[:8], "k.weight": Q[8:12], "v.weight": Q[12:],
         "q.bias": BIAS[:8], "k.bias": BIAS[8:12], "v.bias": BIAS[12:]}, {},
    ),
    "one more": ("[[a, {view: b, add: 1}]]", {"a.weight": BIAS + 1}, {"b.weight": (BIAS + 1) - 1}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_both_ways(case: str) -> None:
    text, left, right, facts = CASES[case]
    for forward, given, expected in ((True, left, right), (False, right, left)):
        made = convert(table(text), forward, given, **facts)
        assert made.keys() == expected.keys()
        for name, array in expected.items():
            assert made[name].shape == array.shape
            assert np.array_equal(made[name], array), (forward, name)


def test_what_is_not_known_of_the_model_is_asked_for() -> None:
    text, left, _, _ = CASES["heads"]
    with pytest.raises(PlanError, match=r"depends on 'heads' of the model's config\.json"):
        convert(table(text), True, left)
    with pytest.raises(PlanError, match="16 rows of 8, which are no heads x 2 x ~"):
        convert(table(text), True, left, heads=3)


def test_a_stack_needs_all_of_it() -> None:
    text, _, right, _ = CASES["halves"]
    direction = Direction(table(text), False)
    items = {name: Item(name, tensor(name, one), one.shape) for name, one in right.items()}
    del items["e.1.up.weight"]
    hit = direction.find("e.2.up.weight")
    assert hit is not None
    structure = Structure(direction, items)
    assert not structure.whole(hit)
    assert structure.lacking(hit) == "e.1.up.weight"
    assert direction.find("e.02.up.weight") is None  # its zero would be lost
    with pytest.raises(PlanError, match=r"e\.1\.up\.weight: \[5, 4\] is not the|of 6, 5 rows"):
        convert(table(text), False, right | {"e.1.up.weight": normal(5, 4)})


def test_shapes_of_another_model() -> None:
    text = CASES["a convolution"][0]
    with pytest.raises(PlanError, match="which are no rows x ~ x 1 x 2 x 2"):
        convert(table(text), True, {"a.weight": normal(5, 13)})
    with pytest.raises(PlanError, match=r"\[5, 12, 1\] is not the \[5, 3, 1, 2, 2\]"):
        convert(table(text), False, {"b.weight": normal(5, 12, 1)})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[a, {view: [b, c], add: 1}]]", "a view is of one tensor"),
        ("[[a, {view: b}]]", "changes nothing"),
        ("[[a, {join: [b, c], ratio: [1]}]]", "one number for each part"),
        ("[[a, {join: [b, c], ratio: [1, 2], rows: [1, rest]}]]", "one number for each part"),
        ("[[a, {stack: ['b.{e}', 'c.{e}'], ratio: [1, 2]}]]", "one number for each part"),
        ("[[a, {stack: b}]]", "stands in all names of a stack"),
        ("[[a, {join: ['b.{e}', 'c.{e}']}]]", "stands in all names of a stack"),
        ("[[a, {view: b, permute: {rows: [2, ~], order: [0, 0]}}]]", "no order of 2 axes"),
        ("[[a, {view: b, permute: {rows: [~, ~], order: [1, 0]}}]]", "one length at most"),
        ("[[a, {view: b, permute: {rows: ['f(x)', ~], order: [1, 0]}}]]", "not understood"),
        ("[[a, {view: b, transpose: true, interleave: true}]]", "do not go together"),
        ("[[a, {view: b, swap: b}]]", "needs one of"),
        ("[[a, {view: b, shapes: [[rows, 4]]}]]", "there are two sides"),
        ("[[a, {stack: 'b.{e}'}], [c, 'b.3']]", "a number stand in the same place"),
        ("[[a, {stack: 'b.{e}'}], [c, 'b']]", "would also fit"),
    ],
)
def test_a_table_that_is_none(text: str, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        table(text)
