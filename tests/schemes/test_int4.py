"""int4 equals a plain float32 model of its formula."""

import numpy as np
import pytest
import torch

from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.errors import RecipeError
from transcode.numerics import NonFinite
from transcode.numerics.packing import unpack4
from transcode.schemes import make

from .helpers import (
    SOURCES,
    as_float32,
    decode,
    encode,
    peaks_and_values,
    rounded_up_where_saturated,
    small_in_f16,
    spec_of,
    stored,
)

F = np.float32


def signed(codes):
    """Nibbles as -8 to 7."""
    return (unpack4(codes).astype(np.int8) ^ 8) - 8


def grouped(values, size):
    return values.astype(F).reshape(*values.shape[:-1], -1, size)


PLAIN = (7, 8, 8.75)
BEST = (*np.arange(7, 10, 1 / 8), *np.arange(10, 14.1, 1 / 2))


def quantized(groups, scale, low=-8):
    """Codes under scales, and the squared errors of the groups in units of their peaks, in float64."""
    codes = np.clip(np.rint(groups / scale[..., None]), low, 7)
    peak = np.abs(groups).max(-1).astype(np.float64)
    unit = np.where(peak > 0, peak, 1)[..., None]
    gap = (codes * scale.astype(np.float64)[..., None] - groups) / unit
    return codes, (gap**2).sum(-1)


def check(groups, parts, kept, divisors):
    """That each group has one of the scales of the formula, the one that loses least, and its codes."""
    peak = np.abs(groups).max(-1)
    candidates = np.stack([stored(peak / F(divisor), kept) for divisor in divisors])
    candidates[0] = rounded_up_where_saturated(candidates[0], peak, 7.5, kept)
    least = np.min([quantized(groups, scale)[1] for scale in candidates], 0)
    scale = as_float32(parts["scale"], kept)
    assert np.where(peak > 0, (candidates == scale).any(0), scale == 1).all()
    codes, error = quantized(groups, scale)
    np.testing.assert_array_equal(grouped(signed(parts["codes"]), groups.shape[-1]), codes)
    assert (error <= least * (1 + 1e-5) + 1e-12).all()
    # Codes of -7 to 7 under amax / 7 were never better.
    seven = np.where(peak > 0, candidates[0], 1)
    assert (error <= quantized(groups, seven, -7)[1] * (1 + 1e-5) + 1e-12).all()


@pytest.mark.parametrize("optimize", ["none", "mse"])
def test_every_bf16_value_as_the_largest_of_its_group(optimize):
    rows = peaks_and_values(32, seed=1)
    parts = encode(make("int4", group_size=32, scale_dtype="F32", optimize=optimize), rows)
    groups = grouped(rows, 32)
    tiny = (np.abs(groups).max(-1) < 2.0**-56)[:, 0]
    assert 0 < tiny.sum() < len(tiny)
    for which, divisors in ((tiny, (7,)), (~tiny, PLAIN if optimize == "none" else BEST)):
        check(groups[which], {role: part[which] for role, part in parts.items()}, "F32", divisors)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kept", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("optimize", ["none", "mse"])
def test_symmetric_groups(size, source, kept, optimize):
    values = (np.random.default_rng(2).standard_normal((3, 5, 384)) * 0.1).astype(SOURCES[source])
    values[1, 2, :128] = 0
    scheme = make("int4", group_size=size, scale_dtype=kept, optimize=optimize)
    parts = encode(scheme, values)
    groups = grouped(values, size)
    check(groups, parts, kept, PLAIN if optimize == "none" else BEST)
    codes = grouped(signed(parts["codes"]), size)
    assert set(np.unique(codes)) == set(range(-8, 8))
    out = decode(scheme, parts, spec_of(values)).reshape(groups.shape)
    np.testing.assert_array_equal(out, codes.astype(F) * as_float32(parts["scale"], kept)[..., None])


def test_single_values_that_are_far_out_are_kept_exactly():
    # Under any other scale than amax / 7 the one positive value would saturate.
    values = np.zeros((4, 128), F)
    values[0, 5], values[1, 70], values[2, 127], values[3, :] = 7, -7, -8, np.resize([-8, 7, 3, 0], 128)
    scheme = make("int4", group_size=128)
    np.testing.assert_array_equal(decode(scheme, encode(scheme, values), spec_of(values)), values)


@pytest.mark.parametrize("optimize", ["none", "mse"])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_what_was_decoded_is_encoded_to_the_same_values(size, optimize):
    values = np.random.default_rng(5).standard_normal((60, 384)).astype(F)
    scheme = make("int4", group_size=size)
    out = decode(scheme, encode(scheme, values), spec_of(values))
    again = decode(scheme, encode(scheme, out), spec_of(out))
    np.testing.assert_allclose(again, out, rtol=1e-6)


def test_compressed_tensors_reads_all_sixteen_codes():
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    values = np.random.default_rng(6).standard_normal((16, 256)).astype(F)
    parts = encode(make("int4", group_size=128), values)
    codes = signed(parts["codes"])
    assert codes.min() == -8
    words = (codes.astype(np.int64) + 8).reshape(16, -1, 8) << (4 * np.arange(8))
    packed = torch.from_numpy(words.sum(-1).astype(np.uint32).view(np.int32))
    theirs = helpers.unpack_from_int32(packed, 4, torch.Size((16, 256)))
    np.testing.assert_array_equal(theirs.numpy(), codes)


@pytest.mark.parametrize("source", ["F32", "BF16"])
def test_scales_that_are_subnormal_in_f16_saturate_nothing(source):
    values = small_in_f16(64, seed=7).astype(SOURCES[source])
    groups = grouped(values, 64)
    for optimize, divisors in (("none", PLAIN), ("mse", BEST)):
        parts = encode(make("int4", scale_dtype="F16", optimize=optimize), values)
        check(groups, parts, "F16", divisors)
    scheme = make("int4", scale_dtype="F16", symmetric=False)
    parts = encode(scheme, values)
    gap = np.abs(decode(scheme, parts, spec_of(values)) - values.astype(F))
    assert (gap <= as_float32(parts["scale"], "F16") * 1.001).all()


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
    parts = encode(make("int4", optimize="mse"), values)
    check(groups, parts, "F32", BEST)
    error = quantized(groups, parts["scale"])[1]
    plain = quantized(groups, encode(make("int4"), values)["scale"])[1]
    assert (error <= plain * (1 + 1e-6)).all()
    assert error.sum() < 0.98 * plain.sum()


@pytest.mark.parametrize("kept", ["F32", "BF16", "F16"])
def test_each_search_loses_less_than_what_it_searches_further_than(kept):
    values = np.random.default_rng(8).standard_normal((40, 256)).astype(F)
    noise = {}
    for options in ({}, {"optimize": "mse"}, {"optimize": "signed"}, {"symmetric": False},
                    {"symmetric": False, "optimize": "mse"}):  # fmt: skip
        scheme = make("int4", scale_dtype=kept, **options)
        parts = encode(scheme, values)
        out = decode(scheme, parts, spec_of(values))
        noise[tuple(options.values())] = ((out.astype(np.float64) - values) ** 2).reshape(-1, 64).sum(1)
        scale = as_float32(parts["scale"], kept)
        assert (scale < 0).any() == (options == {"optimize": "signed"})
    assert (noise[("mse",)] <= noise[()] * (1 + 1e-5)).all()
    assert noise[("signed",)].sum() < 0.93 * noise[("mse",)].sum()
    assert (noise[(False, "mse")] <= noise[(False,)] * (1 + 1e-5)).all()
    assert noise[(False, "mse")].sum() < 0.95 * noise[(False,)].sum()


def test_weights_of_columns_count_in_each_search():
    values = np.random.default_rng(9).standard_normal((40, 256)).astype(F)
    weights = np.where(np.arange(256) % 4, F(0.01), F(1))
    for options in ({"optimize": "signed"}, {"symmetric": False, "optimize": "mse"}):
        scheme = make("int4", **options)
        spec = spec_of(values)
        heavy = []
        for given in (None, weights):
            pieces = scheme.encode(values, spec, 0, None, Scratch(), given)
            out = decode(scheme, {piece.role: piece.data.copy() for piece in pieces}, spec)
            heavy.append((weights * (out - values) ** 2).sum())
        assert heavy[1] < 0.8 * heavy[0]


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
    with pytest.raises(RecipeError, match="optimize cannot be 'signed' of codes with a zero point"):
        make("int4", symmetric=False, optimize="signed")
