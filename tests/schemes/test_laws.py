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
    noise = out - values.reshape(out.shape)
    assert np.linalg.norm(noise) < 0.15 * np.linalg.norm(values)


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
