"""What is said of positions, and Llama 3.1's divisors, by transformers' own function."""

from __future__ import annotations

from typing import Any

import pytest

from transcode.errors import PlanError
from transcode.stages.llama_positions import positions, rope_factors

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def test_divisors_are_transformers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {**LLAMA3, "rope_theta": 500000.0}
    config = transformers.LlamaConfig(hidden_size=256, num_attention_heads=2, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / 500000.0 ** (torch.arange(0, 128, 2) / 128)
    found = rope_factors({"rope_parameters": rope, "hidden_size": 256, "num_attention_heads": 2})
    assert found is not None
    assert found.name == "rope_freqs.weight"
    assert torch.allclose(torch.from_numpy(found.numpy()), plain / scaled, rtol=1e-5)
    assert rope_factors({"rope_parameters": {"rope_type": "default"}}) is None


def test_what_is_said() -> None:
    def said(name: str = "llama", **facts: Any) -> dict[str, str]:
        return {key: str(value) for key, value in positions(name, facts).items()}

    assert float(said(rope_theta=5e5)["llama.rope.freq_base"]) == 5e5
    yarn = said(rope_scaling={**YARN, "beta_fast": 16}, rope_theta=1e6)
    assert yarn["llama.rope.scaling.type"] == "yarn"
    assert float(yarn["llama.rope.scaling.factor"]) == 4
    assert int(yarn["llama.rope.scaling.original_context_length"]) == 32768
    assert float(yarn["llama.rope.scaling.yarn_beta_fast"]) == 16
    linear = said(rope_scaling={"type": "linear", "factor": 2})
    assert linear["llama.rope.scaling.type"] == "linear"
    nested = {"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
              "sliding_attention": {"rope_theta": 1e4}}  # fmt: skip
    gemma = said("gemma3", rope_parameters=nested)
    assert (float(gemma["gemma3.rope.freq_base"]), float(gemma["gemma3.rope.scaling.factor"])) == (1e6, 8)
    deep = said("deepseek2", rope_scaling={**YARN, "mscale": 0.5, "mscale_all_dim": 0.5})
    assert float(deep["deepseek2.rope.scaling.yarn_log_multiplier"]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"rope_theta": "big"}, "rope_theta: 'big', which is no number above 0"),
        ({"rope_theta": float("inf")}, "rope_theta: inf"),
        ({"rope_parameters": [1]}, "which is no object"),
        ({"rope_scaling": {"type": "longrope"}}, "scales positions by 'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "factor: None"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "original_max_position_embeddings: None"),
        ({"rope_scaling": {**YARN, "attention_factor": 1.0}}, "attention_factor"),
        ({"rope_scaling": {**YARN, "mscale": 1.0}}, "mscale: 1.0, mscale_all_dim: None"),
    ],
)
def test_what_cannot_be_said(facts: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanError, match=why.replace("(", r"\(")):
        positions("llama", facts)


def test_divisors_that_are_none() -> None:
    sizes = {"hidden_size": 256, "num_attention_heads": 2}
    with pytest.raises(PlanError, match="low_freq_factor: None"):
        rope_factors({"rope_scaling": {**LLAMA3, "low_freq_factor": None}, **sizes})
    with pytest.raises(PlanError, match="not above low_freq_factor"):
        rope_factors({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}, **sizes})
    with pytest.raises(PlanError, match="num_attention_heads: 'x'"):
        rope_factors({"rope_scaling": LLAMA3, "hidden_size": 256, "num_attention_heads": "x"})


def test_what_is_said_of_ministral() -> None:
    """As ``conversion/mistral3.py`` of llama.cpp; tests/stages/test_llama_header.py holds its answers."""
    rope = {**YARN, "rope_theta": 1e6, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
    said = {key: str(value) for key, value in positions("mistral3", {"rope_parameters": rope}).items()}
    assert float(said["mistral3.rope.scaling.yarn_log_multiplier"]) == 1
    assert float(said["mistral3.attention.temperature_scale"]) == pytest.approx(0.1)
    with pytest.raises(PlanError, match="llama_4_scaling_beta: None"):
        positions("mistral3", {"rope_parameters": {**rope, "llama_4_scaling_beta": None}})
