"""What stands beside a tensor is written as hqq's ``encode_safetensor_type`` writes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from transcode.catalog.setting import Setting
from transcode.catalog.template import Template

NAME = Template("{stem}.x")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (Setting(NAME, True), ("U8", (), b"\x01")),
        (Setting(NAME, 70000), ("I32", (), b"\x70\x11\x01\x00")),
        (Setting(NAME, option="bits"), ("I32", (), b"\x04\x00\x00\x00")),
        (Setting(NAME, option="bits", words={"4": "4bit_u8"}), ("U8", (7,), b"4bit_u8")),
        (Setting(NAME), None),
    ],
)
def test_content(setting: Setting, expected: Any) -> None:
    assert setting.of(SimpleNamespace(bits=4)) == expected
