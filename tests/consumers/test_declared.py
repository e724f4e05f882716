"""What record and config say of options that dtypes and shapes leave open."""

from __future__ import annotations

import json

import pytest

from transcode.consumers import record
from transcode.consumers.declared import Declared, declared


def config_of(tmp_path, statement: object) -> list:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"quantization_config": statement}))
    return [path]


def test_all_groups_of_a_config_are_taken_in(tmp_path) -> None:
    weights = [
        {"num_bits": 4, "group_size": 32, "symmetric": True},
        {"num_bits": 8, "group_size": None, "symmetric": False},
        {"num_bits": 8, "block_structure": [64, 128]},
    ]
    groups = {f"group_{n}": {"weights": one} for n, one in enumerate(weights)} | {
        "group_9": {"weights": None}
    }
    facts = declared({}, config_of(tmp_path, {"quant_method": "compressed-tensors", "config_groups": groups}))
    assert (facts.bits, facts.groups, facts.blocks) == ({4, 8}, {32}, {(64, 128)})
    assert facts.symmetric == {True, False}
    assert facts.words == " (config.json says num_bits 4, num_bits 8, symmetric false, symmetric true)"


def test_blocks_of_fp8(tmp_path) -> None:
    facts = declared({}, config_of(tmp_path, {"quant_method": "fp8", "weight_block_size": [32, 64]}))
    assert (facts.blocks, facts.bits, facts.words) == ({(32, 64)}, set(), "")


@pytest.mark.parametrize(
    "options",
    [
        {"group_size": 0}, {"group_size": "32"}, {"group_size": True}, {"num_bits": "4"}, {"block": [0, 1]},
        {"block": [1]}, {"block": "128x128"}, {"symmetric": True}, {"num_bits": 2.0, "symmetric": True},
    ],
)  # fmt: skip
def test_what_is_no_option_is_passed_over(options: dict) -> None:
    facts = Declared()
    facts.add(options)
    assert facts == Declared()


def test_the_record_tells_schemes_and_formats() -> None:
    steps = [
        {"quantize": {"scheme": "fp8", "options": {"format": "e5m2", "block": [16, 16]},
                      "overrides": [["ffn", "int8:group_size=64"]]}},
    ]  # fmt: skip
    made = {"convention": "neutral", "schemes": ["fp8", "int8"], "recipe": {"steps": steps}}
    facts = declared({record.KEY: json.dumps(made)}, [])
    assert facts.schemes == ["fp8", "int8"]
    assert (facts.formats, facts.blocks, facts.groups) == ({"fp8": {"e5m2"}}, {(16, 16)}, {64})
