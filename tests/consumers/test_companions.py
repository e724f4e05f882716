"""What goes with a tensor that is decoded, and what beside it stops decoding."""

from __future__ import annotations

import numpy as np
import pytest

from tests.expressions import NOTHING
from transcode import catalog
from transcode.consumers.companions import Companions
from transcode.consumers.declared import Declared
from transcode.consumers.group import Names, Reading, readings
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Constant
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError

CT = catalog.convention("compressed_tensors")
COMFYUI = catalog.convention("comfyui")
INT8 = {"a.weight": ("I8", (8, 64)), "a.weight_scale": ("F32", (8, 1))}


def source(stored: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, LazyTensor]:
    return {name: plain(name, Spec(DTYPES[kind], shape), NOTHING) for name, (kind, shape) in stored.items()}


def companions(table: dict[str, LazyTensor], *conventions: catalog.Convention) -> tuple[Companions, Reading]:
    names = Names({name: tensor.spec for name, tensor in table.items()})
    (reading,) = next(iter(readings(names, conventions[0], Declared()).values()))
    return Companions(table, conventions, set(reading.stored.values())), reading


def test_scales_of_inputs_and_markers_go_and_a_bias_stays() -> None:
    beside = {"a.input_scale": ("F32", ()), "a.comfy_quant": ("U8", (9,)), "a.bias": ("F32", (8,))}
    scaled = {"a.weight": ("F8_E4M3", (8, 64)), "a.weight_scale": ("F32", ())}
    of, reading = companions(source({**scaled, **beside}), COMFYUI)
    assert of.of(reading) == (["a.input_scale"], ["a.comfy_quant"])


@pytest.mark.parametrize("name", ["a.weight_codebook", "a.rotation", "a.weight.absmax"])
def test_what_is_not_known_stops_it(name: str) -> None:
    of, reading = companions(source({**INT8, name: ("F32", (8,))}), CT)
    with pytest.raises(PlanError, match=name.replace(".", r"\.")):
        of.of(reading)


def test_a_bias_of_another_length_tells_of_padding() -> None:
    for shape, fits in (((8,), True), ((1, 8), True), ((7,), False)):
        of, reading = companions(source({**INT8, "a.bias": ("F32", shape)}), CT)
        if fits:
            of.of(reading)
        else:
            with pytest.raises(PlanError, match=r"has 8 rows, its bias \[7\]"):
                of.of(reading)


def test_scales_of_the_cache_are_scalars_by_name() -> None:
    extra = {"attn.k_scale": ("F32", ()), "attn.v_scale": ("F32", (1,)), "other.k_scale": ("F32", (8,))}
    of, _ = companions(source({**INT8, **extra, "b.k_scale": ("I8", (1,))}), CT)
    assert of.cache() == ["attn.k_scale", "attn.v_scale"]


@pytest.mark.parametrize(("stated", "fits"), [((8, 64), True), ((8, 65), False), ((4, 64), False)])
def test_the_stored_shape_must_be_that_of_the_codes(stated: tuple[int, int], fits: bool) -> None:
    packed = {"a.weight_packed": ("I32", (8, 8)), "a.weight_scale": ("F32", (8, 2))}
    table = source({**packed, "a.weight_shape": ("I64", (2,))})
    spec = Spec(DTYPES["I64"], (2,))
    table["a.weight_shape"] = plain("a.weight_shape", spec, Constant(spec, np.array(stated, "<i8").tobytes()))
    of, reading = companions(table, CT)
    if fits:
        assert of.shape(reading) == (8, 64)
    else:
        with pytest.raises(PlanError, match="has codes for"):
            of.shape(reading)
