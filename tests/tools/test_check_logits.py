"""The tool that compares what models answer: a pair that is the same, and one that is not."""

from __future__ import annotations

import check_logits
import pytest

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")


def test_a_pair_whose_logits_are_the_same(capsys):
    assert check_logits.main(["--kind", "dense", "--only", "^fp8 of deepseek -> F32"]) == 0
    assert capsys.readouterr().out == "dense: fp8 of deepseek -> F32 of plain: same\n"


def test_nothing_to_compare_is_no_success():
    assert check_logits.main(["--kind", "dense", "--only", "^no such pair"]) == 1
