"""Limits of a consumer, read from YAML and asked of schemes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from transcode.catalog import strict
from transcode.catalog.limits import Limit, Partly, experts_of, holds, limit, partly
from transcode.errors import RecipeError


@pytest.fixture
def node(tmp_path: Path):
    def read(text: str) -> strict.Node:
        path = tmp_path / "x.yaml"
        path.write_text(text)
        return strict.load(path)

    return read


@pytest.mark.parametrize(
    ("name", "module"),
    [("a.experts.3.up_proj.weight", "a.experts"), ("m.0.experts.12.w1", "m.0.experts"),
     ("a.experts.gate_up_proj", None), ("a.experts.x.w", None), ("a.my_experts.3.w", None),
     ("experts.0.w", "experts"), ("a.weight", None)],
)  # fmt: skip
def test_experts(name, module):
    assert experts_of(name) == module


def test_options_are_compared_as_yaml_has_them():
    scheme = SimpleNamespace(block=(128, 128), symmetric=True)
    assert holds({}, scheme)
    assert holds({"block": [128, 128], "symmetric": True}, scheme)
    assert not holds({"block": [128, 64]}, scheme)
    assert not holds({"absent": 1}, scheme)


def test_a_limit_in_numbers():
    assert Limit(rows=16).of(object()) == Limit(rows=16)
    by_option = Limit(columns="group", when={"symmetric": True})
    assert by_option.of(SimpleNamespace(group=64, symmetric=True)).columns == 64
    assert by_option.of(SimpleNamespace(group=64, symmetric=False)) is None


def test_limits_are_read(node):
    assert limit(node("why: x")) == Limit(why="x")
    text = "{rows: 8, columns: group, fused_rows: 64, experts: false, when: {block: [1, 2]}, why: x}"
    assert limit(node(text)) == Limit(8, "group", 64, False, {"block": [1, 2]}, "x")
    assert partly(node("{when: {a: 1}, by: x}")) == Partly({"a": 1}, "x")
    assert partly(node("{experts: true, by: x}")) == Partly({}, "x", True)


@pytest.mark.parametrize(
    ("read", "text"),
    [(limit, "{}"), (limit, "{rows: 0, why: x}"), (limit, "{rows: 8, why: x, colums: 1}"),
     (partly, "{by: x}"), (partly, "{when: {a: 1}}"), (partly, "{when: [a], by: x}")],
)  # fmt: skip
def test_mistakes_are_refused(read, text, node):
    with pytest.raises(RecipeError):
        read(node(text))
