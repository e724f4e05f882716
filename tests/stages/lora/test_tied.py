"""An embedding trained whole, in a model whose head is tied to it: merged as PEFT computes, or refused."""

import pytest
import torch
from safetensors.torch import load_file

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def net(tie: bool):
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=40,
        tie_word_embeddings=tie,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).float()


@pytest.fixture
def adapted(tmp_path):
    """Saves a model and an adapter; returns their paths and the logits of the two together."""

    def call(tie: bool, **options):
        model = net(tie)
        model.save_pretrained(tmp_path / "m")
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **options)
        made = peft.get_peft_model(model, config)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            wanted = made(torch.arange(8)[None]).logits
        made.save_pretrained(tmp_path / "l")
        return tmp_path / "m", tmp_path / "l", wanted

    return call


def logits(path):
    model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.arange(8)[None]).logits


def test_a_tied_head_does_not_change_with_it(adapted, refused, tmp_path):
    model, adapter, _ = adapted(True, modules_to_save=["embed_tokens"])
    for lora in (adapter, adapter / "adapter_model.safetensors"):
        message = refused("run", model, tmp_path / "o", "--lora", lora)
        assert "model.embed_tokens.weight: is replaced by the one in" in message
        assert "tie_word_embeddings" in message


@pytest.mark.parametrize(
    ("tie", "options"),
    [
        (False, {"modules_to_save": ["embed_tokens"]}),
        (True, {"modules_to_save": ["norm"]}),
        (True, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
        (True, {}),
    ],
)
def test_what_is_merged_computes_the_same(tie, options, adapted, cli, tmp_path):
    model, adapter, wanted = adapted(tie, **options)
    # What is tied is saved twice; one of the two has no home in a model that ties them.
    twice = ["--allow-unmatched"] if "ensure_weight_tying" in options else []
    cli("run", model, tmp_path / "o", "--lora", adapter, *twice)
    assert torch.allclose(logits(tmp_path / "o"), wanted, atol=1e-5)
    assert ("lm_head.weight" in load_file(tmp_path / "o" / "model.safetensors")) == (not tie)
