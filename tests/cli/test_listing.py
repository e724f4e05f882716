"""``families``, ``schemes`` and ``conventions`` tell what there is."""

from __future__ import annotations

import shlex

import pytest
import torch
import yaml

from transcode import catalog, schemes
from transcode.errors import RecipeError


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("kind", ["families", "conventions"])
def test_every_entry_is_listed_and_shown(kind, cli):
    names = getattr(catalog, kind)()
    assert [entry["name"] for entry in cli(kind, "--json").json] == list(names)
    table = cli(kind).out
    for name in names:
        assert name in table
        for words in (["show", name], [name]):
            shown = yaml.safe_load(cli(kind, *words).out)
            assert shown[{"families": "family", "conventions": "convention"}[kind]] == name
        assert cli(kind, "show", name, "--json").json == shown


@pytest.mark.parametrize(
    "words", [["families"], ["conventions"], ["schemes"], *(["schemes", name] for name in schemes.SCHEMES)]
)
def test_listings_fit_the_terminal(words, cli, monkeypatch):
    narrow = cli(*words).out
    assert max(map(len, narrow.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "120")
    wide = cli(*words).out
    assert max(map(len, wide.splitlines())) <= 120
    assert wide.split() == narrow.split() or words in (["families"], ["conventions"])


def test_schemes_with_their_options(cli):
    entries = {entry["name"]: entry for entry in cli("schemes", "--json").json}
    assert list(entries) == [*schemes.SCHEMES, *schemes.CALIBRATED]
    assert entries["int8"]["options"]["granularity"] == "channel"
    assert entries["fp8"]["options"]["format"] == "e4m3fn"
    text = cli("schemes").out
    assert all(option in text for entry in entries.values() for option in entry["options"])
    assert {entry["name"] for entry in entries.values() if "made_by" in entry} == set(schemes.CALIBRATED)
    assert all("nunchaku convert" in entries[name]["made_by"] for name in schemes.CALIBRATED)
    for name, entry in entries.items():
        assert cli("schemes", name, "--json").json == entry
        assert name in text.partition("Of a calibration")[0 if name in schemes.SCHEMES else 2]


@pytest.mark.parametrize("name", schemes.SCHEMES)
def test_legal_values_are_those_that_the_scheme_takes(name, cli):
    entry = cli("schemes", name, "--json").json
    assert entry["values"].keys() == entry["options"].keys()
    shown = cli("schemes", name).out
    for option, values in entry["values"].items():
        for value in values["among"]:
            more = entry["only_with"].get(option, {})
            try:
                schemes.make(name, **{**more, option: tuple(value) if isinstance(value, list) else value})
            except RecipeError as error:
                assert option not in str(error)  # noqa: PT017  two options that exclude each other
            if values["closed"]:
                assert (str(value).lower() if isinstance(value, bool) else str(value)) in shown
        if values["closed"]:
            with pytest.raises(RecipeError, match=option):
                schemes.make(name, **{option: "klingon"})


@pytest.mark.parametrize("name", [*schemes.SCHEMES, *schemes.CALIBRATED])
def test_who_takes_a_scheme_and_on_what_terms(name, cli):
    entry, shown = cli("schemes", name, "--json").json, cli("schemes", name).out
    taking = {one.name for one in catalog.every_convention() if name in one.schemes and not one.unwritten}
    assert entry["conventions"].keys() == taking
    for one in taking:
        assert one in shown
        rule = catalog.convention(one).schemes[name]
        told = " ".join(entry["conventions"][one].values())
        for condition in (rule.rows, rule.columns):
            assert condition == 1 or str(condition) in told
        for partly in rule.partly:
            assert partly.by in told
        for limit in rule.limits:
            assert limit.why in told
        assert all(option in told for option in rule.reads)


@pytest.mark.parametrize("name", schemes.SCHEMES)
def test_the_example_runs(name, cli, save, tmp_path):
    source = save({"blocks.0.ffn.weight": torch.randn(256, 256)})
    command = cli("schemes", name, "--json").json["example"]
    assert command in cli("schemes", name).out
    words = [{"SRC": str(source), "DST": str(tmp_path / "o")}.get(w, w) for w in shlex.split(command)[1:]]
    cli(*words, "--dry-run")


def test_what_there_is_not(refused):
    assert "klingon" in refused("families", "show", "klingon")
    assert "did you mean wan_dit" in refused("families", "wan_dti")
    assert "klingon" in refused("conventions", "show", "klingon")
    assert "GGUF of several types" in refused("schemes", "Q4_K_M")
    assert "one name" in refused("schemes", "int8", "fp8")
