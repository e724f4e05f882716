"""Pipes: each stage adds one step to the recipe that flows, and an error anywhere is an error of the pipe."""

from __future__ import annotations

import yaml


def test_what_flows_is_the_recipe(shell, wan):
    out = shell(f"transcode open {wan} | transcode drop '*.bias' | transcode cast F32 --only head").out
    assert yaml.safe_load(out) == {
        "source": {"path": str(wan)},
        "steps": [{"drop": ["*.bias"]}, {"cast": {"to": "F32", "only": ["head"]}}],
    }


def test_an_error_anywhere_stops_the_pipe(shell, wan, tmp_path):
    for line, said in [
        (
            f"transcode open {wan}/nothing | transcode quantize int8 | transcode write o.safetensors",
            "no such file",
        ),
        (f"transcode open {wan} | transcode quantize int9 | transcode write o.safetensors", "int9"),
        (f"transcode open {wan} | transcode drop 'a[' | transcode write o.safetensors", "a["),
        (f"transcode open {wan} | transcode drop blocks.7 | transcode write o.safetensors", "blocks.7"),
        (f"transcode open {wan} | transcode rename a | transcode write o.safetensors", "replacement"),
        ("echo '- no recipe' | transcode write o.safetensors", "<stdin>:1"),
        ("echo 'steps: []' | transcode write o.safetensors", "no source"),
        ("transcode write o.safetensors < /dev/null", "no recipe came"),
        ("head -c 100 /dev/urandom | transcode quantize int8", "stdin"),
    ]:
        assert said in shell(line, code=2).err, line
    assert not (tmp_path / "o.safetensors").exists()


def test_write_takes_what_run_takes(shell, wan, tmp_path):
    plan = shell(f"transcode open {wan} | transcode write o --dry-run --json --layout by_block -w 3").out
    assert yaml.safe_load(plan)["layout"] == "by_block"
    assert not (tmp_path / "o").exists()
