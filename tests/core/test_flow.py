"""Flows: joined by ``|``, iterated, sliced, planned; nothing is read before it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import PlanError, TranscodeError
from transcode.io.local import MappedFile


def test_joining_is_associative(wan, tmp_path, digests):
    tail = tc.drop("*.bias") | tc.quantize("int8") | tc.write(tmp_path / "a.safetensors")
    tc.open(wan) | tail
    flow = tc.open(wan) | tc.drop("*.bias")
    flow = flow | tc.quantize("int8")
    flow | tc.write(tmp_path / "b.safetensors")
    tc.open(wan) | (tc.drop("*.bias") | (tc.quantize("int8") | tc.write(tmp_path / "c.safetensors")))
    assert (
        digests(tmp_path / "a.safetensors")
        == digests(tmp_path / "b.safetensors")
        == digests(tmp_path / "c.safetensors")
    )


def test_nothing_follows_write(tmp_path):
    with pytest.raises(TypeError, match="unsupported operand"):
        tc.drop("a") | "int8"
    with pytest.raises(TypeError, match="nothing can follow"):
        tc.drop("a") | tc.write(tmp_path / "x") | tc.drop("b")


def test_a_flow_is_a_table_of_tensors(wan):
    flow = tc.open(wan)
    assert len(flow) == len(list(flow)) == 87
    assert "head.head.weight" in flow
    assert "head.head.wait" not in flow
    with pytest.raises(PlanError, match=r"did you mean 'head\.head\.weight'"):
        flow["head.head.wait"]


def test_slices_are_what_the_reference_library_loads(wan):
    expected = {name: value for file in wan.glob("*.safetensors") for name, value in load_file(file).items()}
    flow = tc.open(wan)
    for name, value in expected.items():
        tensor = flow[name]
        assert tensor.spec.shape == tuple(value.shape)
        assert torch.equal(tensor.torch(), value)
        assert np.array_equal(np.asarray(tensor).astype(np.float32), value.float().numpy())


def test_flows_do_not_change_one_another(wan):
    flow = tc.open(wan)
    one, two = flow | tc.drop("blocks"), flow | tc.quantize("int8")
    assert len(flow) == 87
    assert len(one) < 87
    assert not two["blocks.0.ffn.0.weight"].plain
    assert flow["blocks.0.ffn.0.weight"].plain


def test_planning_reads_no_tensor(wan, tmp_path, monkeypatch):
    def never(*args, **rest):
        raise AssertionError("bytes were read")

    monkeypatch.setattr(MappedFile, "bytes", never)
    flow = (
        tc.open(wan) | tc.cast("F32") | tc.quantize("fp8", granularity="tensor") | tc.rename({"head": "tail"})
    )
    plan = flow.plan(
        tc.write(tmp_path / "out", layout="by_block", convention="lightx2v", allow_unmatched=True)
    )
    assert len(plan.files) >= 1
    assert plan.to_json()["tensors"]
    assert not list(tmp_path.iterdir())


def test_a_plan_can_be_run_again_and_again(wan, tmp_path):
    flow = tc.open(wan) | tc.quantize("int8", granularity="tensor")
    first = flow | tc.write(tmp_path / "a.safetensors")
    second = flow | tc.write(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert first.bytes_written == second.bytes_written == (tmp_path / "a.safetensors").stat().st_size


def test_an_error_does_not_spoil_the_flow(wan, tmp_path):
    flow = tc.open(wan) | tc.quantize("int8", granularity="tensor")
    (tmp_path / "a.safetensors").write_text("")
    with pytest.raises(TranscodeError):
        flow | tc.write(tmp_path / "a.safetensors")
    flow | tc.write(tmp_path / "b.safetensors")


@pytest.mark.parametrize("after", [tc.dequantize("F32"), tc.cast("F32"), tc.drop("c")])
def test_of_two_tensors_that_get_one_name_none_is_lost(after, save, tmp_path):
    """Stages that look tensors up by name once kept the last of them and said nothing."""
    source = save({f"{name}.weight": torch.randn(8, 8) for name in "abc"})
    made = tmp_path / "quantized.safetensors"
    tc.open(source) | tc.quantize("int8") | tc.write(made)
    names = {"a.weight": "b.weight", "a.weight_scale": "b.weight_scale"}
    flow = tc.open(made) | tc.rename(names=names) | after
    with pytest.raises(PlanError, match=r"'a\.weight\w*' and 'b\.weight\w*' would both"):
        list(flow)
