"""Configurations derived from shapes are those of published models, and make the models they came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from transcode import catalog
from transcode.catalog import strict
from transcode.catalog.derive import derivation
from transcode.errors import RecipeError

Golden = Any  # tests/catalog/conftest.py

# config.json of Wan-AI/Wan2.1-T2V-1.3B, -T2V-14B and -I2V-14B-480P, without the version of Diffusers.
PUBLISHED = {
    "wan2.1_t2v_1.3b": {
        "_class_name": "WanModel", "dim": 1536, "eps": 1e-06, "ffn_dim": 8960, "freq_dim": 256, "in_dim": 16,
        "model_type": "t2v", "num_heads": 12, "num_layers": 30, "out_dim": 16, "text_len": 512,
    },
    "wan2.1_t2v_14b": {
        "_class_name": "WanModel", "dim": 5120, "eps": 1e-06, "ffn_dim": 13824, "freq_dim": 256, "in_dim": 16,
        "model_type": "t2v", "num_heads": 40, "num_layers": 40, "out_dim": 16, "text_len": 512,
    },
    "wan2.1_i2v_14b": {
        "_class_name": "WanModel", "dim": 5120, "eps": 1e-06, "ffn_dim": 13824, "freq_dim": 256, "in_dim": 36,
        "model_type": "i2v", "num_heads": 40, "num_layers": 40, "out_dim": 16, "text_len": 512,
    },
}  # fmt: skip

DIFFUSERS = [*PUBLISHED, "wan2.1_flf2v_14b", "wan2.1_vace_14b", "wan2.2_ti2v_5b"]


@pytest.mark.parametrize("model", PUBLISHED)
def test_wans_own_configuration(model: str, read_golden: Callable[[str], Golden]) -> None:
    shapes = read_golden(model).shapes
    assert catalog.family("wan_dit").config(shapes) == PUBLISHED[model]


@pytest.mark.parametrize("model", DIFFUSERS)
def test_diffusers_makes_the_same_model_of_it(model: str, read_golden: Callable[[str], Golden]) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch = pytest.importorskip("torch")
    golden = read_golden(f"{model}_diffusers")
    config = catalog.family("wan_dit", list(golden.shapes)).config(golden.shapes)
    assert config is not None
    kind = getattr(diffusers, config["_class_name"])
    with torch.device("meta"):
        made = kind.from_config(config)
    assert {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()} == golden.shapes
    unsaid = made.config.keys() - config.keys() - {"_use_default_values"}
    assert unsaid == set()


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("[1, {shape: a, axis: 0}, {shape: none, axis: 0, absent: drop}]", [1, 36]),
        ("{numbers: 'b.{i}.attn2'}", [0, 2, 10]),
        ("{shape: a, axis: 0, root: 2}", 6),
        ("{shape: a, axis: 1, root: 2}", None),
        ("{shape: a, axis: 0, over: [2, {shape: a, axis: 2}]}", 9),
        ("{has: a, then: {unknown: why}, else: 3}", None),
        ("{has: none, then: {unknown: why}, else: 3}", 3),
    ],
)
def test_values_of_further_rules(rule: str, wanted: object) -> None:
    derive = derivation(strict.parse(f"key: {rule}\nname: constant", "f.yaml"))
    shapes = {"a": (36, 35, 2), **{f"b.{i}.attn2.weight": (1,) for i in (10, 2, 0)}, "b.1.attn1": (1,)}
    assert derive(shapes) == (None if wanted is None else {"key": wanted, "name": "constant"})
    assert derive.constants == {"name"}


def test_the_prefix_does_not_matter(read_golden: Callable[[str], Golden]) -> None:
    shapes = read_golden("wan2.1_t2v_1.3b").shapes
    named = {f"model.{name}": shape for name, shape in shapes.items()}
    wan = catalog.family("wan_dit").spelled("lightx2v", "model.")
    assert wan.config({**named, "vae.conv.weight": (1,)}) == PUBLISHED["wan2.1_t2v_1.3b"]


def test_what_cannot_be_told_is_not_guessed(read_golden: Callable[[str], Golden]) -> None:
    shapes = dict(read_golden("wan2.1_t2v_1.3b").shapes)
    shapes["patch_embedding.weight"] = (1500, 16, 1, 2, 2)
    assert catalog.family("wan_dit").config(shapes) is None
    assert catalog.family("hunyuan_dit").config({}) is None


def test_what_shapes_cannot_tell_comes_from_the_given_configuration() -> None:
    """A model with heads of 12 channels; its configuration goes from one spelling to the other and back."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    made = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        ffn_dim=32,
        num_layers=2,
        text_dim=16,
        freq_dim=16,
        eps=1e-5,
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    theirs = catalog.family("wan_dit", list(shapes))
    assert theirs.config(shapes) is None
    ours = theirs.spelled("lightx2v")
    converted = {str(theirs.convert(name, "lightx2v")): shape for name, shape in shapes.items()}
    config = ours.config(converted, dict(made.config))
    assert config is not None
    assert (config["num_heads"], config["dim"], config["eps"]) == (2, 24, 1e-5)
    back = theirs.config(shapes, config)
    assert back is not None
    assert {key: value for key, value in made.config.items() if key in back and key != "patch_size"} == {
        key: value for key, value in back.items() if key in made.config and key != "patch_size"
    }
    again = diffusers.WanTransformer3DModel.from_config(back)
    again.load_state_dict(made.state_dict(), strict=True)


def derive(text: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any] | None:
    return derivation(strict.parse(text, "f.yaml"))(shapes)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("3", 3),
        ("[1, 2]", [1, 2]),
        ("{shape: a, axis: 1}", 6),
        ("{shape: a, axis: 1, over: 3}", 2),
        ("{shape: b, axis: 1}", None),
        ("{shape: b, axis: 1, over: 3}", None),
        ("{shape: a, from: 1}", [6, 2]),
        ('{count: "x.{i}"}', 4),
        ('{count: "y.{i}"}', 2),
        ('{count: "z.{i}"}', 0),
        ('{spread: "y.{i}", among: "x.{i}"}', [0, 2]),
        ('{spread: "z.{i}", among: "x.{i}"}', None),
        ("{has: a, then: 1, else: 2}", 1),
        ("{has: b, then: 1, else: 2}", 2),
        ("{has: b, then: 1}", None),
        ("{has: a, axis: 1, is: 6, then: 1, else: 2}", 1),
        ("{has: a, axis: 1, is: 7, then: 1, else: 2}", 2),
        ("{has: a, axis: 9, is: 7, then: 1, else: 2}", 2),
        ("{given: heads}", 2),
        ("{given: tails}", None),
        ("{given: tails, else: 5}", 5),
        ("{given: nothing, else: 5}", 5),
        ("{given: heads, then: {shape: a, axis: 1, over: {given: heads}}}", 3),
        ("{has: b, else: {has: a, then: {shape: a, axis: 0}}}", 4),
    ],
)
def test_rules(rule: str, expected: Any) -> None:
    shapes: dict[str, tuple[int, ...]] = {"a": (4, 6, 2), **{f"x.{i}.w": (1,) for i in range(4)}}
    shapes |= {"y.0.w": (1,), "y.0.b": (1,), "y.1.w": (1,), "xx.0.x.7.w": (1,)}
    given = {"heads": 2, "nothing": None}
    assert derivation(strict.parse(f"key: {rule}", "f.yaml"))(shapes, given) == {"key": expected}


def test_keys_may_be_left_out() -> None:
    assert derive("a: {shape: x, axis: 0, absent: drop}\nb: 1", {}) == {"b": 1}


@pytest.mark.parametrize(
    "rule",
    [
        "{shape: a, axis: 1, over: 4}",
        "{shape: a, axis: 9}",
        "{shape: a, from: 0, over: 2}",
        "{shape: a, axis: 0, over: {given: heads}}",
        "{shape: a, axis: 0, over: 0}",
        "{shape: a, axis: 0, over: two}",
        '{spread: "y.{i}", among: "x.{i}"}',
    ],
)
def test_no_configuration_rather_than_a_wrong_one(rule: str) -> None:
    assert (
        derive(f"key: {rule}", {"a": (4, 6), "x.0": (), "x.1": (), "x.2": (), "y.0": (), "y.1": ()}) is None
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{}", "is no rule; it needs one of shape, count, numbers, spread, has, given, unknown"),
        ("{shape: a}", "needs either 'axis' or 'from'"),
        ("{shape: a, axis: 1, from: 1}", "needs either 'axis' or 'from'"),
        ("{has: a, axis: 1}", "'axis' and 'is' go together"),
        ("{count: blocks}", "'blocks' is not a block path"),
        ("{shape: a, axis: 1, by: 2}", "unknown key 'by'"),
        ("{shape: a, axis: 1, absent: null_}", "'null_' is not allowed"),
    ],
)
def test_mistakes_are_told_with_their_line(rule: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        derivation(strict.parse(f"key: {rule}", "f.yaml"))
    assert caught.value.file == "f.yaml:1"
