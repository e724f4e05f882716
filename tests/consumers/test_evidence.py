"""What a source says of itself, source by source of evidence, the most specific first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transcode.consumers import record
from transcode.consumers.evidence import LAYERS, Claim, claims, layers


def said(tmp_path: Path, files: dict[str, object] | None = None, **more: object) -> list[Claim]:
    paths = []
    for name, content in (files or {}).items():
        paths.append(tmp_path / name)
        paths[-1].write_text(json.dumps(content))
    return claims(more.get("metadata", {}), paths, more.get("names", ()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statement", "conventions", "title"),
    [
        ({"quant_method": "compressed-tensors"}, {"compressed_tensors"}, ""),
        ({"quant_method": "compressed_tensors"}, {"compressed_tensors"}, ""),
        ({"quant_method": "FP8"}, {"deepseek", "deepseek_v4"}, ""),
        ({"quant_method": "mxfp8"}, {"deepseek"}, ""),
        ({"quant_method": "mxfp4"}, {"gpt_oss"}, ""),
        ({"quant_algo": "FP8"}, {"modelopt"}, ""),
        ({"load_in_4bit": True}, {"bitsandbytes"}, ""),
        ({"quant_method": "unheard_of"}, set(), "unheard_of"),
    ],
)
def test_a_config_names_its_method(statement, conventions, title, tmp_path) -> None:
    for config in ({"quantization_config": statement}, {"text_config": {"quantization_config": statement}}):
        (claim,) = said(tmp_path, {"config.json": config})
        assert claim.conventions == conventions
        assert title in claim.title
        assert claim.said.startswith("config.json says quant_method ")


def test_early_compressed_tensors_is_told_by_the_key(tmp_path) -> None:
    (claim,) = said(tmp_path, {"config.json": {"compression_config": {"config_groups": {}}}})
    assert claim.conventions == {"compressed_tensors"}


@pytest.mark.parametrize(
    "config",
    [{}, {"quantization_config": {}}, {"quantization_config": None}, {"quantization_config": {"a": 1}}],
)
def test_nothing_is_claimed_where_nobody_is_named(config, tmp_path) -> None:
    assert said(tmp_path, {"config.json": config, "tokenizer.json": {"quant_method": "fp8"}}) == []


def test_the_file_of_modelopt_and_that_of_mlx(tmp_path) -> None:
    (claim,) = said(tmp_path, {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}})
    assert (claim.said, claim.conventions) == ("hf_quant_config.json is beside it", {"modelopt"})
    (claim,) = said(tmp_path, {"config.json": {"quantization": {"bits": 4, "group_size": 64}}})
    assert (claim.said, claim.conventions) == ("config.json says quant_method 'mlx'", {"mlx"})


def test_the_record_goes_before_config_metadata_and_markers(tmp_path) -> None:
    recorded = {"convention": "neutral", "schemes": ["int8"]}
    metadata = {
        record.KEY: json.dumps(recorded),
        "quantization_config": json.dumps({"method": "aqlm"}),
        LAYERS: json.dumps({"layers": {"a": {"format": "nvfp4"}, "b": 3}}),
    }
    found = said(
        tmp_path,
        {"config.json": {"quantization_config": {"quant_method": "fp8"}}},
        metadata=metadata,
        names=["a.weight", "a.comfy_quant", "b.comfy_quant"],
    )
    assert [claim.conventions for claim in found] == [
        {"neutral"},
        {"deepseek", "deepseek_v4"},
        set(),
        {"comfyui"},
        {"comfyui"},
    ]
    assert found[2].said == "its metadata says quant_method 'aqlm'"
    assert "'a.comfy_quant' is a marker of" in found[4].said
    assert layers(metadata) == {"a": {"format": "nvfp4"}}
