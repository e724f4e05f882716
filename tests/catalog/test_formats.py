"""All files of formats/ are right, mistakes in them are found, and the README's examples work as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import check_formats
import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc
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


def _rules(number: int) -> str:
    """The rules of the README's examples of a conversion that is more than names: joins, and further keys."""
    found = re.findall(r"```yaml\n((?:conversions:| +- at:).*?)```", README, re.DOTALL)
    return found[number][found[number].index("      - ") :]


def _family(folder: Path, rules: str, left: tuple[str, str], right: tuple[str, str]) -> None:
    spelled = "".join(
        f"  {name}:\n    title: {name}\n    detect: {{all: [{mark}]}}\n"
        f"    blocks: ['{block}']\n    targets: [x]\n"
        for name, (mark, block) in {"original": left, "diffusers": right}.items()
    )
    (folder / "families").mkdir(exist_ok=True)
    (folder / "families" / "toy_rows.yaml").write_text(
        f"family: toy_rows\ntitle: Toy\nspellings:\n{spelled}"
        f"conversions:\n  - between: [original, diffusers]\n    rules:\n{rules}"
    )


def _both_ways(tmp_path: Path, right: dict[str, Any], left: dict[str, Any]) -> None:
    """That the right tensors become the left ones, and these the right ones again."""
    (source := tmp_path / "source").mkdir()
    save_file({name: np.ascontiguousarray(value) for name, value in right.items()}, source / "m.safetensors")
    (source / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    tc.open(source) | tc.convert("original", model="toy_rows") | tc.write(tmp_path / "there")
    (tmp_path / "there" / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    for folder, to, wanted in (("there", None, left), ("there", "diffusers", right)):
        flow = tc.open(tmp_path / folder)
        flow = flow if to is None else flow | tc.convert(to, model="toy_rows")
        held = {name: tensor.numpy() for name, tensor in flow.items()}
        assert held.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(held[name], value, err_msg=name)


def test_joins_of_the_readme_do_what_it_says(own_formats: Path, tmp_path: Path) -> None:
    own_formats.mkdir(exist_ok=True)
    _family(own_formats, _rules(0), ("layers.*.attn.qkv.weight", "layers.{i}"),
            ("transformer_blocks.*.attn.to_q.weight", "transformer_blocks.{i}"))  # fmt: skip
    draw, n = np.random.default_rng(0), 4
    rand = lambda *shape: draw.standard_normal(shape).astype(np.float32)  # noqa: E731
    q, k, v, q2, k2, mlp, last, few, many = (
        rand(n, n), rand(n, n), rand(n, n), rand(n, n), rand(n, n), rand(9, n), rand(6, n), rand(2 * n, n),
        rand(6 * n, n),
    )  # fmt: skip
    at, to = "layers.0.", "transformer_blocks.0."
    right = {f"{to}attn.to_q.weight": q, f"{to}attn.to_k.weight": k, f"{to}attn.to_v.weight": v}
    right |= {f"{to}attn2.to_q.weight": q2, f"{to}attn2.to_k.weight": k2, f"{to}proj_mlp.weight": mlp}
    right |= {"norm_out.linear.weight": last, f"{to}norm1_context.linear.weight": few}
    right["transformer_blocks.1.norm1_context.linear.weight"] = many
    left = {
        f"{at}attn.qkv.weight": np.concatenate([q, k, v]),
        f"{at}linear1.weight": np.concatenate([q2, k2, mlp]),
        "final.modulation.weight": np.concatenate([last[3:], last[:3]]),
        f"{at}context.modulation.weight": np.concatenate([few[n:], few[:n]]),
        "layers.1.context.modulation.weight": many,
    }
    _both_ways(tmp_path, right, left)


def test_further_keys_of_the_readme_do_what_it_says(own_formats: Path, tmp_path: Path) -> None:
    own_formats.mkdir(exist_ok=True)
    _family(own_formats, _rules(1), ("blk.*.attn_q.weight", "blk.{i}"),
            ("model.layers.*.self_attn.q_proj.weight", "model.layers.{i}"))  # fmt: skip
    draw = np.random.default_rng(0)
    rand = lambda *shape: draw.standard_normal(shape).astype(np.float32)  # noqa: E731
    experts = {name: rand(2, 3, 4) for name in ("gate_proj", "up_proj", "w1", "w3")}
    up, q, w1, w3, patch = rand(6, 4), rand(8, 4), rand(3, 5), rand(3, 5), rand(6, 16, 1, 2, 2)
    of = "model.layers.0."
    right = {f"{of}experts.{e}.{n}.weight": one[e] for n, one in experts.items() for e in range(2)}
    right |= {f"{of}mlp.up_proj.weight": up, f"{of}self_attn.q_proj.weight": q, f"{of}w1.weight": w1}
    right |= {f"{of}w3.weight": w3, f"{of}patch_embed.proj.weight": patch}
    right[f"{of}input_layernorm.weight"] = np.full(4, 0.25, np.float32)  # which comes back to the bit
    rows = np.stack([experts["w1"], experts["w3"]], axis=2)
    left = {
        "blk.0.experts.gate_up_proj": np.concatenate([experts["gate_proj"], experts["up_proj"]], axis=1),
        "blk.0.experts.w13": rows.reshape(2, 6, 4),
        "blk.0.mlp.c_fc.weight": up.T,
        "blk.0.attn_q.weight": q.reshape(2, 2, 2, 4).swapaxes(1, 2).reshape(8, 4),
        "blk.0.w13.weight": np.stack([w1, w3]).transpose(2, 1, 0).reshape(5, 6),
        "blk.0.patch_embedding.weight": patch.reshape(6, 64),
        "blk.0.attn_norm.weight": right[f"{of}input_layernorm.weight"] + 1,
    }
    _both_ways(tmp_path, right, left)
