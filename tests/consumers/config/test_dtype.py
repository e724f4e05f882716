"""The dtype that config.json names is the one in which the model must be loaded."""

from __future__ import annotations

import pytest

from tests.expressions import NOTHING
from transcode import catalog, schemes
from transcode.consumers.config import dtype
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain


def tensor(name: str, kind: str, *shape: int) -> LazyTensor:
    return plain(name, Spec(DTYPES[kind], shape), NOTHING)


@pytest.mark.parametrize(
    ("matrices", "expected"),
    [
        (["BF16", "BF16"], "bfloat16"),
        (["BF16", "F32"], None),
        (["F8_E4M3"], None),
        ([], None),
        (["I8", "F16"], "float16"),
    ],
)
def test_one_dtype_of_all_matrices(matrices: list[str], expected: str | None) -> None:
    tensors = [tensor(f"a.{n}.weight", kind, 2, 2) for n, kind in enumerate(matrices)]
    assert dtype.dtype_of_weights([*tensors, tensor("norm.weight", "F32", 2)]) == expected


def test_the_dtype_that_a_consumer_decodes_to() -> None:
    convention = next(
        one for one in catalog.every_convention() if any(rule.computes for rule in one.schemes.values())
    )
    name, rule = next((name, rule) for name, rule in convention.schemes.items() if rule.computes)
    quantized = tensor("a.weight", "BF16", 64, 64).evolve(scheme=schemes.make(name))
    assert dtype.decoded_to([tensor("b.weight", "F32", 2, 2), quantized], convention) == rule.computes
    assert dtype.decoded_to([tensor("b.weight", "F32", 2, 2)], convention) is None


def test_a_model_and_its_parts_get_the_dtype() -> None:
    config = {
        "torch_dtype": "float32",
        "text_config": {"dtype": "float32", "deep": {"torch_dtype": "float32", "n": 1}},
        "quantization_config": {"dtype": "float32"},
    }
    assert dtype.with_dtype(config, "bfloat16") == {
        "torch_dtype": "bfloat16",
        "text_config": {"dtype": "bfloat16", "deep": {"torch_dtype": "bfloat16", "n": 1}},
        "quantization_config": {"dtype": "float32"},
    }
    assert dtype.with_dtype({}, "float16") == {"torch_dtype": "float16"}


def test_only_what_is_named_changes() -> None:
    config = {"dtype": "torch.float16", "text_config": {"torch_dtype": "float32"}, "other": {"dtype": "x"}}
    assert dtype.with_own_dtype(config, "float16") == {
        "dtype": "torch.float16", "text_config": {"torch_dtype": "float16"}, "other": {"dtype": "x"},
    }  # fmt: skip
    assert config["text_config"] == {"torch_dtype": "float32"}
    assert dtype.with_own_dtype({"dtype": "float16", "n": 1}, "float16") is None
    assert dtype.with_own_dtype({"quantization_config": {"dtype": "float32"}}, "float16") is None
