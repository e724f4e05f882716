"""Which files a run puts beside the weights, and that they appear with them."""

from __future__ import annotations

import pytest
from standins.server import serving

import transcode as tc
from transcode.core.performance import Performance
from transcode.errors import PlanError
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


@pytest.mark.parametrize("target", ["o.safetensors", "o"])
@pytest.mark.parametrize("kind", ["checksums", "attest"])
def test_what_would_be_false_of_a_new_output_is_not_left(wan, tmp_path, target, kind):
    tc.open(wan) | tc.write(tmp_path / target, **{kind: True})
    flow = tc.open(wan) | tc.cast("F16")
    with pytest.raises(PlanError, match="tells of what was written here before") as error:
        flow | tc.write(tmp_path / target, force=True)
    assert f"{kind}=True" in str(error.value.hint)
    report = flow | tc.write(tmp_path / target, force=True, **{kind: True})
    assert report.plan.tensors


def test_a_statement_lacks_no_source(wan, tmp_path):
    """Of a source elsewhere no digest is known, and none is stated."""
    files = {f"/m/{path.name}": path.read_bytes() for path in wan.iterdir() if path.is_file()}
    weights = next(name for name in files if name.endswith(".safetensors"))
    with serving(files) as site, pytest.raises(PlanError, match="is not on this machine: attest=True states"):
        tc.open(site.url + weights) | tc.write(tmp_path / "o.safetensors", attest=True)
