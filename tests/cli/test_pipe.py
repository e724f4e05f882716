"""Pipes: each stage adds one step to the recipe that flows, and an error anywhere is an error of the pipe."""

from __future__ import annotations

import yaml


def test_what_flows_is_the_recipe(shell, wan):
    out = shell(f"transcode open {wan} | transcode drop '*.bias' | transcode cast F32 --only head").out
    assert yaml.safe_load(out) == {
        "source": {"path": str(wan)},
        "steps": [{"drop": ["*.bias"]}, {"cast": {"to": "F32", "only": ["head"]}}],
    }


def test_an_error_anywhere_stops_the_pipe(shell, piped, wan, tmp_path):
    """In real pipes for the first and the last; in this process for those between."""
    line = f"transcode open {wan}/nothing | transcode quantize int8 | transcode write o.safetensors"
    assert "no such file" in shell(line, code=2).err
    for line, said in [
        (f"transcode open {wan} | transcode quantize int9 | transcode write o.safetensors", "int9"),
        (f"transcode open {wan} | transcode drop 'a[' | transcode write o.safetensors", "a["),
        (f"transcode open {wan} | transcode drop blocks.7 | transcode write o.safetensors", "blocks.7"),
        (f"transcode open {wan} | transcode rename a | transcode write o.safetensors", "replacement"),
    ]:
        assert said in piped(line, code=2).err, line
    for given, said in [
        (b"- no recipe\n", "<stdin>:1"),
        (b"steps: []\n", "no source"),
        (b"", "no recipe came"),
    ]:
        assert said in piped("transcode write o.safetensors", code=2, given=given).err, given
    assert "stdin" in shell("head -c 100 /dev/urandom | transcode quantize int8", code=2).err
    assert not (tmp_path / "o.safetensors").exists()


def test_write_takes_what_run_takes(shell, wan, tmp_path):
    plan = shell(f"transcode open {wan} | transcode write o --dry-run --json --layout by_block -w 3").out
    assert yaml.safe_load(plan)["layout"] == "by_block"
    assert not (tmp_path / "o").exists()
