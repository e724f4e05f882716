"""``transcode meta statement``: tests/execution/test_attest.py has what it prints."""

from __future__ import annotations


def test_it_reads_what_a_run_wrote(cli, wan, tmp_path):
    out = tmp_path / "o.safetensors"
    cli("run", wan, out, "--scheme", "int8", "--attest", "-q")
    table = cli("meta", "statement", out).json
    assert table["subject"][0]["name"] == "o.safetensors"
    assert table["predicate"]["transcode"]["recipe"]["steps"] == [{"quantize": {"scheme": "int8"}}]
