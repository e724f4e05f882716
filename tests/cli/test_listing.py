"""``families``, ``schemes`` and ``conventions`` tell what there is."""

from __future__ import annotations

import pytest
import yaml

from transcode import catalog, schemes


@pytest.mark.parametrize("kind", ["families", "conventions"])
def test_every_entry_is_listed_and_shown(kind, cli):
    names = getattr(catalog, kind)()
    assert [entry["name"] for entry in cli(kind, "--json").json] == list(names)
    table = cli(kind).out
    for name in names:
        assert name in table
        shown = yaml.safe_load(cli(kind, "show", name).out)
        assert shown[{"families": "family", "conventions": "convention"}[kind]] == name
        assert cli(kind, "show", name, "--json").json == shown


def test_schemes_with_their_options(cli):
    told = {entry["name"]: entry["options"] for entry in cli("schemes", "--json").json}
    assert list(told) == list(schemes.SCHEMES)
    assert told["int8"]["granularity"] == "channel"
    assert told["fp8"]["format"] == "e4m3fn"
    text = cli("schemes").out
    assert all(option in text for options in told.values() for option in options)


def test_what_there_is_not(refused):
    assert "klingon" in refused("families", "show", "klingon")
    assert "klingon" in refused("conventions", "show", "klingon")
    assert "show NAME" in refused("families", "wan_dit")
