"""What is said in config.json, read by torchao: the configuration by which it would make such layers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch

from tests.expressions import NOTHING
from transcode import schemes
from transcode.consumers.config import table
from transcode.consumers.config.stated import KEY
from transcode.core.dtypes import DTYPES
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain

ao = pytest.importorskip("torchao.quantization")
mx = pytest.importorskip("torchao.prototype.mx_formats")
from_dict = pytest.importorskip("torchao.core.config").config_from_dict

FP4 = torch.float4_e2m1fn_x2
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
KINDS: list[tuple[str, dict[str, Any], Any]] = [
    ("int8", {}, ao.Int8WeightOnlyConfig(version=2)),
    ("int8", {"granularity": "tensor"}, ao.Int8WeightOnlyConfig(version=2, granularity=ao.PerTensor())),
    (
        "int8", {"granularity": "group", "group_size": 32},
        ao.Int8WeightOnlyConfig(version=2, granularity=ao.PerGroup(32)),
    ),
    ("int8", {"symmetric": False}, ao.IntxWeightOnlyConfig(mapping_type=ao.MappingType.ASYMMETRIC)),
    ("fp8", {}, ao.Float8WeightOnlyConfig()),
    ("fp8", {"format": "e5m2"}, ao.Float8WeightOnlyConfig(weight_dtype=torch.float8_e5m2)),
    ("mxfp8", {}, mx.MXDynamicActivationMXWeightConfig()),
    ("mxfp4", {}, mx.MXDynamicActivationMXWeightConfig(activation_dtype=FP4, weight_dtype=FP4)),
    ("nvfp4", {}, mx.NVFP4WeightOnlyConfig()),
    ("awq_w4a16", {"group_size": 32}, ao.Int4WeightOnlyConfig(group_size=32)),
]  # fmt: skip


def quantized(module: str, scheme: str, **options: Any) -> LazyTensor:
    made, facts = schemes.make(scheme, **options), Spec(DTYPES["BF16"], (64, 64))
    return plain(f"{module}.weight", facts, NOTHING).evolve(scheme=made, parts=made.parts(facts))


def stated(*tensors: LazyTensor) -> dict[str, Any]:
    statement = table.state(tensors, "torchao", Planning())
    assert statement is not None
    return dict(json.loads(json.dumps(statement.config)))


@pytest.mark.parametrize(("scheme", "options", "wanted"), KINDS, ids=lambda one: str(one)[:40])
def test_the_configuration_is_torchaos_own(scheme: str, options: dict[str, Any], wanted: Any) -> None:
    assert from_dict(stated(quantized(UP, scheme, **options))["quant_type"]["default"]) == wanted


def test_of_several_kinds_each_layer_is_named_until_it_is_decoded() -> None:
    config = stated(quantized(UP, "int8"), quantized(DOWN, "fp8"))
    built = from_dict(config["quant_type"]["default"])
    assert built.fqn_to_config == {UP: KINDS[0][2], DOWN: KINDS[4][2]}
    before = copy.deepcopy(config)
    left = table.leave_out({KEY: config}, [f"{DOWN}.weight"], [f"{UP}.weight"])[KEY]
    assert from_dict(left["quant_type"]["default"]).fqn_to_config == {UP: KINDS[0][2]}
    assert left["modules_to_not_convert"] == ["lm_head", DOWN]
    assert config == before
