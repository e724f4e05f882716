"""The data of which reference pages are made: all commands, all options, with all that is known of them."""

from __future__ import annotations

import json

from transcode.cli.commands import COMMANDS
from transcode.cli.reference import reference
from transcode.core.option import options_of
from transcode.schemes import SCHEMES
from transcode.stages.table import STAGES

DATA = json.loads(json.dumps(reference()))


def test_all_commands_with_their_flags():
    names = [one["name"] for one in DATA["commands"]]
    assert {name.split()[0] for name in names} == set(COMMANDS)
    assert "meta set" in names
    run = next(one for one in DATA["commands"] if one["name"] == "run")
    scheme = next(one for one in run["flags"] if "--scheme" in one["flags"])
    assert scheme == {
        "flags": ["-s", "--scheme"], "spelled": "-s, --scheme SCHEME",
        "help": "Quantize: int8, fp8, ... or name:option=value.",
        "about": "See `transcode schemes`; or a mix of GGUF's types, such as ``q4_k_m``.",
        "default": None, "choices": [], "group": "What to do",
    }  # fmt: skip
    assert next(one for one in run["flags"] if "--memory" in one["flags"])["default"] == "128MB"
    for command in DATA["commands"]:
        assert command["help"], command["name"]
        assert all(flag["help"] for flag in command["flags"]), command["name"]


def test_all_stages_and_sections_with_their_options():
    assert [one["name"] for one in DATA["stages"]] == list(STAGES)
    for stage in DATA["stages"]:
        assert [one["name"] for one in stage["options"]] == list(options_of(STAGES[stage["name"]][0]))
    keys = {
        section["name"]: [key for one in section["options"] for key in one["keys"]]
        for section in DATA["sections"]
    }
    assert keys["target"] == ["convention", "layout", "max_shard_size", "max_tensors", "format", "precision"]
    assert {"paths", "strengths", "alphas", "enabled"} < set(keys["lora"])
    assert {"num_workers", "parallel"} < set(keys["performance"])


def test_all_schemes():
    assert [one["name"] for one in DATA["schemes"]] == list(SCHEMES)
    [int4] = [one for one in DATA["schemes"] if one["name"] == "int4"]
    assert int4["options"][0] == {
        "name": "group_size", "default": 64, "legal": "32 or 64 or 128", "choices": [32, 64, 128],
    }  # fmt: skip
