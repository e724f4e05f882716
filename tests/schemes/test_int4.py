"""int4 equals a plain float32 model of its formula."""

import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.errors import RecipeError
from transcode.numerics import NonFinite
from transcode.numerics.packing import unpack4
from transcode.schemes import make

from .helpers import SOURCES, as_float32, decode, encode, peaks_and_values, spec_of

F = np.float32


def signed(codes):
    """Nibbles as -8 to 7."""
    return (unpack4(codes).astype(np.int8) ^ 8) - 8


def grouped(values, size):
    return values.astype(F).reshape(*values.shape[:-1], -1, size)


def test_every_bf16_value_as_the_largest_of_its_group():
    rows = peaks_and_values(32, seed=1)
    parts = encode(make("int4", group_size=32, scale_dtype="F32"), rows)
    scale = np.maximum(np.abs(rows.astype(F)).max(1, keepdims=True) / F(7), F(2.0**-149))
    np.testing.assert_array_equal(parts["scale"], scale)
    np.testing.assert_array_equal(signed(parts["codes"]), np.clip(np.rint(rows.astype(F) / scale), -7, 7))


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kept", ["F32", "BF16"])
def test_symmetric_groups(size, source, kept):
    values = (np.random.default_rng(2).standard_normal((3, 5, 384)) * 0.1).astype(SOURCES[source])
    scheme = make("int4", group_size=size, scale_dtype=kept)
    parts = encode(scheme, values)
    groups = grouped(values, size)
    scale = (np.abs(groups).max(-1) / F(7)).astype(DTYPES[kept].numpy()).astype(F)
    np.testing.assert_array_equal(as_float32(parts["scale"], kept), scale)
    codes = np.clip(np.rint(groups / scale[..., None]), -7, 7)
    np.testing.assert_array_equal(grouped(signed(parts["codes"]), size), codes)
    out = decode(scheme, parts, spec_of(values)).reshape(groups.shape)
    np.testing.assert_array_equal(out, codes.astype(F) * scale[..., None])


@pytest.mark.parametrize("size", [32, 64, 128])
def test_zero_points(size):
    values = np.random.default_rng(3).standard_normal((20, 256)).astype(F) + F(0.5)
    values[3] = 0
    values[4] = 2
    scheme = make("int4", group_size=size, symmetric=False)
    parts = encode(scheme, values)
    groups = grouped(values, size)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scale = (high - low) / F(15)
    scale[3] = 1
    zero = np.clip(np.rint(F(-8) - low / scale), -8, 7)
    zero[3] = 0
    np.testing.assert_array_equal(parts["scale"], scale)
    np.testing.assert_array_equal(parts["zero_point"], zero)
    codes = np.clip(np.rint(groups / scale[..., None]) + zero[..., None], -8, 7)
    np.testing.assert_array_equal(grouped(signed(parts["codes"]), size), codes)
    out = decode(scheme, parts, spec_of(values)).reshape(groups.shape)
    np.testing.assert_array_equal(out, (codes - zero[..., None]).astype(F) * scale[..., None])


def test_mse_is_the_best_of_the_scales_down_to_a_half():
    values = np.random.default_rng(4).standard_t(4, (40, 256)).astype(F)
    values[0, :64] = 0
    groups = grouped(values, 64)
    plain = np.abs(groups).max(-1) / F(7)
    plain[0, 0] = 1
    errors = []
    for step in range(25):
        scale = (plain * F(1 - step / 48))[..., None]
        codes = np.clip(np.rint(groups / scale), -7, 7)
        errors.append(((codes * scale.astype(np.float64) - groups) ** 2).sum(-1))
    scheme = make("int4", optimize="mse")
    out = decode(scheme, encode(scheme, values), spec_of(values)).astype(np.float64).reshape(groups.shape)
    found = ((out - groups) ** 2).sum(-1)
    np.testing.assert_allclose(found, np.min(errors, 0), rtol=1e-5)
    assert found.sum() < 0.95 * errors[0].sum()


def test_non_finite_values_are_named():
    values = np.ones((10, 128), F)
    values[6, 99] = np.inf
    for symmetric in (True, False):
        with pytest.raises(NonFinite, match="row 6, column 99"):
            encode(make("int4", symmetric=symmetric), values)


def test_what_is_refused_and_stored():
    assert make("int4").refuses(Spec(DTYPES["F32"], (4, 96))) == "96 columns are not a multiple of 64"
    parts = make("int4", symmetric=False).parts(Spec(DTYPES["BF16"], (2, 4, 128)))
    assert [(part.role, str(part.spec)) for part in parts] == [
        ("codes", "U8[2,4,64]"),
        ("scale", "BF16[2,4,2]"),
        ("zero_point", "I8[2,4,2]"),
    ]
    with pytest.raises(RecipeError, match="group_size cannot be 16; choose from 32, 64, 128"):
        make("int4", group_size=16)
    with pytest.raises(RecipeError, match="optimize cannot be 'mse'"):
        make("int4", symmetric=False, optimize="mse")
