"""Metadata of SVDQuant checkpoints, by what nunchaku's own files say and ComfyUI's loader reads."""

from __future__ import annotations

import json

import pytest

from transcode.catalog.profiles import profile
from transcode.consumers.config.svdquant import (
    comfy_config,
    config_metadata,
    model_class,
    quantization_config,
    rank,
)
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.errors import PlanError


def spec(dtype: str, *shape: int) -> Spec:
    return Spec(DTYPES[dtype], shape)


INT4 = {"a.qweight": spec("I8", 8, 32), "a.wscales": spec("BF16", 1, 8), "a.lora_down": spec("BF16", 64, 16)}
FP4 = {
    "a.qweight": spec("I8", 8, 32),
    "a.wscales": spec("F8_E4M3", 4, 8),
    "a.proj_down": spec("BF16", 64, 128),
}


def test_the_quantization_follows_from_the_tensors():
    assert quantization_config({"a.weight": spec("BF16", 8, 8)}) is None
    assert quantization_config(INT4) == {
        "method": "svdquant", "rank": 16,
        "weight": {"dtype": "int4", "scale_dtype": None, "group_size": 64},
        "activation": {"dtype": "int4", "scale_dtype": None, "group_size": 64},
    }  # fmt: skip
    assert quantization_config(FP4) == {
        "method": "svdquant", "rank": 128,
        "weight": {"dtype": "fp4_e2m1_all", "scale_dtype": [None, "fp8_e4m3_nan"], "group_size": 16},
        "activation": {"dtype": "fp4_e2m1_all", "scale_dtype": "fp8_e4m3_nan", "group_size": 16},
    }  # fmt: skip


@pytest.mark.parametrize(("name", "skips"), [("a", True), ("noise_refiner.0.attention.to_qkv", False)])
def test_z_image_says_whether_refiners_are_quantized(name, skips):
    tensors = {f"{name}.qweight": spec("I8", 8, 32)}
    config = quantization_config(tensors, "NunchakuZImageTransformer2DModel")
    assert (config["skip_refiners"], config["rank"]) == (skips, 32)
    assert "skip_refiners" not in quantization_config(tensors, "NunchakuFluxTransformer2dModel")


def test_the_rank_is_the_columns_of_the_first_matrix_below():
    assert rank(INT4) == 16
    assert rank({}) == 32
    assert rank({"a.lora_down": spec("BF16", 7), "b.lora_down": spec("BF16", 9, 5)}) == 5


def test_the_class_of_the_model():
    nunchaku = profile("nunchaku")
    name, wanted = next(iter(nunchaku.model_classes.items()))
    assert model_class({"_class_name": name}, nunchaku) == wanted
    assert model_class({}, nunchaku) == nunchaku.default_class
    for wrong in ("Unknown", 7, ["x"]):
        with pytest.raises(PlanError, match="nunchaku has no class"):
            model_class({"_class_name": wrong}, nunchaku)


def test_comfy_builds_flux_alone_and_counts_channels_before_folding():
    assert comfy_config({"_class_name": "QwenImageTransformer2DModel"}) == {}
    config = {"_class_name": "FluxTransformer2DModel", "in_channels": 128, "guidance_embeds": True,
              "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 3}  # fmt: skip
    built = comfy_config(config)
    assert built["model_class"] == "Flux"
    model = built["model_config"]
    assert (model["in_channels"], model["out_channels"], model["hidden_size"], model["depth"]) == (
        32,
        32,
        20,
        3,
    )
    schnell = comfy_config({"_class_name": "FluxTransformer2DModel"})
    assert schnell["model_class"] == "FluxSchnell"
    # FLUX.1's own sizes, where the configuration says none
    assert schnell["model_config"]["hidden_size"] == 24 * 128
    assert schnell["model_config"]["in_channels"] == schnell["model_config"]["out_channels"] == 16


def test_all_keys_are_there_and_a_given_comfy_config_wins():
    config = {
        "_class_name": "FluxTransformer2DModel",
        "torch_dtype": "bfloat16",
        "model_type": "flux",
        "x": [1],
    }
    metadata = config_metadata(config, INT4, "Model")
    assert json.loads(metadata["config"]) == json.loads(metadata["full_config"]) == config
    assert (metadata["torch_dtype"], metadata["model_class"]) == ("bfloat16", "Model")
    assert metadata["model_type"] == "flux"
    assert "x" not in metadata
    assert json.loads(metadata["quantization_config"])["rank"] == 16
    assert json.loads(metadata["comfy_config"])["model_class"] == "FluxSchnell"
    assert config_metadata(config, INT4, "Model", {})["comfy_config"] == "{}"
    other = config_metadata({}, {}, "Model")
    assert "comfy_config" not in other
    assert "quantization_config" not in other
