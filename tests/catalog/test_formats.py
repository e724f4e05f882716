"""All files of formats/ are right, mistakes in them are found, and the README's examples work as it says."""

from __future__ import annotations

import re
from pathlib import Path

import check_formats
import pytest

from transcode import catalog
from transcode.catalog.lora_tables import lora_tables
from transcode.catalog.rule import REST

FORMATS = Path(__file__).parents[2] / "formats"
README = (FORMATS / "README.md").read_text()


@pytest.fixture(autouse=True)
def unchanged_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """check() points the catalog at the folder it checks."""
    monkeypatch.setenv("TRANSCODE_FORMATS", str(FORMATS))


def test_all_files_are_right() -> None:
    assert check_formats.check(FORMATS) == []


@pytest.fixture
def examples(own_formats: Path) -> Path:
    """The examples of the README, as a user's folder."""
    found = re.findall(r"```yaml\n# ((?:families|conventions|lora)/\w+\.yaml)\n(.*?)```", README, re.DOTALL)
    assert len(found) == 3
    for name, text in found:
        (own_formats / name).parent.mkdir(exist_ok=True)
        (own_formats / name).write_text(text)
    return own_formats


def test_the_readmes_family(examples: Path) -> None:
    assert check_formats.check(examples) == []
    prefix = "model.diffusion_model."
    names = ["blocks.0.self_attn.q.weight", "blocks.0.mlp.fc1.weight", "blocks.0.modulation"]
    assert all(name in README for name in names)
    found = catalog.detect([f"{prefix}{name}" for name in names])
    assert found is not None
    assert (found.name, found.spelling, found.prefix) == ("toy_dit", "original", prefix)
    assert [found.is_target(f"{prefix}{name}")[0] for name in names] == [True, True, False]
    converted = ["blocks.0.attn1.to_q.weight", "blocks.0.ff.net.0.proj.weight", "blocks.0.scale_shift_table"]
    assert all(name in README for name in converted)
    assert [found.convert(f"{prefix}{name}", "diffusers") for name in names] == converted
    shapes = {"blocks.0.modulation": (1, 2, 8)}
    assert catalog.detect(names, shapes) is None
    assert catalog.detect([*names, "audio_encoder.conv.weight"]) is None


def test_the_readmes_table_for_loras(examples: Path) -> None:
    (toy,) = (table for table in lora_tables() if table.title == "Toy video transformer")
    rules = {rule.left: rule for rule in toy.rules}
    assert rules["final.modulation"].swapped
    assert rules["blocks.{i}.linear1"].rows == (1, 1, REST)
    parts = tuple(f"transformer_blocks.{{i}}.attn.to_{part}" for part in "qkv")
    assert rules["blocks.{i}.attn.qkv"].right == parts


def test_the_readmes_convention(examples: Path) -> None:
    assert check_formats.check(examples) == []
    toy = catalog.convention("toy_runtime")
    parts = {role: toy.spell("a.b.weight", role, "int8") for role in toy.scheme("int8").parts}
    assert parts == {"codes": "a.b.qweight", "scale": "a.b.scales"}
    assert all(name in README for name in parts.values())
    assert toy.group(list(parts.values())) == {"a.b.weight": parts}


def test_the_readme_names_every_key() -> None:
    """What the loaders ask for is what the README explains."""
    source = Path(catalog.__file__ or "").parent
    loaders = (source / "families.py").read_text() + (source / "convention_file.py").read_text()
    keys = set(re.findall(r'top\.(?:need|get|find)\("(\w+)"', loaders))
    assert len(keys) > 30
    missing = {key for key in keys if not re.search(rf"(?<!\w){key}(?!\w)", README)}
    assert missing == set()


GOOD = """\
family: mine
title: mine
spellings:
  own: {title: x, detect: {all: [x.*.weight]}, blocks: ["x.{i}"], targets: [y]}
"""


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("families/mine.yaml", GOOD.replace("targets", "target"), r"mine\.yaml:4: .*'targets' is missing"),
        ("families/mine.yaml", GOOD.replace("spell", "refines: [wan]\nspell"), "there is no family 'wan'"),
        ("families/mine.yml", GOOD, "does not belong here"),
        ("mine.yaml", GOOD, "does not belong here"),
        ("family/mine.yaml", GOOD, "does not belong here"),
        ("conventions/mine.yaml", "convention: mine\ntitle: x\nfiles: {}\nparts: {codes: '{name}'}\n"
         "schemes: {int8: {options: {size: 3}}}", "int8 has no option 'size'"),
        ("conventions/mine.yaml", "convention: mine\ntitle: x\nfiles: {}\nparts: {codes: '{name}'}\n"
         "schemes: {int8: {options: {granularity: row}}}", "granularity"),
        ("conventions/mine.yaml", "convention: mine\ntitle: x\nfiles: {}\nparts: {codes: {name: '{name}',"
         " packing: high_first}}\nschemes: {int8: {}}", r"int8: codes: nibbles is for .*, not for I8"),
        ("profiles/mine.yaml", "profile: mine\ntitle: x\nkeys: {a: {need: maybe, why: x}}",
         "'maybe' is not allowed"),
        ("lora/names.yaml", "lora: names", "is missing"),
    ],
)  # fmt: skip
def test_mistakes_are_found(tmp_path: Path, file: str, text: str, said: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = check_formats.check(tmp_path)
    assert len(found) == 1
    assert re.search(said, found[0])
    assert str(path) in found[0]


def test_two_families_with_one_signature_are_found(tmp_path: Path) -> None:
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "mine.yaml").write_text(GOOD)
    (tmp_path / "families" / "other.yaml").write_text(GOOD.replace("family: mine", "family: other"))
    assert len(check_formats.check(tmp_path)) == 2


def test_right_files_are_not_complained_of(tmp_path: Path) -> None:
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "mine.yaml").write_text(GOOD)
    (tmp_path / "README.md").write_text("words")
    assert check_formats.check(tmp_path) == []
