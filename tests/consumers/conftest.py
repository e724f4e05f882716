"""Small language models whose log-probabilities depend on every layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# Groups of 128 divide only the first. The heads of the second do not come out even, its output layer is its
# embedding; the third has biases; the last two have experts, named in two ways.
MODELS: dict[str, tuple[str, torch.dtype, dict[str, Any]]] = {
    "llama": (
        "Llama",
        torch.float32,
        {"hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2},
    ),
    "llama odd": (
        "Llama",
        torch.bfloat16,
        {
            "hidden_size": 144, "intermediate_size": 208, "num_attention_heads": 3, "num_key_value_heads": 1,
            "head_dim": 48, "tie_word_embeddings": True,
        },
    ),
    "qwen2": (
        "Qwen2",
        torch.float16,
        {"hidden_size": 192, "intermediate_size": 256, "num_attention_heads": 3, "num_key_value_heads": 1},
    ),
    "qwen2 moe": (
        "Qwen2Moe",
        torch.bfloat16,
        {
            "hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
            "moe_intermediate_size": 96, "shared_expert_intermediate_size": 128, "num_experts": 4,
            "num_experts_per_tok": 2, "decoder_sparse_step": 1,
        },
    ),
    "mixtral": (
        "Mixtral",
        torch.bfloat16,
        {
            "hidden_size": 128, "intermediate_size": 160, "num_attention_heads": 2, "num_key_value_heads": 2,
            "num_local_experts": 4, "num_experts_per_tok": 2,
        },
    ),
}  # fmt: skip


def _trained(model: torch.nn.Module) -> None:
    """Weights as training leaves them: rows of unlike size, some outliers, and layers that matter."""
    draw = torch.Generator().manual_seed(11)
    for name, value in model.named_parameters():
        if "norm" in name:
            value.data = 1 + 0.1 * torch.randn(value.shape, generator=draw)
        elif "embed" in name or value.dim() < 2:
            value.data = 0.3 * torch.randn(value.shape, generator=draw)
        else:
            rows = torch.exp(0.5 * torch.randn((*value.shape[:-1], 1), generator=draw))
            far = 1 + 4 * (torch.rand(value.shape, generator=draw) < 0.002)
            drawn = torch.randn(value.shape, generator=draw)
            value.data = drawn * rows * far / value.shape[-1] ** 0.5
            if name.endswith("gate.weight"):
                value.data *= 6  # a router that is sure: noise does not change which experts are asked


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder as transformers saves it, by its name in :data:`MODELS`."""
    transformers = pytest.importorskip("transformers")
    made: dict[str, Path] = {}

    def call(name: str) -> Path:
        if name not in made:
            kind, dtype, sizes = MODELS[name]
            config = getattr(transformers, f"{kind}Config")(
                num_hidden_layers=2, vocab_size=64, max_position_embeddings=64, **sizes
            )
            model = getattr(transformers, f"{kind}ForCausalLM")(config)
            _trained(model)
            made[name] = tmp_path_factory.mktemp("model")
            model.to(dtype).save_pretrained(made[name])
        return made[name]

    return call
