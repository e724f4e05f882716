"""Metadata of SVDQuant files, by what nunchaku's and ComfyUI's loaders read."""

from __future__ import annotations

import json

import pytest

from transcode.catalog.profiles import profile
from transcode.consumers.config import svdquant
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.errors import PlanError


def tensors(scale: str, rank: int = 48) -> dict[str, Spec]:
    return {
        "blocks.0.qkv.qweight": Spec(DTYPES["I8"], (128, 64)),
        "blocks.0.qkv.wscales": Spec(DTYPES[scale], (8, 128)),
        "blocks.0.qkv.lora_down": Spec(DTYPES["BF16"], (128, rank)),
    }


def test_int4_and_fp4_differ_by_the_dtype_of_their_scales() -> None:
    assert svdquant.quantization_config(tensors("BF16")) == {
        "method": "svdquant",
        "weight": {"dtype": "int4", "scale_dtype": None, "group_size": 64},
        "activation": {"dtype": "int4", "scale_dtype": None, "group_size": 64},
        "rank": 48,
    }
    fp4 = svdquant.quantization_config(tensors("F8_E4M3"))
    assert fp4 is not None
    assert fp4["weight"] == {
        "dtype": "fp4_e2m1_all", "scale_dtype": [None, "fp8_e4m3_nan"], "group_size": 16,
    }  # fmt: skip
    assert svdquant.quantization_config({"a.weight": Spec(DTYPES["BF16"], (2, 2))}) is None


def test_refiners_are_skipped_where_they_are_not_quantized() -> None:
    model = "NunchakuZImageTransformer2DModel"
    for name, skipped in (("noise_refiner.0.attention.to_qkv.qweight", False), ("a.qweight", True)):
        config = svdquant.quantization_config({name: Spec(DTYPES["I8"], (128, 64))}, model)
        assert config is not None
        assert config["skip_refiners"] is skipped
        assert config["rank"] == 32


def test_comfyui_counts_channels_before_they_are_folded() -> None:
    config = {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True, "in_channels": 64}
    comfy = svdquant.comfy_config(config)
    assert comfy["model_class"] == "Flux"
    assert (comfy["model_config"]["in_channels"], comfy["model_config"]["out_channels"]) == (16, 16)
    assert comfy["model_config"]["hidden_size"] == 24 * 128
    assert svdquant.comfy_config({**config, "guidance_embeds": False})["model_class"] == "FluxSchnell"
    assert svdquant.comfy_config({"_class_name": "SanaTransformer2DModel"}) == {}


def test_what_is_embedded_is_json_of_the_whole() -> None:
    config = {"_class_name": "FluxTransformer2DModel", "model_type": "flux", "other": [1]}
    embedded = svdquant.config_metadata(config, tensors("BF16"), "NunchakuFluxTransformer2dModel")
    assert json.loads(embedded["config"]) == json.loads(embedded["full_config"]) == config
    assert (embedded["model_type"], embedded["model_class"]) == ("flux", "NunchakuFluxTransformer2dModel")
    assert "other" not in embedded
    assert json.loads(embedded["comfy_config"])["model_class"] == "FluxSchnell"
    empty = svdquant.config_metadata(config, {}, "x", comfy={})
    assert (empty["comfy_config"], "quantization_config" in empty) == ("{}", False)


def test_a_class_that_nunchaku_has_not_is_refused() -> None:
    known = profile("nunchaku")
    with pytest.raises(PlanError, match="no class for the model class 'UNet'"):
        svdquant.model_class({"_class_name": "UNet"}, known)
    assert svdquant.model_class({}, known) == known.default_class
