"""What is known of a model, from its config.json or from the header of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transcode.core.planning import Planning
from transcode.errors import PlanError
from transcode.stages.facts import check_model, facts_of


def test_what_a_config_says(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"model_type": "a", "text_config": {"model_type": "b", "num_attention_heads": 4}})
    )
    facts = facts_of(Planning(side_files=[path]))
    assert (facts["model_type"], facts["num_attention_heads"], facts["num_key_value_heads"]) == ("a", 4, 4)
    path.write_text(json.dumps({"num_attention_heads": 4, "num_key_value_heads": 2}))
    assert facts_of(Planning(side_files=[path]))["num_key_value_heads"] == 2
    assert facts_of(Planning()) == {}


def test_what_a_header_says() -> None:
    metadata = {"general.architecture": "llama", "llama.attention.head_count": "8", "qwen2.block_count": "3"}
    assert facts_of(Planning(metadata=metadata)) == {
        "architecture": "llama", "num_attention_heads": 8, "num_key_value_heads": 8,
    }  # fmt: skip


def test_rules_of_another_model() -> None:
    holds = {"model_type": ["llama", "mistral"]}
    check_model(holds, {"model_type": "llama"}, "x")
    check_model({}, {}, "x")
    with pytest.raises(PlanError, match="whose model_type is llama, mistral, not 'granite'"):
        check_model(holds, {"model_type": "granite"}, "x")
    with pytest.raises(PlanError, match=r"no config\.json that says model_type"):
        check_model(holds, {}, "x")
    known = {"architecture": ["llama"]}
    with pytest.raises(PlanError, match="'kimi_linear' is not written to GGUF here: of its linear attention"):
        check_model(known, {"model_type": "kimi_linear"}, "x")


def test_a_model_that_sees_is_to_llama_cpp_what_reads_text_of_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, architecture in (("mistral", "llama"), ("ministral3", "mistral3"), ("mistral4", None)):
        path.write_text(json.dumps({"model_type": "mistral3", "text_config": {"model_type": text}}))
        facts = facts_of(Planning(side_files=[path]))
        assert (facts["model_type"], facts.get("architecture")) == ("mistral3", architecture)
