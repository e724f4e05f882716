"""Tables of names in two spellings, for LoRAs, and mistakes in them."""

import re

import pytest

from transcode.catalog.lora import lora_names
from transcode.catalog.lora_tables import lora_tables
from transcode.catalog.rule import REST, Rule
from transcode.errors import RecipeError

TOY = """\
lora: toy
title: Toy
when: {original: ["layers.{i}.qkv"]}
tables:
  - between: [original, other]
    rules:
      - [a, b]
      - at: [["layers.{i}", "blocks.{i}"], "same.{i}"]
        rules:
          - [qkv, {join: [q, k, v]}]
          - [all, {join: [q, ~], rows: [3, rest]}]
          - [end, {swap: start}]
"""


@pytest.fixture
def toy(own_formats):
    (own_formats / "lora").mkdir(parents=True)

    def write(text):
        (own_formats / "lora" / "toy.yaml").write_text(text)
        return next(table for table in lora_tables() if table.title == "Toy")

    return write


def test_a_table(toy):
    table = toy(TOY)
    assert table.between == ("original", "other")
    assert table.when == {"original": ("layers.{i}.qkv",)}
    assert table.rules[:4] == (
        Rule("a", ("b",)),
        Rule("layers.{i}.qkv", ("blocks.{i}.q", "blocks.{i}.k", "blocks.{i}.v")),
        Rule("layers.{i}.all", ("blocks.{i}.q", None), (3, REST)),
        Rule("layers.{i}.end", ("blocks.{i}.start",), swapped=True),
    )
    assert table.rules[4].left == "same.{i}.qkv"
    assert len(table.rules) == 7


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("lora: toy", "lora: tony", r"toy\.yaml:1: lora: 'tony' is not the name of the file"),
        ("[original, other]", "[original]", r":5: .*must name two spellings"),
        ("[original, other]", "[x, other]", r"models have neither spelling"),
        ("rows: [3, rest]", "rows: [3]", r"needs one entry for each part"),
        ("rows: [3, rest]", "rows: [rest, rest]", r"at most once"),
        ("rows: [3, rest]", "rows: [0, rest]", r"must be at least 1"),
        ("rows: [3, rest]", "rows: [most, rest]", r"'most' is not allowed"),
        ("[a, b]", "[a]", r":7: .*two sides, this has 1"),
        ("[a, b]", '["a.{i}", b]', r"same count of \{i\}"),
        ("[a, b]", '["a.x{i}", "b.x{i}"]', r"not a run of components"),
        ("{swap: start}", "{swop: start}", "is no rule; it needs one of join, stack, swap, view"),
        ("title: Toy", "title: Toy\nmore: 1", r"unknown key 'more'"),
    ],
)
def test_mistakes_are_told_with_their_line(toy, before, after, told):
    assert before in TOY
    with pytest.raises(RecipeError, match=told):
        toy(TOY.replace(before, after, 1))


def test_every_run_of_ours_is_on_its_side_once():
    """Else one tensor would have two meanings in one spelling."""
    for table in lora_tables():
        lefts = [rule.left for rule in table.rules]
        rights = [part for rule in table.rules for part in rule.right if part is not None]
        assert len(set(lefts)) == len(lefts), table.title
        assert len(set(rights)) == len(rights), table.title


def test_keys_of_adapters_are_those_that_any_of_its_expressions_fits():
    names = lora_names()
    styles = [regex for style in names.styles for regex in style.roles.values()]
    kinds = [
        regex
        for kind in names.kinds.values()
        for role, endings in kind.items()
        if role != "values"
        for regex in endings
    ]
    others = [regex for endings in names.unsupported.values() for regex in endings]
    every = [*styles, *names.alpha, *names.differences, *names.norms, *names.tokens, *kinds, *others]
    endings = [re.sub(r"\[\^\.\]\+", "default", regex.pattern.replace("\\.", ".")) for regex in every]
    keys = [re.sub(r"\(.*?\)\??|\[..\]\?", "a.b", ending) for ending in endings]
    keys += [
        *(key + "x" for key in keys),
        *(key[3:] for key in keys),
        "",
        "a",
        "blocks.0.weight",
        "x\ny.alpha",
        ".lora_A.weight",
        "..lora_A.weight",
        "a..lora_A.weight",
        "_lora.up.weight",
        "a._lora.up.weight",
        "a.lora_A.x\ny.weight",
        "a\nb.lora_A.x.weight",
    ]
    for key in keys:
        assert names.holds(key) == any(regex.fullmatch(key) for regex in every), key
    assert sum(map(names.holds, keys)) > len(every) // 2
