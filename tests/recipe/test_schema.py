"""The JSON Schema of recipes takes what the reader takes: recipes of the repository, corners, and any near it."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
            value = yaml.load(text, Yaml12)
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


CORNERS = [
    "steps:", "steps: null\nlora: {paths: [a]}", "steps: null\nquantization: {method: int8}",
    "steps: []\nlora:", "steps: []\nquantization:", "lora:", "lora: {}", "lora: {enabled: false}",
    "lora: {enabled: false, paths: []}", "lora: {enabled: false, paths: }", "lora: {enabled: false, colour: red}", "lora: {paths: a, strengths: }",
    "steps: [{lora: {paths: }}]", "steps: [{lora: {paths: a, strengths: []}}]", "lora: {enabled: true}", "lora: {strengths: 1}", "lora: {paths: []}",
    "lora: {paths: }", "lora: {paths: a}", "lora: {paths: [a, b], strengths: [1, null]}",
    "lora: {paths: a, strengths: '1e-1'}", "lora: {paths: a, strengths: 1e-1}",
    "version: 1", "version:", "steps: []\nversion: 1", "steps: []\nversion:", "steps:\nversion: 1",
    "performance: {num_workers: 4096}", "performance: {num_workers: 4097}", "performance: {num_workers: 0}",
    "performance: {num_workers: 1_000}", "performance: {num_workers: 010}", "performance: {num_workers: 4.0}",
    "performance: {num_workers: 4.5}", "performance: {num_workers: '4'}", "performance: {num_workers: 0x10}",
    "performance: {memory: 1_000}", "performance: {memory: '1_000'}", "performance: {memory: 1.5}",
    "performance: {memory: '1.5'}", "performance: {memory: 1.5GB}", "performance: {memory: 0x1000}",
    "performance: {memory: 1:30}", "performance: {memory: 0}", "performance: {memory: '0'}",
    "performance: {memory: 0.0GB}", "performance: {memory: 5iB}", "performance: {memory: 5 MiB}",
    "performance: {memory: 1.0e+9}", "performance: {parallel: false, num_workers: 2}",
    "steps: []\nperformance: {parallel: false, num_workers: 2}",
    "steps: []\nperformance: {parallel: false, num_workers: 1}",
    "output: {path: 2026-11-28}", "source: {path: 2026-11-28}", "source: {path: 12}", "source: {path: }",
    "output: {path: }", "output: {path: a, metadata: {made: 2026-11-28}}", "output: {path: a, metadata: {a: }}",
    "output: {path: a, metadata: {a: 1}}", "output: {path: a, metadata: []}", "output: {path: a, metadata: }",
    "steps: [{drop: 2026-11-28}]", "steps: [{drop: 1}]", "steps: [{drop: [1]}]", "steps: [{drop: }]",
    "steps: [{drop: []}]", "steps: [{drop: [null]}]", "steps: [{lora: []}]", "steps: [{lora: {paths: []}}]",
    "steps: [{rename: {}}]", "steps: [{rename: {rules: {}}}]", "steps: [{rename: {names: {a: b}, rules: }}]",
    "steps: [{rename: []}]", "steps: [{rename: }]", "steps: [{rename: {a: 1}}]", "steps: [{rename: [[a, 1]]}]",
    "steps: [{dequantize: }]", "steps: [{cast: }]", "steps: [null]", "steps: [{}]", "steps: {}",
    "steps: [{quantize: {scheme: int8, options: }}]", "steps: [{quantize: {scheme: int8, overrides: {a: 1}}}]",
    "quantization:", "quantization: {}", "quantization: {options: {}}", "quantization: {method: , options: {}}",
    "quantization: {method: int8, options: }", "quantization: {options: }", "quantization: {backend: triton}",
    "performance:", "target:", "source: {type: }", "source: {root_key: 1}", "target: {max_tensors: 1_0}",
]  # fmt: skip


class Yaml12(yaml.SafeLoader):
    """Scalars as YAML 1.2 has them, and so editors: no dates, no other numbers than those of JSON and hex."""


Yaml12.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if not pair[0].endswith((":timestamp", ":int", ":float"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^([-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def is_read(text: str) -> bool:
    try:
        parse(text)
    except TranscodeError:
        return False
    return True


@pytest.mark.parametrize("text", CORNERS)
def test_schema_and_reader_agree_in_corners(text, validator):
    assert validator.is_valid(yaml.load(text, Yaml12)) == is_read(text)


NOTHING = st.none()
WORDS = st.sampled_from(["a", "*.bias", "blocks.0", "out"])
ODD = st.one_of(NOTHING, st.booleans(), st.integers(-1, 5000), st.just(2.5), st.just([]), st.just({}), WORDS)
SCHEMES = st.sampled_from(["int8", "fp8", "nvfp4", "int4", "int9"])
DTYPES = st.sampled_from(["bf16", "F32", "float16", "F8_E4M3", "int8"])
TEXTS = st.one_of(
    WORDS, st.integers(0, 9), st.lists(WORDS, max_size=2), st.lists(st.integers(0, 2), max_size=1), NOTHING
)
FLAGS = st.one_of(st.booleans(), NOTHING, st.just("yes"))
SIZES = st.one_of(
    NOTHING,
    st.integers(-1, 10**10),
    st.sampled_from(
        ["5GB", "64MiB", "1.5 kB", "5 parsec", "", "-1GB", "+3B", "5K", "1e3", "1e3kB", ".5MB", "0"]
    ),
    st.sampled_from([1.0, 1.5, 1e9]),
)


def near(required: dict[str, st.SearchStrategy], optional: dict[str, st.SearchStrategy]) -> st.SearchStrategy:
    """Mappings of such keys, of which one may be missing, hold something odd, or be none that there is."""
    whole = st.fixed_dictionaries(required, optional=optional)
    keys = st.sampled_from([*required, *optional, "colour"])

    def spoiled(mapping, key, odd, how):
        if how == 0:
            return {**mapping, key: odd}
        return {name: value for name, value in mapping.items() if how > 1 or name != key}

    return st.builds(spoiled, whole, keys, ODD, st.integers(0, 6))


OPTIONS = st.fixed_dictionaries(
    {}, optional={"granularity": st.sampled_from(["channel", "tensor", "block", "row"]), "colour": WORDS}
)
QUANTIZE = {
    "exclude": TEXTS, "include": TEXTS, "on_bad_shape": st.sampled_from(["keep", "error", "pad", "crop"]),
    "keep_dtype": DTYPES, "allow_unmatched": FLAGS,
}  # fmt: skip
STEPS = st.one_of(
    near({"drop": TEXTS}, {}),
    near({"keep": TEXTS}, {}),
    st.fixed_dictionaries({"cast": st.one_of(DTYPES, near({"to": DTYPES}, {"saturate": FLAGS, "dtypes": st.lists(DTYPES, max_size=2)}))}),
    st.fixed_dictionaries({"dequantize": st.one_of(NOTHING, DTYPES, near({}, {"to": DTYPES, "only": TEXTS}))}),
    st.fixed_dictionaries({"quantize": st.one_of(SCHEMES, near({"scheme": SCHEMES}, QUANTIZE))}),
    st.fixed_dictionaries({"rename": near({"rules": st.one_of(st.just([["a", "b"]]), st.just({"a": "b"}), ODD)},
                                          {"names": st.one_of(st.just({"a": "b"}), ODD)})}),
    st.fixed_dictionaries({"lora": st.one_of(WORDS, st.lists(WORDS, max_size=2), near({"paths": TEXTS}, {}))}),
    ODD,
)  # fmt: skip
RECIPES = near(
    {},
    {
        "source": near({"path": WORDS}, {"mmap": FLAGS, "root_key": WORDS, "type": st.sampled_from(["auto", "wan_dit", "x"])}),
        "steps": st.one_of(NOTHING, st.lists(STEPS, max_size=3)),
        "quantization": near({"method": SCHEMES}, {"options": st.one_of(NOTHING, near({}, QUANTIZE)), "backend": WORDS}),
        "lora": near({"paths": TEXTS}, {"enabled": FLAGS, "strengths": st.one_of(st.floats(0, 1), NOTHING)}),
        "target": near({}, {"layout": st.sampled_from(["by_block", "chunked", "x", None])}),
        "output": near({"path": WORDS}, {"force": FLAGS, "metadata": st.one_of(st.just({"a": "b"}), ODD)}),
        "performance": near({}, {"num_workers": st.integers(-1, 5000), "parallel": FLAGS, "memory": SIZES}),
        "version": ODD,
    },
)  # fmt: skip


@settings(max_examples=600, suppress_health_check=list(HealthCheck))
@given(RECIPES)
def test_schema_and_reader_agree_on_recipes_near_the_schema(validator, recipe):
    """JSON is YAML. What compares two values is the reader's alone, and no such pair is made here."""
    errors = [
        f"{list(error.absolute_path)}: {error.message}"[:200] for error in validator.iter_errors(recipe)
    ]
    try:
        parse(json.dumps(recipe))
        refused = None
    except TranscodeError as error:
        refused = str(error)
    assert (refused is None) == (not errors), (refused, errors)


def test_every_key_is_described():
    def walk(node: object, key: str) -> None:
        if isinstance(node, dict):
            for name, one in node.get("properties", {}).items():
                if "const" not in one and name not in ("options",):
                    assert "description" in one, (key, name)
                walk(one, name)
            for name, one in node.items():
                if name not in ("properties", "if", "not"):
                    walk(one, key)
        elif isinstance(node, list):
            for one in node:
                walk(one, key)

    walk(schema(), "")


def test_the_command_prints_it(cli):
    assert cli("recipe", "schema").json == json.loads(json.dumps(schema()))
