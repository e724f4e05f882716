"""Which tensors of a model the names of a LoRA mean: with prefixes, with underscores, of text encoders."""

import pytest

from transcode.catalog.lora import lora_names
from transcode.errors import PlanError, RecipeError
from transcode.stages.lora.spellings import Place
from transcode.stages.lora.targets import Homes

NAMES = ("layers.0.attn.q_proj.weight", "layers.0.attn.q_proj.bias", "layers.10.attn.q_proj.weight")


def homes(*names, keys="auto", prefix=None):
    return Homes(dict.fromkeys(names or NAMES, (4, 4)), lora_names(), keys, prefix)


@pytest.mark.parametrize(
    "base",
    [
        "layers.0.attn.q_proj",
        "diffusion_model.layers.0.attn.q_proj",
        "transformer.layers.0.attn.q_proj",
        "base_model.model.layers.0.attn.q_proj",
        "lora_unet_layers_0_attn_q_proj",
        "diffusion_model._orig_mod.layers.0.attn.q_proj",
    ],
)
def test_one_tensor(base):
    assert homes().find(base, "weight") == [(Place("layers.0.attn.q_proj.weight"),)]
    assert homes().find(base, "bias") == [(Place("layers.0.attn.q_proj.bias"),)]
    assert homes().find(base, "scale") == []


def test_the_models_own_prefix_is_taken_off_too():
    model = homes(*(f"model.diffusion_model.{name}" for name in NAMES))
    assert model.find("lora_unet_layers_10_attn_q_proj", "weight") == [
        (Place("model.diffusion_model.layers.10.attn.q_proj.weight"),)
    ]


def test_underscores_that_may_mean_two_tensors():
    both = homes("a.b_c.weight", "a_b.c.weight").find("lora_unet_a_b_c", "weight")
    assert sorted(home[0].name for home in both) == ["a.b_c.weight", "a_b.c.weight"]


def test_a_prefix_says_which_part_is_meant():
    names = [f"{part}.{name}" for part in ("low", "high") for name in NAMES]
    assert homes(*names, prefix="low.").find("layers.0.attn.q_proj", "weight") == [
        (Place("low.layers.0.attn.q_proj.weight"),)
    ]
    with pytest.raises(PlanError, match=r"no tensor's name begins with the prefix 'mid\.'"):
        homes(*names, prefix="mid.")


def test_text_encoders():
    model = homes(*NAMES)
    assert model.find_text("layers.0.attn.q_proj", "weight") is None
    assert model.find_text("lora_te_text_model_encoder_layers_0_mlp_fc1", "weight") == []
    assert not model.has_text_encoder
    encoder = homes("text_model.encoder.layers.0.mlp.fc1.weight")
    assert encoder.find_text("lora_te_text_model_encoder_layers_0_mlp_fc1", "weight") == [
        (Place("text_model.encoder.layers.0.mlp.fc1.weight"),)
    ]


def test_names_that_cannot_be_converted():
    with pytest.raises(RecipeError, match="keys cannot be converted"):
        homes(keys="convert")


def test_the_nearest_name_is_of_the_same_block():
    assert "'layers.10.attn.q_proj.weight'" in homes().nearest("layers.10.attn.q_prj", "weight")
    assert "'layers.10.attn.q_proj.weight'" in homes().nearest("lora_unet_layers_10_attn_q_prj", "weight")
