"""``tc.inspect`` and ``tc.load``: the command's facts as a value; tensors in memory as they are stored."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import PlanError, RecipeError


def test_inspect_has_the_facts_of_the_command(wan, cli):
    assert tc.inspect(wan).to_json() == cli("inspect", wan, "--json").json
    some = tc.inspect(wan, "blocks.0")
    assert some.to_json() == cli("inspect", wan, "blocks.0", "--json").json
    assert some == tc.inspect(wan, ["blocks.0"])
    assert some.tensors.keys() == {name for name, _ in tc.open(wan).items() if name.startswith("blocks.0.")}
    assert tc.inspect(wan, ["head", "nothing"]).unused == ("nothing",)


def test_what_it_says(wan, save):
    told = tc.inspect(wan)
    stored = {name: value for file in wan.glob("*.safetensors") for name, value in load_file(file).items()}
    assert told.family == "wan_dit"
    assert told.nbytes == sum(value.nbytes for value in stored.values())
    assert sum(number for number, _ in told.dtypes.values()) == len(stored)
    assert "family wan_dit" in repr(told)
    assert "family unknown" in repr(tc.inspect(save({"a": torch.ones(2)})))
    assert json.loads(json.dumps(told.to_json()))["bytes"] == told.nbytes


FLOATS = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool]


@pytest.mark.parametrize("kind", FLOATS)
def test_load_is_what_the_reference_library_loads(kind, save):
    path = save({"a": torch.randint(0, 2, (3, 4)).to(kind), "b": torch.ones(()).to(kind)})
    wanted = load_file(path)
    for framework, device in (("torch", None), ("pt", None), ("torch", "cpu")):
        read = tc.load(path, framework=framework, device=device)
        assert read.keys() == wanted.keys()
        for name, value in wanted.items():
            assert read[name].dtype == value.dtype
            assert read[name].shape == value.shape
            assert torch.equal(read[name].float(), value.float())
    for framework in ("numpy", "np"):
        read = tc.load(str(path), framework=framework)
        for name, value in wanted.items():
            assert isinstance(read[name], np.ndarray)
            assert np.array_equal(read[name].astype(np.float32), value.float().numpy())
    if kind == torch.bfloat16:
        assert tc.load(path)["a"].dtype == ml_dtypes.bfloat16


def test_load_some(wan):
    names = set(tc.open(wan).keys())
    assert tc.load(wan, only="head").keys() == {name for name in names if name.startswith("head.")}
    assert tc.load(wan, only=["head", "blocks.0"]).keys() < names
    with pytest.raises(PlanError, match="no tensor"):
        tc.load(wan, only="nothing")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"framework": "jax"}, "neither numpy nor torch"),
        ({"device": "cuda:0"}, 'numpy has no device .*pass framework="torch"'),
        ({"only": 5}, "5 is not a list of texts"),
    ],
)
def test_mistakes(options, said, wan):
    with pytest.raises(RecipeError, match=said):
        tc.load(wan, **options)


@pytest.mark.parametrize("stage", [tc.keep, tc.drop])
def test_patterns_are_taken_one_by_one_or_in_a_list(stage):
    wanted = stage("a", "b")
    assert stage(["a", "b"]) == stage(("a", "b")) == stage({"a": 1, "b": 2}.keys()) == wanted
    assert stage(iter(["a", "b"])) == stage("a", ["b"]) == wanted
    with pytest.raises(RecipeError, match="is not a list of texts"):
        stage(5)


def test_one_text_is_one_item():
    assert tc.cast("bf16", only="abc") == tc.cast("bf16", only=["abc"])
    assert tc.cast("bf16", dtypes="F32") == tc.cast("bf16", dtypes=("F32",))
    assert tc.dequantize(only="abc").only == ("abc",)
    one = tc.quantize("int8", targets="abc", include="def", exclude="ghi")
    assert (one.targets, one.include, one.exclude) == (("abc",), ("def",), ("ghi",))
