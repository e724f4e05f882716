"""What holds for every scheme: tiles don't matter, parts are as planned, options make it again."""

import json

import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.core.scheme import Scheme
from transcode.core.spec import Spec
from transcode.errors import RecipeError
from transcode.schemes import SCHEMES, describe, make

from .helpers import decode, encode, spec_of

CASES = [
    ("int8", {}),
    ("int8", {"granularity": "tensor"}),
    ("int8", {"granularity": "group", "group_size": 48}),
    ("int8", {"symmetric": False, "scale_dtype": "BF16"}),
    ("int8", {"symmetric": False, "granularity": "group", "group_size": 32}),
    ("fp8", {}),
    ("fp8", {"format": "e5m2", "granularity": "tensor"}),
    ("fp8", {"granularity": "block", "scale_dtype": "F16"}),
    ("fp8", {"granularity": "block", "block": (16, 32)}),
    ("mxfp8", {}),
    ("mxfp8", {"format": "e5m2", "scale_mode": "floor"}),
    ("mxfp6", {}),
    ("mxfp6", {"format": "e2m3", "optimize": "mse"}),
    ("mxfp4", {}),
    ("mxfp4", {"scale_mode": "even"}),
    ("nvfp4", {}),
    ("nvfp4", {"optimize": "four_over_six"}),
    ("nvfp4", {"optimize": "mse"}),
    ("int4", {}),
    ("int4", {"symmetric": False, "group_size": 32}),
    ("int4", {"optimize": "mse", "scale_dtype": "BF16"}),
]


FLOATS = {
    "e4m3fn": (3, 7, 448),
    "e5m2": (2, 15, 57344),
    "e3m2": (2, 3, 28),
    "e2m3": (3, 1, 7.5),
    "e2m1": (1, 1, 6),
}
"""Mantissa bits, exponent bias and largest value."""


def noise(values, scheme):
    """Root of the summed squared errors that rounding to a format's own steps makes.

    An error spread evenly over a step ``q`` has the variance ``q**2 / 12``. Integers have one step in a
    block, floats one for each power of two.
    """
    rows, columns = values.shape
    granularity = getattr(scheme, "granularity", None)
    width = {"mxfp8": 32, "mxfp6": 32, "mxfp4": 32, "nvfp4": 16}.get(scheme.name, columns)
    if scheme.name == "int4" or granularity == "group":
        width = scheme.group_size
    blocks = values.reshape(rows, -1, width)
    if granularity in ("tensor", "block"):  # what differs from block to block is little here
        blocks = values.reshape(1, 1, -1)
    peak = np.abs(blocks).max(-1, keepdims=True)
    if scheme.name in ("int8", "int4"):
        most = 127 if scheme.name == "int8" else 7
        span = np.maximum(blocks.max(-1, keepdims=True), 0) - np.minimum(blocks.min(-1, keepdims=True), 0)
        steps = peak / most if scheme.symmetric else span / (2 * most + 1)
    else:
        mantissa, bias, top = FLOATS[getattr(scheme, "format", "e2m1")]
        scale = peak / top
        if scheme.name.startswith("mx"):
            scale = np.exp2(np.ceil(np.log2(scale)))
        exponent = np.floor(np.log2(np.maximum(np.abs(blocks) / scale, 2.0 ** (1 - bias))))
        steps = scale * np.exp2(exponent - mantissa)
    return np.sqrt((np.broadcast_to(steps, blocks.shape) ** 2 / 12).sum())


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("shape", [(300, 192), (3, 130, 192), (2, 128, 192)])
def test_tiles_change_nothing(name, options, shape):
    scheme = make(name, **options)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    whole = encode(scheme, values)
    for tile in (1, 2):
        parts = encode(scheme, values, tile=tile)
        for role in whole:
            np.testing.assert_array_equal(parts[role], whole[role])
    spec = spec_of(values)
    out = decode(scheme, whole, spec)
    for start, stop in ((0, 1), (5, 137), (spec.rows - 1, spec.rows)):
        np.testing.assert_array_equal(decode(scheme, whole, spec, start, stop), out[start:stop])
    found = np.linalg.norm((out - values.reshape(out.shape)).astype(np.float64))
    wanted = noise(values.reshape(out.shape).astype(np.float64), scheme)
    # Formats of 8 bits leave little to choose. Those of 4 may do better than the plain scale: by a search, by
    # block scales that are not powers of two, or by a code that the symmetric range has to spare.
    least = 0.97 if name in ("int8", "fp8", "mxfp8") else 0.7
    assert least * wanted < found < 1.03 * wanted


@pytest.mark.parametrize(("name", "options"), CASES)
def test_options_are_json_that_makes_the_scheme_again(name, options):
    scheme = make(name, **options)
    assert isinstance(scheme, Scheme)
    assert scheme.name == name
    config = json.loads(json.dumps(scheme.config()))
    assert make(name, **config) == scheme
    assert set(config) <= set(options)
    assert hash(scheme) == hash(make(name, **config))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_sources_are_not_written_to(name, options):
    scheme = make(name, **options)
    values = np.random.default_rng(0).standard_normal((128, 192))
    before = values.copy()
    encode(scheme, values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_describes_itself_and_prepares(name):
    line, options = describe(name)
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    assert make(name, **options) == make(name)
    make(name).prepare(DTYPES["BF16"])


def test_unknown_scheme():
    with pytest.raises(RecipeError, match="unknown scheme 'int9'; choose from int8, fp8, "):
        make("int9")


def test_scale_dtype_of_the_source():
    for source, kept in (("BF16", "BF16"), ("F32", "F32"), ("F16", "F32"), ("F64", "F32")):
        parts = make("int8").parts(Spec(DTYPES[source], (4, 8)))
        assert [(part.role, str(part.spec)) for part in parts] == [
            ("codes", "I8[4,8]"),
            ("scale", f"{kept}[4,1]"),
        ]
