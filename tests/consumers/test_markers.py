"""Markers stand beside what they mark, with the bytes that the consumer parses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.expressions import NOTHING
from transcode import catalog, schemes
from transcode.consumers.markers import markers
from transcode.core.context import Context
from transcode.core.dtypes import DTYPES
from transcode.core.event import Event
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError, RecipeError


def tensor(name: str, scheme: str | None = None, **options: Any) -> LazyTensor:
    made = plain(name, Spec(DTYPES["BF16"], (4, 32)), NOTHING)
    return made if scheme is None else made.evolve(scheme=schemes.make(scheme, **options))


def test_one_for_each_quantized_tensor() -> None:
    flow = [
        tensor("a.weight", "fp8", granularity="tensor"),
        tensor("a.bias"),
        tensor("b.weight", "fp8", format="e5m2", granularity="tensor"),
        tensor("c.weight", "int8"),
    ]
    made = markers(flow, catalog.convention("comfyui"))
    assert [one.name for one in made] == ["a.comfy_quant", "b.comfy_quant", "c.comfy_quant"]
    said = [json.loads(one.numpy().tobytes()) for one in made]
    assert said == [{"format": "float8_e4m3fn"}, {"format": "float8_e5m2"}, {"format": "int8_tensorwise"}]
    for one in made:
        assert one.spec.dtype.name == "U8"
        assert one.plain
        assert one.fate == (Event("add", "a marker of comfyui"),)


def test_one_for_all() -> None:
    flow = [tensor("a.weight", "fp8"), tensor("b.weight", "fp8")]
    (made,) = markers(flow, catalog.convention("comfyui_scaled"))
    assert (made.name, str(made.spec)) == ("scaled_fp8", "F8_E4M3[2]")
    assert made.numpy().tobytes() == bytes(2)


def test_parts_of_a_marker_are_where_they_belong() -> None:
    (made,) = markers([tensor("a.weight", "int8")], catalog.convention("comfyui"))
    whole = made.numpy().tobytes()
    (piece,) = made.read(3, 9, Context())
    assert (piece.offset, piece.data.tobytes()) == (3, whole[3:9])


def test_none_where_the_convention_has_none() -> None:
    assert markers([tensor("a.weight", "int8")], catalog.convention("lightx2v")) == []
    assert markers([tensor("a.weight")], catalog.convention("comfyui")) == []


def test_what_cannot_be_marked_is_refused() -> None:
    with pytest.raises(PlanError, match=r"does not end in \.weight"):
        markers([tensor("experts.down_proj", "int8")], catalog.convention("comfyui"))
    with pytest.raises(RecipeError, match="no spelling for scheme 'int4'"):
        markers([tensor("a.weight", "int4")], catalog.convention("comfyui"))


def test_of_the_source_s_markers_none_stands_twice(save, tmp_path, cli) -> None:
    """A file quantized in part is quantized on: a marker of the whole file was once a collision."""
    source = save({f"{name}.weight": torch.randn(32, 32) for name in "ab"})
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    options = ("--scheme", "fp8", "--convention", "comfyui_scaled")
    cli("run", source, first, *options, "--exclude", "b")
    cli("run", first, second, *options)
    assert set(load_file(first)) == {"a.weight", "a.scale_weight", "b.weight", "scaled_fp8"}
    stored = load_file(second)
    assert set(stored) == set(load_file(first)) | {"b.scale_weight"}
    assert torch.equal(stored["scaled_fp8"].float(), load_file(first)["scaled_fp8"].float())


def test_a_marker_that_is_left_in_a_decoded_file_stands_once_again(save, tmp_path, cli) -> None:
    """Who decodes by other means leaves markers behind: the one of the whole file is ours again."""
    marker = torch.zeros(2, dtype=torch.float8_e4m3fn)
    source = save({"a.weight": torch.randn(32, 32), "scaled_fp8": marker})
    out = tmp_path / "o.safetensors"
    cli("run", source, out, "--scheme", "fp8", "--convention", "comfyui_scaled")
    stored = load_file(out)
    assert set(stored) == {"a.weight", "a.scale_weight", "scaled_fp8"}
    assert stored["a.weight"].dtype == torch.float8_e4m3fn
