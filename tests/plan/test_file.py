"""Plans as values: equal after a pickle or a file, and carried out elsewhere they write the same bytes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import golden
import make_svdquant
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.core import values
from transcode.core.performance import Performance
from transcode.errors import FormatError, PlanError
from transcode.execution.carry import carry_out, check
from transcode.plan import file as plan_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    """A flow for each kind of expression, by name, with options of write()."""
    maker = golden.Maker(tmp_path_factory.mktemp("sources"))
    llama = maker.path("llama", golden.llama)
    mixed = maker.path("mixed.safetensors", golden.mixed)
    pickled = maker.path("llama.pth", golden.pickled)
    turned = maker.path(
        "turned.pt", lambda path: torch.save({"w": torch.arange(60.0).reshape(6, 10).T}, path)
    )
    svdquant = maker.path(
        "svdquant", lambda path: make_svdquant.save(path, make_svdquant.make(1, 1, dim=128))
    )
    packed = maker.path(
        "packed",
        lambda path: tc.open(llama) | tc.quantize("int4") | tc.write(path, convention="compressed_tensors"),
    )
    peaks = maker.path(
        "calib.pt",
        lambda path: torch.save(
            {"absmax": {name: torch.tensor(2.5) for name in golden.llama_tensors() if "proj" in name}}, path
        ),
    )

    def adapter(kind):
        name = "peft" if kind == "peft" else f"{kind}.safetensors"
        return tc.lora(maker.path(name, golden.adapter(kind)), 0.5)

    quantize = tc.quantize
    return {
        "copy": (tc.open(llama), {}),
        "cast": (tc.open(mixed) | tc.cast("F16", saturate=True), {}),
        "pickle": (tc.open(pickled) | quantize("int8"), {}),
        "strided": (tc.open(turned), {}),
        "pad": (
            tc.open(mixed) | quantize("nvfp4", targets=["layers"], on_bad_shape="pad"),
            {"convention": "neutral"},
        ),
        "comfyui": (tc.open(llama) | quantize("nvfp4"), {"convention": "comfyui"}),
        "shared scales": (tc.open(llama) | quantize("nvfp4"), {"convention": "modelopt"}),
        "calibrate": (tc.open(llama) | quantize("nvfp4") | tc.calibrate(peaks), {"convention": "lightx2v"}),
        "decode": (tc.open(packed) | tc.dequantize("F32") | quantize("fp8"), {}),
        "nunchaku": (tc.open(svdquant) | tc.nunchaku(), {}),
        **{f"lora {kind}": (tc.open(llama) | adapter(kind), {}) for kind in ("peft", "dora", "loha", "lokr")},
    }  # fmt: skip


NAMES = [
    "copy", "cast", "pickle", "strided", "pad", "comfyui", "shared scales", "calibrate", "decode", "nunchaku",
    "lora peft", "lora dora", "lora loha", "lora lokr",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_is_a_value(name, flows, tmp_path):
    flow, options = flows[name]
    plan = flow.plan(tc.write(tmp_path / "o", layout="single_file", **options))
    assert plan == flow.plan(tc.write(tmp_path / "o", layout="single_file", **options))
    for back in (pickle.loads(pickle.dumps(plan)), values.load(json.loads(json.dumps(values.dump(plan))))):
        assert back == plan
        assert back.digest == plan.digest
    flow | tc.write(tmp_path / "whole", layout="single_file", **options)
    check(back, Performance(), force=False)
    carry_out(back, tc.write(tmp_path / "x", workers=3, tile=5000).performance)
    assert golden.digest(tmp_path / "o") == golden.digest(tmp_path / "whole")


def test_in_another_process_by_the_command_line(cli, flows, tmp_path):
    flow, options = flows["comfyui"]
    (source,) = {one.path.parent for one in flow.source.inputs}
    arguments = (source, tmp_path / "o", "--scheme", "nvfp4", "--convention", "comfyui")
    told = cli("run", *arguments, "--plan-out", tmp_path / "plan.json").out
    assert "nvfp4" in told
    assert not (tmp_path / "o").exists()
    command = [sys.executable, "-m", "transcode", "run", "--plan", str(tmp_path / "plan.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=ROOT)
    flow | tc.write(tmp_path / "whole", **options)
    assert golden.digest(tmp_path / "o") == golden.digest(tmp_path / "whole")
    assert "exists already" in cli("run", "--plan", tmp_path / "plan.json", code=2).err
    cli("run", "--plan", tmp_path / "plan.json", "--force", "--quiet")
    assert "the plan says it" in cli("run", "--plan", tmp_path / "plan.json", "-s", "int8", code=2).err
    assert json.loads(cli("run", "--plan", tmp_path / "plan.json", "-nf", "--json").out)["source"] == str(
        source
    )


@pytest.fixture
def saved(tmp_path) -> Path:
    save_file({"w": torch.arange(12.0).reshape(3, 4)}, tmp_path / "m.safetensors")
    plan = tc.open(tmp_path / "m.safetensors").plan(tc.write(tmp_path / "o.safetensors"))
    plan_file.save(plan, tmp_path / "plan.json")
    assert plan_file.load(tmp_path / "plan.json") == plan
    return tmp_path / "plan.json"


def test_an_input_that_changed_since_is_refused_before_anything_is_written(saved, tmp_path):
    save_file({"w": torch.zeros(3, 4)}, tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match=r"m\.safetensors: was changed since planning began; plan again"):
        check(plan_file.load(saved), Performance(), force=False)
    (tmp_path / "m.safetensors").unlink()
    with pytest.raises(FormatError, match=r"m\.safetensors: cannot be read any more"):
        check(plan_file.load(saved), Performance(), force=False)
    assert not (tmp_path / "o.safetensors").exists()


def test_it_does_not_write_over_its_source(saved, tmp_path):
    plan = replace(plan_file.load(saved), destination=tmp_path / "m.safetensors")
    plan_file.save(plan, saved)
    with pytest.raises(PlanError, match="is read by this run"):
        check(plan_file.load(saved), Performance(), force=True)
    assert load_file(tmp_path / "m.safetensors")["w"][1, 1] == 5


def test_damage_of_every_kind_is_refused(saved):
    text = saved.read_text()
    data = json.loads(text)
    for changed in (
        text[: len(text) // 2], "", "[]", "{}", "null", "[" * 100_000,
        text.replace('"shape"', '"shade"'), text.replace("o.safetensors", "p.safetensors"),
        json.dumps({**data, "digest": "0" * 64}), json.dumps({**data, "sha256": "0" * 64}),
        json.dumps({**data, "plan": {"types": ["os:system"], "objects": [], "root": 1}}),
    ):  # fmt: skip
        if changed == text:
            continue
        saved.write_text(changed)
        with pytest.raises(FormatError, match=r"plan\.json: (is not a plan|was damaged)"):
            plan_file.load(saved)
    saved.write_text(json.dumps({**data, "version": "0.0.1"}))
    with pytest.raises(FormatError, match=r"a plan of version 0\.0\.1.*plan again"):
        plan_file.load(saved)
    saved.write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="not UTF-8"):
        plan_file.load(saved)
