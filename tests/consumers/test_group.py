"""Stored names and facts back to tensors and schemes; shapes by formulas of the test."""

from __future__ import annotations

import pytest

from transcode import catalog
from transcode.consumers.declared import Declared
from transcode.consumers.group import Names, coded, readings
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec


def names(**stored: tuple[str, tuple[int, ...]]) -> Names:
    return Names({name: Spec(DTYPES[dtype], shape) for name, (dtype, shape) in stored.items()})


def layer(dtype: str, shape: tuple[int, ...], scale: tuple[str, tuple[int, ...]]) -> Names:
    return names(**{"a.weight": (dtype, shape), "a.weight_scale": scale, "a.bias": ("F32", (8,))})


def test_codes_need_a_scale_and_a_dtype_of_codes() -> None:
    known = catalog.every_convention()
    found = coded(layer("I8", (8, 64), ("F32", (8, 1))), known)
    assert found.keys() == {"a.weight"}
    assert (found["a.weight"].name, found["a.weight"].parts) == ("a.weight", {"a.weight", "a.weight_scale"})
    assert {"lightx2v", "compressed_tensors"} <= found["a.weight"].conventions
    assert coded(layer("BF16", (8, 64), ("F32", (8, 1))), known) == {}
    assert coded(names(**{"a.weight": ("I8", (8, 64))}), known) == {}
    assert coded(names(**{"a.weight": ("I8", (8,)), "a.weight_scale": ("F32", (8, 1))}), known) == {}


@pytest.mark.parametrize(
    ("convention", "dtype", "scale", "scheme", "options"),
    [
        ("lightx2v", "I8", ("F32", (8, 1)), "int8", {"granularity": "channel"}),
        ("lightx2v", "F8_E4M3", ("F32", (8, 1)), "fp8", {"format": "e4m3fn", "granularity": "channel"}),
        ("compressed_tensors", "I8", ("F32", (8, 4)), "int8", {"granularity": "group", "group_size": 32}),
        ("compressed_tensors", "F8_E4M3", ("U8", (8, 4)), "mxfp8", {}),
    ],
)
def test_a_scale_tells_the_granularity(convention, dtype, scale, scheme, options) -> None:
    read = readings(layer(dtype, (8, 128), scale), catalog.convention(convention), Declared())
    (reading,) = read["a.weight"]
    assert (reading.name, reading.codes, reading.scheme.name) == ("a.weight", "a.weight", scheme)
    assert {key: getattr(reading.scheme, key) for key in options} == options
    assert reading.spec == Spec(DTYPES["F32"], (8, 128))


def test_half_bytes_stand_for_twice_the_columns() -> None:
    stored = names(**{"a.weight_packed": ("U8", (8, 64)), "a.weight_scale": ("U8", (8, 4))})
    (reading,) = readings(stored, catalog.convention("compressed_tensors"), Declared())["a.weight_packed"]
    assert (reading.scheme.name, reading.spec.shape) == ("mxfp4", (8, 128))


@pytest.mark.parametrize(
    "scale", [("F32", (7, 1)), ("F32", (8, 3)), ("I64", (8, 1)), ("F32", (8, 1, 1, 1, 2))]
)
def test_a_scale_that_fits_nothing(scale) -> None:
    assert readings(layer("I8", (8, 128), scale), catalog.convention("lightx2v"), Declared()) == {}


def test_what_is_declared_decides_where_shapes_do_not() -> None:
    """24 integers hold 192 columns of 4 bits, or 96 of 8: three groups of 64, or of 32."""
    stored = names(
        **{
            "a.weight_packed": ("I32", (8, 24)),
            "a.weight_scale": ("F32", (8, 3)),
            "a.weight_shape": ("I64", (2,)),
        }
    )
    convention = catalog.convention("compressed_tensors")
    assert "a.weight_packed" in readings(stored, convention, Declared(bits={4}, groups={64}))
    assert readings(stored, convention, Declared(bits={8}, groups={64})) == {}
