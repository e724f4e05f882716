"""Where the changes of a file go, and what is said of those that have no home or do not fit."""

from types import SimpleNamespace

import numpy as np
import pytest

from transcode.catalog.lora import lora_names
from transcode.core.planning import Planning
from transcode.errors import PlanError
from transcode.stages.lora.contents import Change, Contents
from transcode.stages.lora.delta import Added, Difference, LowRank
from transcode.stages.lora.places import Placed, Whole
from transcode.stages.lora.placing import placements
from transcode.stages.lora.stacked import Stacked
from transcode.stages.lora.targets import Homes

from .arrays import FILE, lazy, rand, spec

MODEL = {
    "a.q.weight": (4, 6),
    "a.k.weight": (4, 6),
    "b.weight": (4, 6),
    "experts.w": (3, 5, 5),
    "experts.v": (3, 5, 4),
}


def pair(base, rows=4, columns=6, leaf="weight", **rest):
    delta = LowRank(FILE, lazy(rand(rows, 2)), lazy(rand(2, columns)))
    return Change(f"{base}.lora_up.weight", base, leaf, Added(delta, np.float32(1)), "rank 2", **rest)


def whole(base):
    delta = Whole(FILE, lazy(rand(4, 6)))
    return Change(f"{base}.weight", base, "weight", Added(delta, np.float32(1)), "replaced")


def difference(base):
    delta = Difference(FILE, lazy(rand(4, 6)))
    return Change(f"{base}.diff", base, "weight", Added(delta, np.float32(1)), "difference")


def stack(leaf, outputs, inputs):
    delta = Stacked(FILE, lazy(rand(outputs, 6)), lazy(rand(6, inputs)), 2)
    return Change(f"experts.{leaf}", "experts", leaf, Added(delta, np.float32(1)), "rank 2 of 3 matrices")


def place(*changes, allow=False, unknown=(), model=MODEL):
    planning = Planning(allow_unmatched=allow)
    contents = Contents(SimpleNamespace(), FILE, changes, tuple(unknown), (), False, (), ())
    table = {name: lazy(np.zeros(shape), name) for name, shape in model.items()}
    homes = Homes(model, lora_names(), "auto", None)
    return placements(contents, homes, table, planning), planning


def test_whole_tensors_come_before_what_is_added():
    placed, planning = place(pair("a.q"), whole("a.q"), difference("a.k"))
    assert [(one.name, one.description) for one in placed] == [
        ("a.q.weight", "replaced"), ("a.q.weight", "rank 2"), ("a.k.weight", "difference"),
    ]  # fmt: skip
    assert "lora lora.safetensors: 2 tensors changed, 1 replaced, 0 keys left out" in map(str, planning.notes)


def test_what_has_no_home_is_an_error_or_left_out():
    with pytest.raises(PlanError, match=r"lora\.safetensors: 1 key has no home: 'c\.lora_up\.weight'"):
        place(pair("a.q"), pair("c"))
    placed, planning = place(pair("a.q"), pair("c"), allow=True, unknown=("odd",))
    assert [one.name for one in placed] == ["a.q.weight"]
    (warning,) = map(str, planning.warnings)
    assert "2 keys have no home: 'odd', 'c.lora_up.weight'" in warning
    placed, _ = place(pair("a.q"), pair("c", optional=True))
    assert len(placed) == 1


def test_what_does_not_fit_is_an_error_or_left_out():
    with pytest.raises(PlanError, match=r"a\.k\.lora_up\.weight: up .* do not make .* of 'a\.k\.weight'"):
        place(pair("a.q"), pair("a.k", rows=5))
    placed, planning = place(pair("a.q"), pair("a.k", rows=5), allow=True)
    assert [one.name for one in placed] == ["a.q.weight"]
    assert any("1 key does not fit, left out: 'a.k.lora_up.weight'" in str(one) for one in planning.warnings)


def test_nothing_that_fits_is_an_error_whatever_is_allowed():
    with pytest.raises(PlanError, match="none of its 2 keys fits the model"):
        place(pair("c"), pair("d"), allow=True)


def test_two_of_a_kind_for_one_tensor():
    with pytest.raises(
        PlanError, match=r"is for 'a\.q\.weight', as 'a\.q\.lora_up\.weight' is; keep one of them"
    ):
        place(pair("a.q"), pair("a.q"))


def test_a_name_that_may_mean_two():
    model = {"a.b_c.weight": (4, 6), "a_b.c.weight": (4, 6)}
    with pytest.raises(
        PlanError, match=r"may mean any of 'a\.b_c\.weight', 'a_b\.c\.weight'; say which part"
    ):
        place(pair("lora_unet_a_b_c"), model=model)


def test_a_square_stack_lies_as_the_others_of_its_file_do():
    placed, _ = place(stack("w", 5, 5), stack("v", 4, 5))  # v is [3, 5, 4]: inputs first
    assert [one.added.delta.turned for one in placed] == [True, True]
    with pytest.raises(PlanError, match="nothing else in the file tells which of their sides are the inputs"):
        place(stack("w", 5, 5))


def test_rows_of_a_joined_tensor(tmp_path):
    """Diffusers' names of a part of FLUX's own qkv: the first third of its rows are those of q."""
    model = {f"double_blocks.{n}.img_attn.qkv.weight": (12, 6) for n in range(2)}
    model |= {f"double_blocks.{n}.img_attn.proj.weight": (4, 4) for n in range(2)}
    model |= {f"single_blocks.{n}.linear1.weight": (28, 4) for n in range(2)}
    placed, _ = place(pair("transformer.transformer_blocks.1.attn.to_k"), model=model)
    (one,) = placed
    assert (one.name, one.description) == ("double_blocks.1.img_attn.qkv.weight", "rank 2, rows 4 to 7")
    assert isinstance(one.added.delta, Placed)
    assert one.added.delta.refuses(spec(12, 6)) is None
