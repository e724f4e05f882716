"""The Python interface: what it builds, and that it does what recipes and the command line do."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode import api
from transcode.core.performance import Performance
from transcode.errors import PlanError, RecipeError


def test_every_public_name_is_there_and_told():
    for name in tc.__all__:
        assert getattr(tc, name) is not None
        assert name in dir(tc)
    assert set(api.__all__) <= set(tc.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        _ = tc.opne
    for name in (*api.__all__, "inspect", "meta"):
        assert inspect.getdoc(getattr(tc, name)), name


def test_importing_loads_nothing_heavy():
    script = (
        "import sys, transcode; dir(transcode), transcode.meta, transcode.inspect\n"
        "print([name for name in ('numpy', 'torch', 'numba', 'click') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


STAGES = [
    (tc.rename([("^a", "b")]), {"rules": [["^a", "b"]]}),
    (tc.rename({"^a": "b", "c": "d"}), {"rules": [["^a", "b"], ["c", "d"]]}),
    (tc.rename(names={"a": "b"}), {"names": {"a": "b"}}),
    (tc.keep("a", "b"), ["a", "b"]),
    (tc.drop("a"), ["a"]),
    (tc.quantize("int8"), {"scheme": "int8"}),
    (
        tc.quantize("int8", granularity="group", group_size=32, exclude=["a"], keep_dtype="bf16"),
        {
            "scheme": "int8", "options": {"granularity": "group", "group_size": 32}, "exclude": ["a"],
            "keep_dtype": "BF16",
        },
    ),
    (
        tc.quantize("nvfp4", overrides={"a": "fp8"}, share_scale=[["q", "k"]], on_bad_shape="pad"),
        {"scheme": "nvfp4", "overrides": [["a", "fp8"]], "share_scale": [["q", "k"]], "on_bad_shape": "pad"},
    ),
    (
        tc.quantize("int8", overrides=[("a", "fp8"), ["b", "keep"]]),
        {"scheme": "int8", "overrides": [["a", "fp8"], ["b", "keep"]]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "config"), STAGES, ids=[s.kind for s, _ in STAGES])
def test_stages_are_their_recipe(stage, config):
    assert json.loads(json.dumps(stage.config())) == config


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tc.quantize("int9"), "int9"),
        (lambda: tc.quantize("int8", colour="red"), "colour"),
        (lambda: tc.keep(""), "empty pattern"),
        (lambda: tc.rename([("(", "")]), r"rename: '\('"),
        (lambda: tc.cast("int8"), "int8"),
        (lambda: tc.write("o", max_shard_size="5 parsec"), "is not a size"),
        (lambda: tc.write("o", tile="0"), "is not a positive size"),
        (lambda: tc.write("o", device_memory="x"), "is not a size"),
        (lambda: tc.write("o", metadata={"transcode": "x"}), "is the record"),
    ],
)
def test_mistakes_are_told_at_once(make, said):
    with pytest.raises(RecipeError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_defaults_of_write_are_those_of_performance():
    sink = tc.write("out.safetensors")
    assert sink.performance == Performance()
    assert sink.config() == {"output": {"path": "out.safetensors"}}
    given = {name: p.default for name, p in inspect.signature(tc.write).parameters.items()}
    assert given["memory"] == Performance().memory
    assert given["device_memory"] == Performance().device_memory


def test_everything_that_write_takes_arrives():
    told: list[object] = []
    sink = tc.write(
        Path("out"), layout="chunked", convention="plain", name="model", max_shard_size="5MB",
        copy_metadata=False, metadata={"a": "b"}, force=True, allow_unmatched=True, workers=3, memory="64MiB",
        tile="1MB", drop_cache=True, device="cuda:1", device_memory="2GB", measure=True,
        on_progress=told.append,
    )  # fmt: skip
    assert sink.config() == {
        "target": {"convention": "plain", "layout": "chunked", "max_shard_size": 5_000_000},
        "output": {
            "path": "out", "name": "model", "copy_metadata": False, "metadata": {"a": "b"}, "force": True,
            "allow_unmatched": True,
        },
    }  # fmt: skip
    assert sink.performance == Performance(
        3, 64 << 20, 1_000_000, drop_cache=True, device="cuda:1", device_memory=2 * 10**9, measure=True
    )
    assert sink.folder
    assert not tc.write(Path("out.safetensors")).folder


@pytest.mark.parametrize("spell", [str, Path])
@pytest.mark.parametrize("mmap", [True, False])
def test_open_takes_paths_of_any_kind(spell, mmap, wan, tmp_path):
    flow = tc.open(spell(wan), mmap=mmap)
    flow | tc.write(spell(tmp_path / "o.safetensors"))
    found = load_file(tmp_path / "o.safetensors")
    wanted = {name: value for file in wan.glob("*.safetensors") for name, value in load_file(file).items()}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_open_takes_a_root_of_a_pickle(tmp_path):
    one, other = torch.ones(2, 2), torch.zeros(2, 2)
    torch.save({"student": {"a": one}, "teacher": {"a": other}}, tmp_path / "m.pt")
    assert torch.equal(tc.open(tmp_path / "m.pt", root_key="teacher")["a"].torch(), other)
    assert torch.equal(tc.open(tmp_path / "m.pt", root_key="student")["a"].torch(), one)


@pytest.mark.parametrize(
    ("paths", "config"),
    [
        ("a.safetensors", [("a.safetensors", 1.0, None, None)]),
        (Path("a.safetensors"), [("a.safetensors", 1.0, None, None)]),
        (
            [("a",), (Path("b"), 0.5), ("c", 2.0, 8.0)],
            [("a", 1.0, None, None), ("b", 0.5, None, None), ("c", 2.0, 8.0, None)],
        ),
    ],
)
def test_loras(paths, config):
    assert [tuple(file) for file in tc.lora(paths).files] == config


def test_one_lora_with_its_strength():
    stage = tc.lora("a", 0.5, 16.0, keys="same", prefix="unet.")
    assert (stage.files[0], stage.keys, stage.prefix) == (("a", 0.5, 16.0, None), "same", "unet.")


def test_a_recipe_a_flow_and_the_command_line_write_the_same_bytes(wan, tmp_path, cli, digests):
    flow = tc.open(wan) | tc.drop("head") | tc.quantize("int8", exclude=["blocks.0"])
    report = flow | tc.write(tmp_path / "a.safetensors")
    assert report.bytes_written == (tmp_path / "a.safetensors").stat().st_size
    (tmp_path / "recipe.yaml").write_text(
        f"source: {{path: {json.dumps(str(wan))}}}\n"
        "steps: [{drop: [head]}, {quantize: {scheme: int8, exclude: [blocks.0]}}]\n"
        f"output: {{path: {json.dumps(str(tmp_path / 'b.safetensors'))}}}\n"
    )
    tc.run(tmp_path / "recipe.yaml")
    cli("run", wan, tmp_path / "c.safetensors", "--drop", "head", "-sint8", "--exclude", "blocks.0", "-q")
    found = [digests(tmp_path / f"{name}.safetensors") for name in "abc"]
    assert found[0] == found[1] == found[2]
    stored = load_file(tmp_path / "a.safetensors")
    assert "blocks.1.ffn.0.weight_scale" in stored
    assert "blocks.0.ffn.0.weight_scale" not in stored
    assert not any(name.startswith("head") for name in stored)


def test_the_reports_json_can_be_written(wan, tmp_path):
    report = tc.open(wan) | tc.quantize("int8") | tc.write(tmp_path / "o.safetensors", measure=True)
    told = json.loads(json.dumps(report.to_json()))
    assert len(told["tensors"]) == 87
    assert told["bytes_written"] == (tmp_path / "o.safetensors").stat().st_size
    assert 35 < told["losses"]["int8"]["sqnr_db"] < 60


def test_planning_writes_nothing(wan, tmp_path):
    plan = (tc.open(wan) | tc.quantize("int8")).plan(tc.write(tmp_path / "o.safetensors"))
    assert plan.bytes_out > 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(PlanError):
        (tc.open(wan) | tc.drop("*")).plan(tc.write(tmp_path / "o.safetensors"))


def test_no_module_takes_the_name_of_what_is_public():
    """A package ``transcode.run`` would stand where the function is, once anything imports it."""
    code = (
        "import importlib, pkgutil, transcode\n"
        "for module in pkgutil.walk_packages(transcode.__path__, 'transcode.'):\n"
        "    if not module.name.endswith(('__main__', 'search_triton')):\n"
        "        importlib.import_module(module.name)\n"
        "print([n for n in transcode.__all__ if n != 'meta' and not callable(getattr(transcode, n))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
