"""Which files a run puts beside the weights, and that they appear with them."""

from __future__ import annotations

import pytest

import transcode as tc
from transcode.core.performance import Performance
from transcode.execution.beside import names


@pytest.mark.parametrize("target", ["o.safetensors", "o"])
def test_what_is_asked_for(wan, tmp_path, target):
    plan = tc.open(wan).plan(tc.write(tmp_path / target))
    sums, statement = (
        ("SHA256SUMS", "transcode.intoto.json")
        if target == "o"
        else ("o.safetensors.sha256", "o.safetensors.intoto.json")
    )
    assert names(plan, Performance()) == []
    assert names(plan, Performance(checksums=True)) == [sums]
    assert names(plan, Performance(checksums=True, attest=True)) == [sums, statement]
    tc.open(wan) | tc.write(tmp_path / target, attest=True)
    folder = tmp_path / target if target == "o" else tmp_path
    assert (folder / statement).exists()
    assert not (folder / sums).exists()
