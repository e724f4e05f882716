"""Where a config says how tensors are quantized, and what is no way to say it."""

from __future__ import annotations

import pytest

from transcode.consumers.config.stated import malformed, statements, without_statements


def test_statements_of_a_model_and_its_parts() -> None:
    inner, early = {"quant_method": "fp8"}, {"config_groups": {}}
    config = {"quantization_config": inner, "text_config": {"compression_config": early}, "other": inner}
    assert [(holder[key], key) for holder, key in statements(config)] == [
        (inner, "quantization_config"),
        (early, "compression_config"),
    ]
    assert without_statements(config) == {"text_config": {}, "other": inner}
    assert "quantization_config" in config


@pytest.mark.parametrize("value", [[], "fp8", 3, False, [{"quant_method": "fp8"}]])
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_statement_that_is_no_object(key: str, value: object) -> None:
    for config in ({key: value}, {"text_config": {key: value}}):
        assert malformed(config) == f"{key} is {value!r}, not a JSON object"
        assert statements(config) == []


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}, {"quantization_config": {}}])
def test_what_is_well_formed(config: dict) -> None:
    assert malformed(config) is None
