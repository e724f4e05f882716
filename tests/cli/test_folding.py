"""Folding names: only numbers of blocks go, and nothing that differs is ever put together."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.cli.folding import braced, fold

NAMES = st.lists(
    st.lists(
        st.sampled_from(["blocks", "layers", "0", "1", "2", "3", "10", "ffn", "attn", "q", "weight", "bias"]),
        min_size=1,
        max_size=5,
    ).map(".".join),
    unique=True,
    max_size=40,
)


def expanded(name: str) -> re.Pattern[str]:
    """What a row's name may stand for, as an expression written here."""
    text = re.escape(name).replace(r"\*", r"\d+").replace(r"\{", "{").replace(r"\}", "}")
    text = text.replace(r"\.\.\.", "<more>").replace(r"\.\.", "<to>")

    def braces(match: re.Match[str]) -> str:
        options = []
        for word in match[1].split(","):
            first, to, last = word.partition("<to>")
            options += map(str, range(int(first), int(last) + 1)) if to else [first]
        return r"\d+" if "<more>" in options else f"(?:{'|'.join(options)})"

    return re.compile(re.sub(r"\{([^}]*)\}", braces, text))


@given(NAMES, st.lists(st.integers(0, 2), min_size=40, max_size=40), st.integers(10, 60))
def test_every_tensor_is_in_one_row_with_its_like(names, kinds, widest):
    """Counts add up, rows are alike in their key, and the name of a row fits all that are in it."""
    kind = dict(zip(names, kinds, strict=False))
    folded = fold((name, kind[name], name) for name in names)
    for rows in (folded, braced(folded, widest)):
        assert Counter(item for row in rows for item in row.items) == Counter(names)
        for row in rows:
            assert {kind[item] for item in row.items} == {row.key}
            assert all(expanded(row.name).fullmatch(item) for item in row.items), (row.name, row.items)
            if len(row.items) == 1:
                assert row.name == row.items[0]


@given(NAMES, st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_a_star_leaves_nothing_out(names, kinds):
    """All tensors that a name with ``*`` and without braces fits are in its row."""
    rows = fold((name, kind, name) for name, kind in zip(names, kinds, strict=False))
    for row in rows:
        if "*" in row.name and "{" not in row.name:
            fitting = {name for name in names[:40] if expanded(row.name).fullmatch(name)}
            # Numbers that are no blocks stay in other names, as in a.0.0 beside a.0.b.c.
            others = {item for other in rows if other is not row for item in other.items if "*" in other.name}
            assert not fitting & others - set(row.items)


def rows(names: list[str], widest: int = 0, key=lambda name: 0) -> dict[str, int]:
    folded = braced(fold((name, key(name), name) for name in names), widest)
    return {row.name: len(row.items) for row in folded}


BLOCK = ("attn.q.weight", "attn.k.weight", "ffn.0.weight", "ffn.2.weight")


def test_layers_of_a_sequence_stay_apart():
    names = [f"blocks.{i}.{name}" for i in range(40) for name in BLOCK]
    assert rows(names) == {f"blocks.*.{name}": 40 for name in BLOCK}
    assert rows(["text.0.weight", "text.2.weight"]) == {"text.0.weight": 1, "text.2.weight": 1}
    assert rows(["proj.0.weight", "proj.1.weight"]) == {"proj.0.weight": 1, "proj.1.weight": 1}


@pytest.mark.parametrize("layers", [(0, 2), (0, 1)])
def test_layers_of_a_sequence_stay_apart_in_an_adapter_and_with_scales(layers):
    ends = ("lora_A.weight", "lora_B.weight", "weight.absmax", "weight_scale", "comfy_quant")
    names = [f"blocks.{i}.ffn.{j}.{end}" for i in range(3) for j in layers for end in ends]
    assert rows(names) == {f"blocks.*.ffn.{j}.{end}": 3 for j in layers for end in ends}


def test_what_is_in_some_blocks_only_is_told_so():
    names = [f"blocks.{i}.attn.q.weight" for i in range(8)]
    assert rows(names, key=lambda name: name == "blocks.3.attn.q.weight") == {
        "blocks.{0..2,4..7}.attn.q.weight": 7, "blocks.3.attn.q.weight": 1,
    }  # fmt: skip
    odd = rows(names, key=lambda name: int(name.split(".")[1]) % 2)
    assert odd == {"blocks.{0,2,4,6}.attn.q.weight": 4, "blocks.{1,3,5,7}.attn.q.weight": 4}


def test_experts_fold_in_their_layers():
    names = [f"layers.{i}.experts.{j}.w1.weight" for i in range(4) for j in range(8)]
    names += [f"layers.{i}.norm.weight" for i in range(4)]
    assert rows(names) == {"layers.*.experts.*.w1.weight": 32, "layers.*.norm.weight": 4}


def test_names_with_underscores_for_dots():
    names = [f"lora_unet_blocks_{i}_ffn_{j}.lora_up.weight" for i in range(5) for j in (0, 2)]
    assert rows(names) == {f"lora_unet_blocks_*_ffn_{j}.lora_up.weight": 5 for j in (0, 2)}


@pytest.mark.parametrize(
    ("widest", "expected"),
    [
        (99, {"blocks.*.attn.{q,k}.weight": 80, "blocks.*.ffn.0.weight": 40, "blocks.*.ffn.2.weight": 40}),
        (25, {f"blocks.*.{name}": 40 for name in BLOCK}),
    ],
)
def test_words_share_braces_where_there_is_room(widest, expected):
    assert rows([f"blocks.{i}.{name}" for i in range(40) for name in BLOCK], widest) == expected
    assert rows(["norm.weight", "norm.bias"], widest) == {"norm.{weight,bias}": 2}


def test_names_that_look_like_patterns_stay_themselves():
    names = ["a.*.b", "a.{0,1}.b", "00.a.b", "01.a.b", "²", "9" * 400 + ".a.b", ".", "..", "1", "0"]
    assert rows(names, 99) == dict.fromkeys(names, 1)
