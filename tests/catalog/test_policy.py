"""Which tensors are targets, by names alone: every rule of a policy, and which of two rules wins."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.catalog.policy import Block, Fused, Policy
from transcode.core.patterns import Pattern
from transcode.errors import RecipeError


def said(owner: Policy, *of: Any) -> tuple[bool, str]:
    """Whether a tensor is quantized, and the words for why."""
    taken, why = owner.is_target(*of)
    return taken, str(why)


def patterns(*texts: str) -> tuple[Pattern, ...]:
    return tuple(map(Pattern, texts))


POLICY = Policy(
    blocks=(Block("blocks.{i}"), Block("vace.{i}", every=5), Block("refiner.{i}.part", file=False)),
    targets=patterns("ffn", "attn.q", "attn"),
    also=patterns("text_embedding.0"),
    never={"router": patterns("gate"), "embedding": patterns("patch_embedding")},
    adapters=patterns("lora_A"),
    fused=(Fused(("q", "k", "v")), Fused(("gate_proj", "up_proj"))),
    dims=(2, 3),
    extras={"other": patterns("head")},
    keeps={"other": patterns("blocks.1.ffn")},
)


@pytest.mark.parametrize(
    ("name", "taken", "why"),
    [
        ("blocks.0.ffn.0.weight", True, "target ffn"),
        ("blocks.0.attn.q.weight", True, "target attn.q"),  # the first that fits
        ("blocks.0.attn.o.weight", True, "target attn"),
        ("model.blocks.12.ffn.weight", True, "target ffn"),
        ("vace.3.ffn.weight", True, "target ffn"),
        ("refiner.1.part.ffn.weight", True, "target ffn"),
        ("refiner.1.ffn.weight", False, "outside blocks"),
        ("blocks.0.norm.weight", False, "not a target"),
        ("blocks.0.ffn.gate.weight", False, "never: router"),
        ("blocks.0.gate_proj.weight", False, "not a target"),  # no substring of a component
        ("ffn.0.weight", False, "outside blocks"),
        ("ffn.blocks.0.norm.weight", False, "not a target"),  # only what follows the number counts
        ("blocks.ffn.weight", False, "outside blocks"),
        ("myblocks.0.ffn.weight", False, "outside blocks"),
        ("text_embedding.0.weight", True, "target text_embedding.0"),
        ("text_embedding.1.weight", False, "outside blocks"),
        ("patch_embedding.text_embedding.0.weight", False, "never: embedding"),
        ("blocks.0.ffn.bias", False, "not a weight"),
        ("blocks.0.ffn.weight_scale", False, "not a weight"),
        ("blocks.0.ffn.lora_A.weight", False, "adapter"),
        ("blocks.0.ffn.lora_A.bias", False, "adapter"),
        ("head.weight", False, "outside blocks"),
    ],
)
def test_targets_and_their_reasons(name: str, taken: bool, why: str) -> None:
    assert said(POLICY, name) == (taken, why)


def test_an_extra_is_taken_for_its_convention_only() -> None:
    assert said(POLICY, "head.weight", None, "other") == (True, "target head, for other")
    assert said(POLICY, "head.weight", None, "mine") == (False, "outside blocks")
    # an extra wins over never, but is a weight and no adapter
    assert POLICY.is_target("gate.head.weight", None, "other")[0]
    assert said(POLICY, "head.bias", None, "other") == (False, "not a weight")
    assert said(POLICY, "head.lora_A.weight", None, "other") == (False, "adapter")


def test_what_is_kept_stays_for_its_convention_only() -> None:
    assert said(POLICY, "blocks.1.ffn.weight", None, "other") == (False, "never: kept by other")
    assert said(POLICY, "blocks.1.ffn.weight", None, "mine") == (True, "target ffn")
    assert said(POLICY, "blocks.11.ffn.weight", None, "other") == (True, "target ffn")
    assert said(POLICY, "blocks.1.ffn.bias", None, "other") == (False, "not a weight")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 4), True), ((2, 4, 4), True), ((4,), False), ((1, 2, 3, 4), False), (None, True)],
)
def test_dimensions(shape: tuple[int, ...] | None, expected: bool) -> None:
    taken, why = said(POLICY, "blocks.0.ffn.weight", shape)
    assert taken == expected
    assert why == ("target ffn" if expected or shape is None else f"{len(shape)}-D")
    assert Policy(blocks=POLICY.blocks, targets=POLICY.targets).is_target("blocks.0.ffn.weight", (4,))[0]


def test_everywhere_lifts_the_need_of_a_block() -> None:
    policy = Policy(targets=patterns("ffn"), everywhere=True)
    assert said(policy, "ffn.0.weight") == (True, "target ffn")
    assert said(policy, "mlp.0.weight") == (False, "not a target")


def test_what_is_a_weight_can_be_said_otherwise() -> None:
    policy = Policy(targets=patterns("*"), weights=patterns("kernel"), everywhere=True)
    assert policy.is_target("a.kernel")[0]
    assert said(policy, "a.weight") == (False, "not a weight")


def test_adapters() -> None:
    assert POLICY.is_adapter("blocks.0.ffn.lora_A.weight")
    assert not POLICY.is_adapter("blocks.0.ffn.lora_AB.weight")


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("blocks.0.ffn.weight", 0), ("blocks.17.x", 17), ("a.b.blocks.3.x", 3), ("blocks.3", 3),
        ("vace.0.x", 0), ("vace.3.x", 15), ("refiner.1.part.x", None), ("blocks.x.0", None),
        ("blocks.1x.0", None), ("xblocks.1.0", None), ("head.weight", None),
    ],
)  # fmt: skip
def test_blocks(name: str, block: int | None) -> None:
    assert POLICY.block_of(name) == block


@given(st.integers(0, 999), st.sampled_from(["", "model.", "a.b."]))
def test_numbers_of_blocks(number: int, prefix: str) -> None:
    assert POLICY.block_of(f"{prefix}blocks.{number}.w") == number
    assert POLICY.block_of(f"{prefix}vace.{number}.w") == 5 * number


@pytest.mark.parametrize("path", ["blocks", "blocks.{n}", "blocks.{i}.{i}", ""])
def test_a_block_path_holds_one_number(path: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"{path!r} is not a block path")):
        Block(path)


def test_fused_members_have_one_key() -> None:
    fused = Fused(("self_attn.q", "self_attn.k", "self_attn.kv"))
    keys = {fused.key(f"blocks.0.self_attn.{n}.weight") for n in ("q", "k", "kv")}
    assert len(keys) == 1
    assert None not in keys
    assert fused.key("blocks.1.self_attn.q.weight") not in keys  # of another block
    assert fused.key("blocks.0.self_attn.q.bias") not in keys  # of another kind
    for stranger in ("blocks.0.self_attn.o.weight", "blocks.0.self_attn.qq.weight", "blocks.0.attn.q.weight"):
        assert fused.key(stranger) is None


def test_a_member_that_begins_another_hides_it_not() -> None:
    fused = Fused(("w", "w.x"))
    assert fused.key("a.w.x.weight") == fused.key("a.w.weight") == "a.{w|w.x}.weight"


@pytest.mark.parametrize("members", [(), ("q",), ("q", "q")])
def test_a_group_has_two_members(members: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match="a fused group needs two members or more"):
        Fused(members)


def test_groups_of_a_policy() -> None:
    assert POLICY.group_of("b.0.q.weight") == POLICY.group_of("b.0.v.weight") is not None
    assert POLICY.group_of("b.0.up_proj.weight") == POLICY.group_of("b.0.gate_proj.weight") is not None
    assert POLICY.group_of("b.0.q.weight") != POLICY.group_of("b.0.up_proj.weight")
    assert POLICY.group_of("b.0.down_proj.weight") is None


@pytest.mark.parametrize("glob", ["a.[z-a]", "a.["])
def test_a_bracket_that_is_none_is_refused_when_it_is_said(glob):
    with pytest.raises(RecipeError, match="is not a valid pattern"):
        Fused((glob, "b"))
    with pytest.raises(RecipeError, match="is not a valid pattern"):
        Block(f"{glob}.{{i}}")
