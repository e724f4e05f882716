"""Outputs are those of before, to the bit: one case of seven of ``tools/golden.py``, which checks all."""

import json

import golden
import pytest

SHARES = 8


@pytest.mark.parametrize("number", range(SHARES))
def test_one_of_seven_cases_writes_what_it_wrote(number):
    known = json.loads(golden.GOLDEN.read_text("utf-8"))
    now = golden.results(every=7, share=(number, SHARES))
    assert len(now) > len(known) // 7 // SHARES - 2
    assert {name: known.get(name) for name in now} == now
