"""Outputs are those of before, to the bit: one case of seven of ``tools/golden.py``, which checks all."""

import json

import golden


def test_one_of_seven_cases_writes_what_it_wrote():
    known = json.loads(golden.GOLDEN.read_text("utf-8"))
    now = golden.results(every=7)
    assert len(now) > 100
    assert {name: known.get(name) for name in now} == now
