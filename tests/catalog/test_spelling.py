"""Conversion between spellings is complete and a bijection, on real models and on any table that loads."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode import catalog
from transcode.catalog.rule import Rule
from transcode.catalog.spelling import Conversion, Direction
from transcode.errors import RecipeError

Golden = Any  # tests/catalog/conftest.py


def _rule(left: str, right: str) -> Rule:
    return Rule(left, (right,))


WANS = [
    "wan2.1_t2v_1.3b",
    "wan2.1_t2v_14b",
    "wan2.1_i2v_14b",
    "wan2.1_flf2v_14b",
    "wan2.1_vace_14b",
    "wan2.2_ti2v_5b",
]
PAIRS = [*((wan, f"{wan}_diffusers") for wan in WANS), ("qwen2.5_vl_7b_published", "qwen2.5_vl_7b")]


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_published_models_convert_into_each_other(
    left: str, right: str, read_golden: Callable[[str], Golden]
) -> None:
    """Both sides are true names and shapes; one was never made from the other."""
    one, two = read_golden(left), read_golden(right)
    for here, there in ((one, two), (two, one)):
        family = catalog.detect(list(here.shapes))
        assert family is not None
        converted = {family.convert(name, there.spelling): shape for name, shape in here.shapes.items()}
        assert converted == there.shapes
        assert {family.convert(name, there.spelling) for name in here.quantized} == there.quantized


STRUCTURED = [
    ("flux.1_dev", "flux.1_dev_diffusers"),
    ("hunyuanvideo_1.0", "hunyuanvideo_1.0_diffusers"),
    ("z_image_turbo_original", "z_image_turbo"),
    ("ltx_video", "ltx_video_diffusers"),
    ("sd3.5_medium", "sd3.5_medium_diffusers"),
]


@pytest.mark.parametrize(("left", "right"), STRUCTURED)
def test_rows_of_published_models_lie_where_the_other_spelling_has_them(
    left: str, right: str, read_golden: Callable[[str], Golden]
) -> None:
    """Names and shapes of both sides, of which one was never made from the other but for Z-Image's."""
    one, two = read_golden(left), read_golden(right)
    for here, there in ((one, two), (two, one)):
        family = catalog.detect(list(here.shapes))
        assert family is not None
        direction = family.direction(there.spelling)
        rows: dict[str, int] = {}
        behind: dict[str, tuple[int, ...]] = {}
        for name, shape in here.shapes.items():
            hit = direction.find(name)
            assert hit is not None, name
            weight = here.shapes.get(f"{name.removesuffix(hit.rest)}.weight", shape)
            counts = hit.rule.counts(shape[0], weight[1] if len(weight) > 1 else None)
            for other, count in zip(hit.others, counts if len(hit.others) > 1 else shape[:1], strict=True):
                rows[other] = rows.get(other, 0) + count
                behind[other] = tuple(shape[1:])
        assert {name: (rows[name], *behind[name]) for name in rows} == {
            name: tuple(shape) for name, shape in there.shapes.items()
        }


def test_targets_and_groups_agree_in_both_spellings(read_golden: Callable[[str], Golden]) -> None:
    wan = catalog.family("wan_dit")
    other = wan.spelled("diffusers")
    keys: dict[str, set[str]] = {}
    for name in read_golden("wan2.1_i2v_14b").shapes:
        converted = wan.convert(name, "diffusers")
        assert converted is not None
        assert wan.is_target(name)[0] == other.is_target(converted)[0]
        assert wan.block_of(name) == other.block_of(converted)
        keys.setdefault(str(wan.group_of(name)), set()).add(str(other.group_of(converted)))
    assert all(len(found) == 1 for found in keys.values())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("blocks.3.modulation", "blocks.3.scale_shift_table"),
        ("head.modulation", "scale_shift_table"),
        ("head.head.weight", "proj_out.weight"),
        ("blocks.3.norm3.bias", "blocks.3.norm2.bias"),
        ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
        ("vace_blocks.0.before_proj.weight", "vace_blocks.0.proj_in.weight"),
        ("vace_blocks.7.after_proj.bias", "vace_blocks.7.proj_out.bias"),
        ("vace_blocks.7.modulation", "vace_blocks.7.scale_shift_table"),
        ("blocks.0.self_attn.q.weight_scale", "blocks.0.attn1.to_q.weight_scale"),
        ("blocks.0.cross_attn.k_img.lora_A.weight", "blocks.0.attn2.add_k_proj.lora_A.weight"),
        ("blocks.0.self_attn.o", "blocks.0.attn1.to_out.0"),
        ("blocks.0.cross_attn.norm_k_img.weight", "blocks.0.attn2.norm_added_k.weight"),
    ],
)
def test_the_traps_of_the_published_table(ours: str, theirs: str) -> None:
    wan = catalog.family("wan_dit")
    assert wan.convert(ours, "diffusers") == theirs
    assert wan.spelled("diffusers").convert(theirs, "lightx2v") == ours


@pytest.mark.parametrize(
    "name",
    ["blocks.0.norm2.weight", "blocks.x.norm3.weight", "blocks.0", "something", "", "head",
     "my.blocks.0.norm3.weight", "blocks.0.self_attn.qq.weight", "scale_shift_table",
     "blocks.0.before_proj.weight"],
)  # fmt: skip
def test_names_that_no_rule_knows(name: str) -> None:
    assert catalog.family("wan_dit").convert(name, "diffusers") is None


def test_the_prefix_is_taken_off() -> None:
    wan = catalog.family("wan_dit").spelled("lightx2v", "model.diffusion_model.")
    assert wan.convert("model.diffusion_model.blocks.0.norm3.weight", "diffusers") == "blocks.0.norm2.weight"
    assert wan.convert("model.diffusion_model.anything", "lightx2v") == "anything"
    assert wan.convert("vae.conv.weight", "diffusers") is None


def test_no_way_between_spellings_is_an_error() -> None:
    hunyuan = catalog.family("hunyuan_dit")
    with pytest.raises(RecipeError, match="hunyuan_dit cannot be converted from lightx2v to original"):
        hunyuan.convert("img_in.proj.weight", "original")
    with pytest.raises(RecipeError, match="no spelling 'comfy'"):
        hunyuan.convert("img_in.proj.weight", "comfy")
    assert catalog.family("wan_dit").converts_to() == ("diffusers",)
    assert catalog.family("wan_dit").spelled("diffusers").converts_to() == ("lightx2v",)


def test_swaps_do_not_chain() -> None:
    swap = Conversion([_rule("a", "b"), _rule("b", "a")])
    assert swap.forward("a.x") == "b.x"
    assert swap.forward("b.x") == "a.x"
    assert swap.backward("b.x") == "a.x"


def test_numbers_go_where_they_belong() -> None:
    table = Conversion([_rule("a.{i}.b.{i}.c", "x.{i}.{i}.y")])
    assert table.forward("a.3.b.10.c.weight") == "x.3.10.y.weight"
    assert table.backward("x.3.10.y.weight") == "a.3.b.10.c.weight"
    assert table.forward("a.3.b.x.c.weight") is None


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([("a", "b"), ("a", "c")], "'a' is in another rule too"),
        ([("a", "c"), ("b", "c")], "'c' is in another rule too"),
        ([("a.{i}", "b")], "same count"),
        ([("a..b", "c")], "not a run of components"),
        ([("a{i}", "b{i}")], "not a run of components"),
        ([("", "b")], "not a run of components"),
        # a.c would become x.c, which is what q becomes as well.
        ([("a", "x"), ("q", "x.c")], "would also fit"),
        ([("x", "a"), ("x.c", "q")], "would also fit"),
        ([("a.{i}", "b.{i}"), ("a.0.c", "d")], "stand in the same place, on one side"),
        ([("a.{i}.x", "b.{i}.x"), ("a.7.y", "b.7.y"), ("a.8.y", "c.8.y")], "8: let both sides have rules"),
    ],
)  # fmt: skip
def test_tables_that_are_no_bijection_are_refused(rules: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Conversion(_rule(*sides) for sides in rules)


def test_nested_rules_that_agree_are_fine() -> None:
    table = Conversion([_rule("a", "x"), _rule("a.b", "x.b"), _rule("q", "y")])
    assert table.forward("a.b.c") == "x.b.c"
    assert table.backward("x.b.c") == "a.b.c"


words = st.sampled_from(["a", "b", "c", "{i}", "7"])
runs = st.lists(words, min_size=1, max_size=3).map(".".join)
names = st.lists(st.sampled_from(["a", "b", "c", "0", "7"]), min_size=1, max_size=5).map(".".join)


@given(st.lists(st.tuples(runs, runs), min_size=1, max_size=6), names)
def test_every_table_that_loads_is_invertible(sides: list[tuple[str, str]], name: str) -> None:
    try:
        table = Conversion(_rule(*side) for side in sides)
    except RecipeError:
        return
    forth = table.forward(name)
    if forth is not None:
        assert table.backward(forth) == name
    back = table.backward(name)
    if back is not None:
        assert table.forward(back) == name


@given(st.lists(st.tuples(runs, runs), min_size=1, max_size=4), names)
def test_conversion_agrees_with_regular_expressions(sides: list[tuple[str, str]], name: str) -> None:
    """An independent reading of the same table: try each rule as an expression, take the longest run."""
    try:
        table = Conversion(_rule(*side) for side in sides)
    except RecipeError:
        return
    best: tuple[int, str] | None = None
    for left, right in sides:
        match = re.match(re.escape(left).replace(r"\{i\}", r"(\d+)") + r"(?=\.|$)", name)
        if match is not None and (best is None or left.count(".") > best[0]):
            run = right
            for number in match.groups():
                run = run.replace("{i}", number, 1)
            best = left.count("."), run + name[match.end() :]
    assert table.forward(name) == (None if best is None else best[1])


def test_diffusers_own_models_convert_and_come_back() -> None:
    """The state dict of real modules, not of our fixtures."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    small: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32}
    small |= {"num_layers": 2, "text_dim": 16, "freq_dim": 16}
    image = {"image_dim": 8, "added_kv_proj_dim": 24, "in_channels": 36, "pos_embed_seq_len": 10}
    for more in ({}, image):
        model = diffusers.WanTransformer3DModel(**small, **more)
        names = list(model.state_dict())
        family = catalog.detect(names)
        assert family is not None
        assert (family.name, family.spelling) == ("wan_dit", "diffusers")
        ours = [family.convert(name, "lightx2v") for name in names]
        again = catalog.detect([str(name) for name in ours])
        assert again is not None
        assert (again.name, again.spelling) == ("wan_dit", "lightx2v")
        assert [again.convert(str(name), "diffusers") for name in ours] == names


def test_joined_names() -> None:
    joined = Rule("b.{i}.qkv", ("c.{i}.q", "c.{i}.k", "c.{i}.v"))
    table = Conversion([joined, Rule("end", ("out",), swapped=True)])
    there, back = Direction(table, True), Direction(table, False)
    hit = there.find("b.3.qkv.weight")
    assert hit is not None
    assert hit.others == ("c.3.q.weight", "c.3.k.weight", "c.3.v.weight")
    for number, name in enumerate(hit.others):
        again = back.find(name)
        assert again is not None
        assert (again.part, again.others) == (number, ("b.3.qkv.weight",))
    # They are not one tensor on both sides, row for row: nobody who only renames may take them.
    assert there.rename("b.3.qkv.weight") is there.rename("end.bias") is back.rename("c.3.q.weight") is None


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([Rule("qkv", ("q", None))], "rows that have no name would not come back"),
        ([Rule("qkv", ("q", "q"))], "'q' is in this rule too"),
        ([Rule("qkv", ("q", "k")), Rule("x", ("k",))], "'k' is in another rule too"),
        ([Rule("qkv", ("q", "k")), Rule("qkv.b", ("q.b",))], "would also fit"),
        ([Rule("a", ("b",), swapped=True), Rule("a.b", ("b.b",))], "would also fit"),
        ([Rule("a.{i}", ("q.{i}", "k"))], "same count"),
    ],
)
def test_joins_that_are_no_bijection_are_refused(rules: list[Rule], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Conversion(rules)


def test_what_only_one_spelling_has() -> None:
    table = Conversion([], (("norm_final", "blocks.{i}.norm.state"), ()))
    assert Direction(table, True).lacks("blocks.3.norm.state")
    assert not Direction(table, True).lacks("blocks.3.norm.weight")
    assert not Direction(table, True).lacks("blocks.x.norm.state")
    assert Direction(table, True).lacks("norm_final.weight")
    assert not Direction(table, True).lacks("norm_finally.weight")
    assert not Direction(table, False).lacks("norm_final.weight")


def test_a_table_may_hold_for_a_model_of_which_little_is_known() -> None:
    table = Conversion([Rule("a", ("b",))], holds={"model_type": ["llama"]})
    assert table.may_hold_for({})
    assert not table.holds_for({})
    assert table.may_hold_for({"model_type": "llama"})
    assert not table.may_hold_for({"model_type": "phi3"})
