"""What PEFT's options say of a module: alpha, rank, tokens, parameters; and what cannot be merged."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from transcode.containers.source import open_source
from transcode.errors import FormatError, PlanError
from transcode.stages.lora.scaling import Options, Scaling, read_scaling

from .arrays import FILE


def options(prefix="", **values):
    return Options(FILE, prefix, values)


@pytest.mark.parametrize(
    ("values", "wanted", "words"),
    [
        ({"lora_alpha": 16}, 2.0, ", alpha 16"),
        ({"alpha": 4}, 0.5, ", alpha 4"),
        ({"lora_alpha": 16, "use_rslora": True}, 16 / math.sqrt(8), ", alpha 16, rank-stabilized"),
        ({"lora_alpha": 16, "alpha_pattern": {"q_proj": 2}}, 0.25, ", alpha 2"),
        ({"lora_alpha": 16, "alpha_pattern": {"k_proj": 2}}, 2.0, ", alpha 16"),
        ({}, 1.0, ""),
    ],
)
def test_what_a_pair_counts(values, wanted, words):
    """``peft/tuners/lora/layer.py``: alpha / r, or alpha / sqrt(r)."""
    assert Scaling([options(**values)])("layers.0.q_proj", 8) == (wanted, words)


def test_a_rank_that_the_factors_have_not():
    scaling = Scaling([options(rank_pattern={"q_proj": 4}, lora_alpha=4)])
    assert scaling("a.q_proj", 4) == (1.0, ", alpha 4")
    with pytest.raises(PlanError, match=r"rank_pattern says 4 for 'a\.q_proj', whose factors have rank 8"):
        scaling("a.q_proj", 8)


def test_each_component_has_its_own():
    scaling = Scaling([options("unet.", lora_alpha=2), options("text_encoder.", lora_alpha=8)])
    assert scaling("unet.q", 4)[0] == 0.5
    assert scaling("text_encoder.q", 4)[0] == 2.0
    assert scaling("vae.q", 4) == (1.0, "")
    assert not Scaling([]).known
    assert scaling.known


def test_patterns_for_nothing_are_told():
    scaling = Scaling([options(alpha_pattern={"q_proj": 2, "nowhere": 3})])
    assert scaling.unmatched(["a.q_proj"]) == ["nowhere"]


def test_tokens_and_parameters():
    some = options(
        trainable_token_indices={"embed": [3, 1]}, target_parameters=["experts.gate_up", "mlp.down"]
    )
    assert some.tokens("model.embed") == [3, 1]
    assert some.tokens("model.other") is None
    assert some.parameters("layers.0.experts") == ["gate_up"]
    assert Scaling([options(r=2, lora_alpha=4, target_parameters=["experts.gate_up"])]).of_parameter(
        "layers.0.experts", "gate_up", 8
    ) == (2, 2.0, ", alpha 4")
    with pytest.raises(PlanError, match="r is 3, which does not divide the rank 8"):
        Scaling([options(r=3)]).of_parameter("layers.0.experts", "gate_up", 8)


def test_names_in_the_model_that_peft_saw():
    assert options().bare("base_model.model.layers.0._orig_mod.q") == "layers.0.q"
    assert options("unet.").bare("unet.q") == "q"


def test_series_and_limits_of_oft():
    assert options(peft_type="OFT").terms() == 5
    assert options(peft_type="OFT", use_cayley_neumann=False).terms() is None
    assert options(peft_type="OFT", coft=True, eps=0.2).limit(4) == pytest.approx(0.1)
    assert options(peft_type="OFT").limit(4) is None


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ({"peft_type": "VERA"}, PlanError, "peft_type 'VERA' cannot be merged"),
        ({"fan_in_fan_out": True}, PlanError, "fan_in_fan_out cannot be merged"),
        ({"lora_alpha": "16"}, FormatError, "lora_alpha is '16', not a number"),
        ({"r": 0}, FormatError, "r is 0, not a whole number above 0"),
        ({"alpha_pattern": [1]}, FormatError, r"alpha_pattern is \[1\], not a mapping"),
        ({"target_parameters": ["a", 1]}, FormatError, "target_parameters is .*, not a list of str"),
    ],
)
def test_what_is_refused(values, kind, words):
    with pytest.raises(kind, match=rf"lora\.safetensors: {words}"):
        options(**values)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "other.safetensors"])
def test_where_options_stand(name, tmp_path):
    """PEFT's beside the file that it names so; Diffusers' in its metadata, with components before them."""
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6}))
    told = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 9, "unet.r": 3})}
    save_file({"a": torch.zeros(2)}, tmp_path / name, told)
    with open_source(tmp_path / name) as source:
        scaling = read_scaling(source)
    assert scaling("unet.q", 3)[0] == (2.0 if name == "adapter_model.safetensors" else 3.0)
