"""What a marker says of a layer decides how it is read; what of it is not understood stops it."""

from __future__ import annotations

import json

import pytest

from tests.expressions import NOTHING
from transcode import catalog
from transcode.consumers.declared import Declared
from transcode.consumers.evidence import LAYERS
from transcode.consumers.group import Names, Reading, readings
from transcode.consumers.source_markers import SourceMarkers
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Constant
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain

COMFYUI = catalog.convention("comfyui")


def fp8() -> list[Reading]:
    names = Names({"a.weight": Spec(DTYPES["F8_E4M3"], (8, 64)), "a.weight_scale": Spec(DTYPES["F32"], ())})
    return readings(names, COMFYUI, Declared())["a.weight"]


def marker(content: object) -> dict[str, LazyTensor]:
    text = (content if isinstance(content, str) else json.dumps(content)).encode()
    spec = Spec(DTYPES["U8"], (len(text),))
    return {"a.comfy_quant": plain("a.comfy_quant", spec, Constant(spec, text))}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"format": "float8_e4m3fn"}, None),
        ({"format": "float8_e4m3fn", "extra": None, "other": False}, None),
        ({"format": "float8_e4m3fn", "rotated": True}, "says rotated=True, which transcode does not decode"),
        ({"format": "float8_e4m3fn", "params": {"rotated": 1}}, "says rotated=1, which transcode does not"),
        ({"format": "nvfp4"}, "says 'nvfp4', which is not decoded from such parts"),
        ("no json", "which is not decoded from such parts"),
    ],
)
@pytest.mark.parametrize("place", ["tensor", "metadata"])
def test_every_word_is_understood(place: str, content: object, why: str | None) -> None:
    if place == "metadata" and isinstance(content, str):
        return
    table = marker(content) if place == "tensor" else {}
    metadata = {} if place == "tensor" else {LAYERS: json.dumps({"layers": {"a": content}})}
    fitting, unfit = SourceMarkers(table, metadata).fitting(fp8(), COMFYUI)
    if why is None:
        assert (len(fitting), unfit) == (1, None)
    else:
        assert fitting == []
        assert why in str(unfit)


def test_zeros_behind_the_json_are_padding() -> None:
    text = json.dumps({"format": "float8_e4m3fn"}) + "\0\0"
    assert SourceMarkers(marker(text), {}).fitting(fp8(), COMFYUI)[1] is None


def test_a_huge_marker_is_not_read() -> None:
    spec = Spec(DTYPES["U8"], (1 << 21,))
    table = {"a.comfy_quant": plain("a.comfy_quant", spec, NOTHING)}
    assert SourceMarkers(table, {}).fitting(fp8(), COMFYUI)[0] == []


def test_without_a_marker_it_is_plain_where_the_consumer_marks() -> None:
    assert "has no" in str(SourceMarkers({}, {}).fitting(fp8(), COMFYUI)[1])
    assert SourceMarkers({}, {}).fitting(fp8(), catalog.convention("lightx2v")) == (fp8(), None)
