"""A model as transformers saves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A small Llama as transformers saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made: dict[bool, Path] = {}

    def call(tied: bool = False) -> Path:
        if tied not in made:
            torch.manual_seed(1)
            config = LlamaConfig(
                hidden_size=256, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, vocab_size=96, tie_word_embeddings=tied,
            )  # fmt: skip
            made[tied] = tmp_path_factory.mktemp("llama")
            LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(made[tied])
        return made[tied]

    return call
