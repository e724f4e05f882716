"""The JSON Schema of recipes takes every recipe of the repository that is read, and refuses wrong ones."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from transcode.errors import TranscodeError
from transcode.recipe import parse
from transcode.recipe.schema import schema

ROOT = Path(__file__).parents[2]
SECTIONS = {"source", "steps", "quantization", "lora", "target", "output", "performance"}
_TOP = re.compile(rf"^({'|'.join(SECTIONS)}):", re.MULTILINE)


def texts() -> dict[str, str]:
    """What looks like a recipe: files of YAML, blocks of documents, literals of tests and tools."""
    found: dict[str, str] = {}
    for folder in ("docs", "fixtures", "tests", "tools"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".yaml", ".yml"):
                found[str(path.relative_to(ROOT))] = path.read_text()
    for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), *(ROOT / "tools").rglob("*.md")]:
        for number, block in enumerate(re.findall(r"```ya?ml\n(.*?)```", path.read_text(), re.DOTALL)):
            found[f"{path.relative_to(ROOT)}:{number}"] = block
    for path in sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _TOP.search(node.value):
                found[f"{path.relative_to(ROOT)}:{node.lineno}"] = node.value
    return found


def recipes() -> dict[str, object]:
    """Those that are YAML, by where they stand."""
    found: dict[str, object] = {}
    for where, text in texts().items():
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            continue
        if isinstance(value, dict) and SECTIONS & value.keys():
            try:
                parse(text)
            except TranscodeError:
                continue
            found[where] = value
    return found


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    described = json.loads(json.dumps(schema()))
    Draft202012Validator.check_schema(described)
    return Draft202012Validator(described)


def test_every_recipe_of_the_repository_is_valid(validator):
    found = recipes()
    assert len(found) > 40
    wrong = {
        where: [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(recipe)]
        for where, recipe in found.items()
    }
    assert {where: errors for where, errors in wrong.items() if errors} == {}


WRONG = [
    "colour: red",
    "steps: [{quantise: int8}]",
    "steps: [{quantize: int9}]",
    "steps: [{quantize: {scheme: int8, targetz: [a]}}]",
    "steps: [{quantize: {scheme: int8, targets: {a: b}}}]",
    "steps: [{quantize: {targets: [a]}}]",
    "steps: [{quantize: {scheme: int8, options: {granularity: row}}}]",
    "steps: [{quantize: {scheme: int4, options: {granularity: tensor}}}]",
    "steps: [{quantize: {scheme: int8, overrides: {a: int9}}}]",
    "steps: [{quantize: {scheme: int8, overrides: [[a, int9]]}}]",
    "steps: [{quantize: {scheme: int8, on_bad_shape: crop}}]",
    "steps: [{quantize: {scheme: int8, keep_dtype: int8}}]",
    "steps: [{cast: int8}]",
    "steps: [{cast: {to: bf16, saturate: 1}}]",
    "steps: [{rename: {rules: [[a, b, c]]}}]",
    "steps: [{keep: {a: b}}]",
    "steps: [{lora: {paths: [a], keys: other}}]",
    "steps: [{calibrate: {}}]",
    "steps: [{cast: bf16, drop: a}]",
    "steps: []\nquantization: {method: int8}",
    "steps: []\nlora: {paths: [a]}",
    "quantization: {method: int9}",
    "quantization: {method: int8, options: {granularity: row}}",
    "quantization: {method: int8, options: {colour: red}}",
    "lora: {paths: [a], enabled: 1}",
    "source: {type: wan_dot}",
    "source: {convention: comfy}",
    "target: {layout: by_blok}",
    "target: {max_tensors: 0}",
    "target: {max_shard_size: 5 parsec}",
    "output: {name: a}",
    "output: {path: a, force: yes please}",
    "performance: {device: tpu}",
    "performance: {num_workers: 0}",
    "performance: {workers: 2}",
]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_ones_are_not(text, validator):
    """Each is refused by the reader, too: the schema is no stricter than it."""
    assert not validator.is_valid(yaml.safe_load(text))
    with pytest.raises(TranscodeError):
        parse(text)


def test_every_key_is_described():
    def walk(node: object, key: str) -> None:
        if isinstance(node, dict):
            for name, one in node.get("properties", {}).items():
                if "const" not in one and name not in ("options",):
                    assert "description" in one, (key, name)
                walk(one, name)
            for name, one in node.items():
                if name not in ("properties", "if"):
                    walk(one, key)
        elif isinstance(node, list):
            for one in node:
                walk(one, key)

    walk(schema(), "")


def test_the_command_prints_it(cli):
    assert cli("recipe", "schema").json == json.loads(json.dumps(schema()))
