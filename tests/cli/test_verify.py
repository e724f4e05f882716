"""``transcode verify``: what it says, and how it ends."""

from __future__ import annotations

import pytest


def test_right_and_wrong(cli, wan, tmp_path):
    out = tmp_path / "o.safetensors"
    cli("run", wan, out, "--scheme", "int8")
    shown = cli("verify", out, "--source", wan)
    assert f"{out.name} is what" in shown.out.replace("\n", "")
    assert cli("verify", out, "--source", wan, "--quiet").out == ""
    assert cli("verify", out, "--source", wan, "--json", "--workers", 1).json["right"] is True
    raw = bytearray(out.read_bytes())
    raw[-1] ^= 1
    out.write_bytes(raw)
    shown = cli("verify", out, "--source", wan, "--quiet", code=1)
    assert "IS NOT what" in shown.out
    assert "differs from row" in shown.out
    told = cli("verify", out, "--source", wan, "--json", code=1).json
    assert len(told["differences"]) == 1


@pytest.mark.parametrize("flag", ["--measure", "--resume"])
def test_options_that_mean_nothing_here(flag, refused, wan):
    assert "there is no option" in refused("verify", wan, "--source", wan, flag)


def test_what_it_cannot_do(refused, wan):
    assert "no record of how it was made; name its recipe with --recipe FILE" in refused(
        "verify", wan, "--source", wan
    )
    assert "no share" in refused("verify", wan, "--source", wan, "--sample", "2")
