"""A family in its spellings: chosen by names, converted between, behind a prefix."""

from __future__ import annotations

import pytest

from transcode import catalog
from transcode.errors import RecipeError


def test_another_spelling_of_the_same():
    family = catalog.family("flux")
    first, second, *_ = family.spellings
    other = family.spelled(second, "p.")
    assert (other.name, other.spelling, other.prefix) == ("flux", second, "p.")
    assert other.spelled(first).prefix == "p."
    assert family.spelling == first
    with pytest.raises(RecipeError, match="has no spelling 'x'") as error:
        family.spelled("x")
    assert all(name in error.value.hint for name in family.spellings)


@pytest.mark.parametrize(
    ("own", "there"),
    [("blocks.3.cross_attn.o.weight", "blocks.3.attn2.to_out.0.weight"),
     ("blocks.0.self_attn.q.bias", "blocks.0.attn1.to_q.bias"),
     ("patch_embedding.weight", "patch_embedding.weight")],
)  # fmt: skip
def test_names_in_another_spelling_and_back(own, there):
    """As ``scripts/convert_wan_to_diffusers.py`` of diffusers has them."""
    family = catalog.family("wan_dit").spelled("lightx2v", "model.")
    assert family.converts_to() == ("diffusers",)
    assert family.convert(f"model.{own}", "diffusers") == there
    back = family.spelled("diffusers", "")
    assert back.converts_to() == ("lightx2v",)
    assert back.convert(there, "lightx2v") == own
    assert family.convert("model.no.such.name", "diffusers") is None


def test_the_prefix_is_taken_off_and_names_without_it_are_not_known():
    family = catalog.family("flux").spelled("diffusers", "model.")
    assert family.convert("model.x_embedder.weight", "diffusers") == "x_embedder.weight"
    assert family.convert("x_embedder.weight", "diffusers") is None


def test_no_rules_between_two_spellings_is_an_error():
    family = catalog.family("flux").spelled("diffusers")
    object.__setattr__(family, "conversions", {})
    other = next(name for name in family.spellings if name != "diffusers")
    assert family.converts_to() == ()
    with pytest.raises(RecipeError, match="cannot be converted from diffusers") as error:
        family.convert("x", other)
    assert error.value.hint == "known: none"


def test_a_configuration_is_that_of_the_tensors_behind_the_prefix(goldens):
    golden = next(g for g in goldens if catalog.family(g.family).spelled(g.spelling).config(g.shapes, {}))
    family = catalog.family(golden.family).spelled(golden.spelling)
    wanted = family.config(golden.shapes, {})
    shapes = {f"p.{name}": shape for name, shape in golden.shapes.items()} | {"other.weight": (1, 2)}
    assert family.spelled(golden.spelling, "p.").config(shapes, {}) == wanted


def test_a_table_that_names_a_model_goes_before_the_one_for_all() -> None:
    stacked = catalog.family("decoder_llm").spelled("stacked")
    gate = "model.layers.3.mlp.gate.weight"
    for model, expected in (
        ("qwen3_moe", gate), ("olmoe", gate), ("mixtral", "model.layers.3.block_sparse_moe.gate.weight")
    ):  # fmt: skip
        assert stacked.direction("transformers", {"model_type": model}).rename(gate) == expected
    assert stacked.direction("transformers").rename(gate) == gate
