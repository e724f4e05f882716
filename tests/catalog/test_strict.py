"""YAML is read strictly, and mistakes are told with file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from transcode.catalog import strict
from transcode.catalog.strict import Node
from transcode.errors import RecipeError

TEXT = """\
name: wan
count: 3
ratio: 1e-5
half: 0.5
flag: true
nothing:
list: [a, b]
inner:
  deep: {x: 1}
hex: 0x10
"""


def top(text: str = TEXT) -> strict.Mapping:
    return strict.parse(text, "f.yaml").mapping()


def test_values() -> None:
    node = top()
    assert node.need("name").string() == "wan"
    assert node.need("count").integer() == 3
    assert node.need("hex").integer() == 16
    assert node.need("ratio").number() == 1e-5
    assert node.need("half").number() == 0.5
    assert node.need("count").number() == 3.0
    assert node.need("flag").boolean() is True
    assert node.need("list").strings() == ["a", "b"]
    assert node.need("count").text() == "3"
    assert node.find("nothing") is None
    assert node.find("absent") is None
    assert node.get("absent", Node.string, "default") == "default"
    assert node.get("nothing", Node.string, "default") == "default"
    assert node.get("name", Node.string, "default") == "wan"
    assert list(node) == ["name", "count", "ratio", "half", "flag", "nothing", "list", "inner", "hex"]
    assert "nothing" in node
    assert len(node) == 9


def test_lines_and_paths() -> None:
    deep = top().need("inner").mapping().need("deep").mapping().need("x")
    assert (deep.line, deep.path, deep.file) == (9, "inner.deep.x", "f.yaml")
    assert [child.path for child in top().need("list").sequence()] == ["list[0]", "list[1]"]
    error = deep.error("is wrong", "mend it")
    assert str(error) == "f.yaml:9: inner.deep.x: is wrong; mend it"


@pytest.mark.parametrize(
    ("text", "read", "said"),
    [
        ("a: 1", Node.string, 'f.yaml:1: a: must be text, is a whole number (1); quote it: "..."'),
        ("a: no", Node.string, 'f.yaml:1: a: must be text, is true or false (no); quote it: "..."'),
        ("a:", Node.string, "f.yaml:1: a: must be text, is nothing"),
        ("a: [x]", Node.string, "f.yaml:1: a: must be text, is a list"),
        ("a: x", Node.integer, "f.yaml:1: a: must be a whole number, is text (x)"),
        ("a: 1.5", Node.integer, "f.yaml:1: a: must be a whole number, is a number (1.5)"),
        ("a: true", Node.integer, "f.yaml:1: a: must be a whole number, is true or false (true)"),
        ("a: x", Node.number, "f.yaml:1: a: must be a number, is text (x)"),
        ("a: .inf", Node.number, "f.yaml:1: a: must be a finite number, is .inf"),
        (f"a: -{10**400}", Node.number, f"f.yaml:1: a: must be a finite number, is -{10**400}"),
        ("a: nan", Node.number, "f.yaml:1: a: must be a finite number, is nan"),
        ("a: 1", Node.boolean, "f.yaml:1: a: must be true or false, is a whole number (1)"),
        ("a: x", Node.sequence, "f.yaml:1: a: must be a list, is text (x)"),
        ("a: x", Node.mapping, "f.yaml:1: a: must be a mapping, is text (x)"),
        ("a: {b: 1}", Node.text, "f.yaml:1: a: must be text, is a mapping"),
        ("a: 1", lambda node: node.integer(2), "f.yaml:1: a: must be at least 2, is 1"),
        ("a: 9", lambda node: node.integer(2, 8), "f.yaml:1: a: must be at most 8, is 9"),
        (
            "a: fp9",
            lambda node: node.choice(["int8", "fp8"]),
            "f.yaml:1: a: 'fp9' is not allowed; use one of int8, fp8 (did you mean fp8?)",
        ),
        (
            "a: !!python/name:os.system x",
            Node.plain,
            "f.yaml:1: a: a 'tag:yaml.org,2002:python/name:os.system' is not allowed here; "
            "quote it if text is meant",
        ),
        (
            "a: !!int x",
            Node.integer,
            "f.yaml:1: a: 'x' is not a whole number: invalid literal for int() with base 10: 'x'",
        ),
    ],
)
def test_wrong_types(text: str, read: Callable[[Node], Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(top(text).items()[0][1])
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f.yaml:1: is empty"),
        ("# only a comment", "f.yaml:1: is empty"),
        ("a: 1\nb: 2\na: 3", "f.yaml:3: duplicate key 'a', first on line 1"),
        ("x:\n  a: 1\n  a: 1", "f.yaml:3: x: duplicate key 'a', first on line 2"),
        ("? [a, b]\n: 1", "f.yaml:1: a key must be text, is a list"),
        ("a: &x [*x]", "f.yaml:1: a[0]: an alias may not contain itself"),
        ("a: *x", "f.yaml:1: is not valid YAML: found undefined alias"),
        ("a: [1", "f.yaml:1: is not valid YAML: "),
        ("a: 1\n b: 2", "f.yaml:2: is not valid YAML: "),
        ("a: 1\n---\nb: 2", "f.yaml:2: is not valid YAML: expected a single document in the stream"),
        ("a: \x00", "f.yaml: is not valid YAML: "),
    ],
)
def test_bad_files(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        strict.parse(text, "f.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_may_be_used_but_not_to_explode() -> None:
    assert top("a: &x [1, 2]\nb: *x").need("b").plain() == [1, 2]
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for i in range(1, 9):
        bomb += f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n"
    with pytest.raises(RecipeError, match="stands for more than 1000000 values"):
        strict.parse(bomb, "f.yaml")


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 200_000, "{a: " * 200_000, "? " * 200_000])
def test_deep_nesting_is_refused_before_it_hurts(text: str) -> None:
    with pytest.raises(RecipeError, match=r"f\.yaml:1: is nested deeper than 100 levels"):
        strict.parse(text, "f.yaml")


def test_deep_indentation_is_refused() -> None:
    text = "".join(f"{' ' * depth}a:\n" for depth in range(1500))
    with pytest.raises(RecipeError, match=r"f\.yaml:101: is nested deeper than 100 levels"):
        strict.parse(text, "f.yaml")


def test_many_values_are_not_deep() -> None:
    assert len(strict.parse("[" + "[a, b], " * 3000 + "]", "f.yaml").sequence()) == 3000


def test_unknown_keys() -> None:
    node = top("name: x\ncuont: 3")
    node.need("name")
    node.find("count")
    with pytest.raises(RecipeError) as caught:
        node.reject_unknown()
    assert str(caught.value) == "f.yaml:2: unknown key 'cuont'; known here: name, count (did you mean count?)"
    node.reject_unknown(["name", "cuont"])
    with pytest.raises(RecipeError, match=r"f\.yaml:1: unknown key 'name'; known here: cuont"):
        node.reject_unknown(["cuont"])
    node.items()
    node.reject_unknown()


def test_missing_keys() -> None:
    with pytest.raises(RecipeError, match=r"f\.yaml:9: inner\.deep: 'y' is missing"):
        top().need("inner").mapping().need("deep").mapping().need("y")


def test_errors_inside_get_a_line() -> None:
    node = top().need("name")

    def fail() -> None:
        raise RecipeError("no good", hint="try again")

    with pytest.raises(RecipeError, match=r"f\.yaml:1: name: no good; try again"):
        node.at(fail)

    def elsewhere() -> None:
        raise RecipeError("no good", file="other")

    with pytest.raises(RecipeError, match=r"^other: no good$"):
        node.at(elsewhere)
    assert node.at(lambda: 3) == 3


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        strict.load(path)
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(RecipeError, match=r"is not UTF-8 text: .* at byte 3"):
        strict.load(path)
    path.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9")
    assert strict.load(path).mapping().need("a").string() == "é"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text("abcd", min_size=1, max_size=3), values, min_size=1, max_size=4))
def test_plain_reads_what_yaml_wrote(value: dict[str, Any]) -> None:
    assert strict.parse(yaml.safe_dump(value), "f.yaml").plain() == value


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        strict.parse(text, "f.yaml")
    except RecipeError as error:
        told = str(error)
    else:
        told = "f.yaml"
    assert told.startswith("f.yaml")


@pytest.mark.parametrize("text", ["1_000", "010", "1:30", "0b11", "1_0.5", "1:30.5"])
def test_numbers_that_readers_of_yaml_take_differently(text: str) -> None:
    """YAML 1.1 takes each for a number, 1.2 and JSON for text or another one."""
    node = strict.parse(f"a: {text}", "f.yaml").mapping().need("a")
    for read in (Node.integer, Node.number, Node.plain):
        with pytest.raises(RecipeError, match=r"one number to some readers of YAML|must be a whole number"):
            read(node)
    assert node.text() == text


def test_what_all_readers_of_yaml_take_alike() -> None:
    def read(text: str) -> Node:
        return strict.parse(f"a: {text}", "f.yaml").mapping().need("a")

    assert [read(text).integer() for text in ("12", "-3", "+4", "0x1F", "0", "4.0")] == [12, -3, 4, 31, 0, 4]
    assert [read(text).number() for text in ("1e-5", "1.5e+3", ".5", "2")] == [1e-5, 1500.0, 0.5, 2.0]
    assert read("2026-11-28").string() == read("2026-11-28").plain() == "2026-11-28"
    with pytest.raises(RecipeError, match="must be a number, is text"):
        read("'1e-5'").number()
    with pytest.raises(RecipeError, match="must be text, is nothing"):
        strict.parse("[null]", "f.yaml").sequence()[0].text()
