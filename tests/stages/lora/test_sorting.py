"""Each key of a file is put to what it is a part of: kohya's names, PEFT's, Diffusers', LyCORIS's."""

import pytest

from transcode.catalog.lora import lora_names
from transcode.errors import PlanError
from transcode.stages.lora.sorting import sort_keys

from .arrays import FILE, lazy, rand


def sort(*keys):
    return sort_keys({key: lazy(rand(2, 2), key) for key in keys}, lora_names(), FILE)


def roles(table):
    return {role: tensor.name for role, tensor in table.items()}


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ("a.b.lora_up.weight", "a.b.lora_down.weight"),
        ("a.b.lora_B.weight", "a.b.lora_A.weight"),
        ("a.b.lora_B.default.weight", "a.b.lora_A.default.weight"),
        ("a.b.lora.up.weight", "a.b.lora.down.weight"),
    ],
)
def test_pairs(up, down):
    found = sort(up, down, "a.b.alpha")
    assert {base: roles(one) for base, one in found.pairs.items()} == {"a.b": {"up": up, "down": down}}
    assert roles(found.alphas) == {"a.b": "a.b.alpha"}
    assert found.adapted == ("a.b",)
    assert found.others == found.differences == []
    assert found.tokens == found.kinds == {}


def test_other_adapters_differences_and_what_is_not_known():
    found = sort(
        "x.hada_w1_a",
        "x.hada_w1_b",
        "x.hada_w2_a",
        "x.hada_w2_b",
        "y.lokr_w1",
        "z.diff",
        "z.diff_b",
        "norm.scale",
    )
    assert {base: [*kinds] for base, kinds in found.kinds.items()} == {"x": ["loha"], "y": ["lokr"]}
    assert len(found.kinds["x"]["loha"]) == 4
    assert sorted((base, leaves[0]) for base, leaves, _ in found.differences) == [
        ("z", "bias"),
        ("z", "weight"),
    ]
    assert [tensor.name for tensor in found.others] == ["norm.scale"]


def test_a_weight_is_of_ia3_only_beside_its_mark():
    with_mark = sort("x.weight", "x.on_input")
    assert [*with_mark.kinds["x"]] == ["ia3"]
    assert [tensor.name for tensor in sort("x.weight").others] == ["x.weight"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("a.lora_up.weight", "a.lora_B.weight"), "a.lora_B.weight: is a second up of 'a'"),
        (("a.alpha",), "a.alpha: is an alpha without a pair"),
    ],
)
def test_what_is_refused(keys, words):
    with pytest.raises(PlanError) as refused:
        sort(*keys)
    assert f"lora.safetensors: {words}" in str(refused.value)
