"""Which linear modules a loader would quantize, and which it must be told that it must not."""

from __future__ import annotations

import pytest

from tests.expressions import NOTHING
from transcode import schemes
from transcode.consumers.config.layers import Layers, layers_of
from transcode.core.dtypes import DTYPES
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError


def tensor(name: str, *shape: int, dtype: str = "BF16", coded: bool = False) -> LazyTensor:
    made = plain(name, Spec(DTYPES[dtype], shape), NOTHING)
    return made.evolve(scheme=schemes.make("int8")) if coded else made


def test_linear_modules_are_quantized_or_kept() -> None:
    layers = layers_of(
        [
            tensor("model.embed_tokens.weight", 8, 8),
            tensor("model.layers.0.mlp.up_proj.weight", 8, 8, coded=True),
            tensor("model.layers.0.mlp.down_proj.weight", 8, 8),
            tensor("model.layers.0.mlp.down_proj.bias", 8),
            tensor("model.layers.0.input_layernorm.weight", 8),
            tensor("model.layers.0.conv.weight", 8, 8, 3),
            tensor("model.layers.0.index.weight", 8, 8, dtype="I64"),
        ]
    )
    assert layers.quantized.keys() == {"model.layers.0.mlp.up_proj"}
    assert layers.kept == ("lm_head", "model.layers.0.mlp.down_proj")  # the head is tied


def test_a_head_that_is_stored_is_not_listed_twice() -> None:
    for coded in (True, False):
        layers = layers_of([tensor("language_model.lm_head.weight", 8, 8, coded=coded)])
        assert layers.kept == (() if coded else ("language_model.lm_head",))


def test_an_embedding_is_no_linear_layer() -> None:
    with pytest.raises(PlanError, match="an embedding cannot be int8 here"):
        layers_of([tensor("model.embed_tokens.weight", 8, 8, coded=True)])


def test_a_name_that_would_hide_a_quantized_layer_is_left_out() -> None:
    planning = Planning()
    quantized = {"a.mlp.gate_proj": tensor("a.mlp.gate_proj.weight", 8, 8, coded=True)}
    layers = Layers(quantized, ("a.mlp.gate", "a.mlp.gate_projection", "lm_head"))
    assert layers.kept_by_prefix(planning) == ["a.mlp.gate_projection", "lm_head"]
    (warning,) = planning.warnings
    assert (warning.tensor, warning.kind) == ("a.mlp.gate", "hidden")
