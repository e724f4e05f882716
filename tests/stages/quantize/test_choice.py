"""Which tensors are quantized: each rule alone, and which wins where several speak."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from transcode import schemes
from transcode.core.dtypes import DTYPES
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError, RecipeError
from transcode.stages.quantize.choice import Choice


def tensor(name: str, shape: tuple[int, ...] = (64, 64), dtype: str = "BF16", source: str = "") -> LazyTensor:
    return plain(name, Spec(DTYPES[dtype], shape), lambda *_: iter(()), source=source or name)


def wan(rename: tuple[str, str] = ("", "")) -> list[LazyTensor]:
    """Names by which Wan is recognised, perhaps renamed on the way."""
    names = [
        f"blocks.{i}.{m}.weight"
        for i in range(2)
        for m in (
            *(f"{a}.{n}" for a in ("self_attn", "cross_attn") for n in "qkvo"),
            "ffn.0",
            "ffn.2",
            "norm3",
        )
    ]
    names += [f"blocks.{i}.self_attn.norm_q.weight" for i in range(2)]
    names += ["blocks.0.modulation", "blocks.1.modulation"]
    names += ["patch_embedding.weight", "text_embedding.0.weight", "time_embedding.0.weight"]
    names += ["time_projection.1.weight", "head.head.weight", "head.modulation"]
    return [tensor(name.replace(*rename) if rename[0] else name, source=name) for name in names]


def choose(
    tensors: Sequence[LazyTensor],
    model: str | None = None,
    targets: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    **planning: object,
) -> tuple[dict[str, str], Planning, Choice]:
    """The reasons of what is taken, by name, and what was said."""
    said = Planning(**planning)  # type: ignore[arg-type]
    choice = Choice(model, targets, include, exclude, tensors, said)
    found = {one.name: choice(one) for one in tensors}
    return {name: str(why) for name, (taken, why) in found.items() if taken}, said, choice


FAMILY = {
    f"blocks.{i}.{m}.weight"
    for i in range(2)
    for m in (*(f"{a}.{n}" for a in ("self_attn", "cross_attn") for n in "qkvo"), "ffn.0", "ffn.2")
}


def test_the_family_is_recognised_and_decides() -> None:
    taken, said, _ = choose(wan())
    assert taken.keys() == FAMILY
    assert all(why.startswith("target ") for why in taken.values())
    assert list(map(str, said.notes)) == ["family wan_dit, recognised from tensor names"]


def test_renamed_before_or_after_the_same_are_taken() -> None:
    """By the names of the source, where a rename has hidden those of the family."""
    taken, said, choice = choose(wan(("blocks.", "layer_stack.")))
    assert taken.keys() == {name.replace("blocks.", "layer_stack.") for name in FAMILY}
    assert list(map(str, said.notes)) == ["family wan_dit, recognised from tensor names"]
    assert choice.group_of(tensor("layer_stack.0.self_attn.q.weight", source="blocks.0.self_attn.q.weight"))


def test_a_family_that_is_named() -> None:
    taken, said, _ = choose(wan(), model="wan_dit")
    assert taken.keys() == FAMILY
    assert list(map(str, said.notes)) == ["family wan_dit, as given"]
    with pytest.raises(RecipeError, match="klingon"):
        choose(wan(), model="klingon")


def test_an_unknown_family_is_said() -> None:
    taken, said, _ = choose([tensor("a.b.weight"), tensor("a.norm.weight"), tensor("lm_head.weight")])
    assert taken.keys() == {"a.b.weight"}
    assert any("unknown family" in str(note) for note in said.notes)
    _, said, _ = choose([tensor("a.b.weight")], targets=["b"])
    assert list(map(str, said.notes)) == ["targets as given: b"]


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"targets": ["ffn"]}, {n for n in FAMILY if ".ffn." in n}),
        ({"targets": ["text_embedding"]}, {"text_embedding.0.weight"}),  # whatever the family says
        ({"include": ["head.head"]}, FAMILY | {"head.head.weight"}),
        ({"include": ["blocks.0.modulation"]}, FAMILY | {"blocks.0.modulation"}),  # no .weight either
        ({"exclude": ["blocks.0"]}, {n for n in FAMILY if "blocks.1" in n}),
        ({"include": ["head.head"], "exclude": ["head"]}, FAMILY),
        ({"targets": ["ffn"], "exclude": ["ffn.0"]}, {n for n in FAMILY if ".ffn.2" in n}),
        (
            {"targets": ["ffn.0"], "include": ["self_attn.q"]},
            {n for n in FAMILY if ".ffn.0" in n or "self_attn.q" in n},
        ),
        ({"targets": ["blocks.0.modulation"]}, set()),  # a target needs a .weight
    ],
)
def test_patterns(options: dict[str, list[str]], taken: set[str]) -> None:
    assert choose(wan(), **options)[0].keys() == taken


REASONS = [
    ("a.weight", (4, 4), "I8", {}, "I8 is not a plain float"),
    ("a.weight", (4, 4), "F8_E4M3", {"include": ["a"]}, "F8_E4M3 is not a plain float"),
    ("a.weight", (4,), "F32", {}, "1-D"),
    ("a.weight", (4,), "F32", {"targets": ["a"]}, "1-D"),
    ("a.weight", (), "F32", {}, "0-D"),
    ("a.weight", (4, 4), "F32", {"exclude": ["x", "a"]}, "exclude a"),
    ("a.weight", (4,), "I8", {"exclude": ["a"]}, "exclude a"),
    ("a.weight", (4, 4), "F32", {"targets": ["b"]}, "matches no target"),
    ("a.bias2", (4, 4), "F32", {"targets": ["a"]}, "not a .weight"),
    ("a.lora", (4, 4), "F32", {}, "not a weight"),
]


@pytest.mark.parametrize(("name", "shape", "dtype", "options", "why"), REASONS)
def test_reasons_against(
    name: str, shape: tuple[int, ...], dtype: str, options: dict[str, list[str]], why: str
) -> None:
    one = tensor(name, shape, dtype)
    choice = Choice(
        None, options.get("targets", ()), options.get("include", ()), options.get("exclude", ()), [one],
        Planning(),
    )  # fmt: skip
    taken, reason = choice(one)
    assert (taken, str(reason)) == (False, why)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"include": ["z", "a"]}, "include a"), ({"targets": ["z", "a"]}, "target a")],
)
def test_reasons_for(options: dict[str, list[str]], why: str) -> None:
    assert choose([tensor("a.weight")], **options)[0] == {"a.weight": why}


def test_what_is_quantized_is_not_quantized_again_whoever_asks() -> None:
    one = tensor("a.weight").evolve(scheme=schemes.make("int8"))
    for options in ({}, {"include": ["a"]}, {"targets": ["a"]}):
        chosen, _, choice = choose([one], **options)  # type: ignore[arg-type]
        assert chosen == {}
        taken, why = choice(one)
        assert (taken, why.kind) == (False, "quantized already")
        choice.complain([])  # the pattern found its module: it is no mistake


@pytest.mark.parametrize("option", ["targets", "include", "exclude"])
def test_patterns_that_match_nothing_are_complained_of(option: str) -> None:
    *_, choice = choose(wan(), **{option: ["blocks.0.ffn.0", "ffm"]})  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=f"{option}: 'ffm' matches no tensor"):
        choice.complain([])
    _, said, choice = choose(wan(), allow_unmatched=True, **{option: ["ffm"]})  # type: ignore[arg-type]
    choice.complain([])
    assert any("'ffm'" in str(warning) for warning in said.warnings)


def test_experts_in_one_tensor_are_found_by_targets() -> None:
    layer = [tensor("x.moe.experts.gate_up_proj", (4, 8, 4)), tensor("x.moe.experts.gate_up_bias", (4, 8, 1)),
             tensor("x.conv.kernel", (4, 8, 4)), tensor("x.mixer.q.weight")]  # fmt: skip
    chosen, *_ = choose(layer, targets=["experts.gate_up_proj"])
    assert set(chosen) == {"x.moe.experts.gate_up_proj"}
    chosen, *_ = choose(layer, targets=["*"])
    assert set(chosen) == {"x.moe.experts.gate_up_proj", "x.mixer.q.weight"}
    *_, choice = choose(layer, targets=["expert"])
    with pytest.raises(PlanError, match=r"'expert' matches no tensor .*, did you mean 'experts'\?"):
        choice.complain([])


def test_a_bias_alone_does_not_satisfy_a_pattern() -> None:
    *_, choice = choose([tensor("a.bias", (4,)), tensor("b.weight")], include=["a"])
    with pytest.raises(PlanError, match="include: 'a' matches no tensor"):
        choice.complain([])
    *_, choice = choose([tensor("a.bias", (4,)), tensor("b.weight")], exclude=["a"])
    choice.complain([])  # to leave a bias is no mistake


def test_what_may_be_cast() -> None:
    *_, choice = choose(wan())
    assert choice.may_cast(tensor("blocks.0.norm3.weight"))
    assert choice.may_cast(tensor("blocks.0.norm3.bias", (4,), "F32"))
    assert not choice.may_cast(tensor("counts", (4,), "I64"))
    assert not choice.may_cast(tensor("codes", (4, 4), "F8_E4M3"))
    assert not choice.may_cast(tensor("a.weight").evolve(scheme=schemes.make("int8")))


def test_adapters_keep_their_dtype() -> None:
    names = ["blocks.0.ffn.0.weight", "face_adapter.fuser_blocks.0.linear1_kv.weight"]
    *_, choice = choose([tensor(name) for name in names], model="wan_animate_dit")
    assert choice.may_cast(tensor("blocks.0.ffn.0.weight"))
    assert not choice.may_cast(tensor("face_adapter.fuser_blocks.0.linear1_kv.weight"))


def test_what_files_for_a_consumer_keep_is_said_and_can_be_included() -> None:
    names = [f"transformer_blocks.{i}.{m}.weight" for i in (0, 10) for m in ("img_mod.1", "txt_mod.1")]
    names += ["transformer_blocks.0.attn.add_q_proj.weight", "transformer_blocks.0.img_mlp.net.0.proj.weight"]
    tensors = [tensor(name) for name in names]
    for convention, include, stays in (
        ("comfyui", (), {"transformer_blocks.0.img_mod.1.weight"}),
        ("comfyui", ("transformer_blocks.0.img_mod",), set()),
        ("lightx2v", (), set()),
    ):
        taken, said, choice = choose(tensors, include=include, convention=convention)
        assert taken.keys() == {*names} - stays
        choice.complain([(one, None, choice(one)[1]) for one in tensors])
        notes = [str(note) for note in said.notes if "in full" in str(note)]
        assert len(notes) == bool(stays)
        assert all(
            "keeps what files for comfyui have in full, transformer_blocks.0.img_mod.1.weight: " in n
            for n in notes
        )
