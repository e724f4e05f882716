"""int8 equals a plain float32 model of its formula, over all BF16 values and at the edges."""

import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.errors import RecipeError
from transcode.numerics import NonFinite
from transcode.schemes import make

from .helpers import (
    SOURCES,
    as_float32,
    decode,
    encode,
    finite_bf16,
    peaks_and_values,
    rounded_up_where_saturated,
    small_in_f16,
    spec_of,
    stored,
)

F = np.float32


def model(values, scale):
    """Codes by the formula: true division, nearest even, clamp."""
    return np.clip(np.rint(values.astype(F) / scale), -127, 127).astype(np.int8)


def test_every_bf16_value_under_many_scales():
    every = finite_bf16()
    size = np.abs(every.astype(F))
    for peak in np.random.default_rng(1).permutation(every[size > 0])[:40]:
        row = every[size <= abs(F(peak))][None]
        parts = encode(make("int8", scale_dtype="F32"), row)
        scale = max(np.abs(row.astype(F)).max() / F(127), F(2.0**-149))
        assert parts["scale"][0, 0] == scale
        np.testing.assert_array_equal(parts["codes"], model(row, scale))


def test_every_bf16_value_as_the_largest_of_its_row():
    rows = peaks_and_values()
    parts = encode(make("int8", scale_dtype="F32"), rows)
    scale = np.maximum(np.abs(rows.astype(F)).max(1, keepdims=True) / F(127), F(2.0**-149))
    np.testing.assert_array_equal(parts["scale"], scale)
    np.testing.assert_array_equal(parts["codes"], model(rows, scale))


@pytest.mark.parametrize("kept", ["BF16", "F16"])
def test_codes_follow_the_scale_as_it_is_stored(kept):
    rows = peaks_and_values(seed=2)
    if kept == "F16":  # what it cannot hold is an error, not a clipped scale
        rows = rows[np.abs(rows.astype(F)).max(1) / F(127) < 65520]
    parts = encode(make("int8", scale_dtype=kept), rows)
    peak = np.abs(rows.astype(F)).max(1, keepdims=True)
    want = rounded_up_where_saturated(stored(peak / F(127), kept), peak, 127.5, kept)
    scale = as_float32(parts["scale"], kept)
    np.testing.assert_array_equal(scale, want)
    np.testing.assert_array_equal(parts["codes"], model(rows, scale))


@pytest.mark.parametrize("granularity", ["channel", "group", "tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_that_are_subnormal_in_f16_saturate_nothing(granularity, symmetric):
    # Rounded to nearest, a scale of 1.4 * 2**-24 would be 2**-24, and the largest values lose 29 %.
    if granularity == "tensor" and not symmetric:
        pytest.skip("not offered")
    scheme = make("int8", granularity=granularity, group_size=32, symmetric=symmetric, scale_dtype="F16")
    values = small_in_f16(64, seed=8)
    parts = encode(scheme, values)
    scale = as_float32(parts["scale"], "F16")
    assert granularity == "tensor" or (scale < 2.0**-14).sum() > 200
    gap = np.abs(decode(scheme, parts, spec_of(values)) - values)
    assert (gap <= np.repeat(scale, 32 if granularity == "group" else 1, -1) * 1.001).all()
    for row in (20, 60, 110):  # each as a tensor of its own
        alone = values[row : row + 1]
        parts = encode(scheme, alone)
        gap = np.abs(decode(scheme, parts, spec_of(alone)) - alone)
        assert gap.max() <= as_float32(parts["scale"], "F16").max() * 1.001


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("granularity", ["channel", "group", "tensor"])
def test_random_values_of_every_source(source, granularity):
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((70, 300)) * np.exp2(rng.integers(-20, 9, (70, 1)))).astype(SOURCES[source])
    scheme = make("int8", granularity=granularity, group_size=64, scale_dtype="F32")
    parts = encode(scheme, values)
    size = np.abs(values.astype(F))
    if granularity == "tensor":
        scale = np.array(size.max() / F(127))
    elif granularity == "channel":
        scale = size.max(1, keepdims=True) / F(127)
    else:  # the last of the five groups has 44 columns
        scale = np.stack([size[:, left : left + 64].max(1) / F(127) for left in range(0, 300, 64)], 1)
    np.testing.assert_array_equal(parts["scale"], scale)
    if granularity == "group":
        scale = np.repeat(scale, 64, 1)[:, :300]
    np.testing.assert_array_equal(parts["codes"], model(values, scale))
    np.testing.assert_array_equal(decode(scheme, parts, spec_of(values)), parts["codes"].astype(F) * scale)


def test_quotients_next_to_a_tie():
    # x = (k + 1/2) * scale for scales with long fractions: the quotient lies at a tie or just beside it.
    rng = np.random.default_rng(4)
    scale = rng.uniform(1, 2, (4000, 1)).astype(F)
    ties = (np.arange(-126, 126, dtype=F) + F(0.5)) * scale
    rows = np.concatenate(
        [scale * 127, np.nextafter(ties, F(-np.inf)), ties, np.nextafter(ties, F(np.inf))], 1
    )
    parts = encode(make("int8"), rows)
    assert rows.dtype == F
    scale = np.abs(rows).max(1, keepdims=True) / F(127)
    np.testing.assert_array_equal(parts["codes"], model(rows, scale))


def test_zero_point():
    rng = np.random.default_rng(5)
    values = (rng.standard_normal((64, 96)) + rng.uniform(-4, 4, (64, 1))).astype(F)
    values[0] = 0
    values[1] = 3.25
    values[2] = -3.25
    values[3, 0], values[3, 1] = 3e38, -3e38
    values[4] = 0
    values[4, 7] = 2.0**-149
    scheme = make("int8", symmetric=False)
    parts = encode(scheme, values)
    low, high = np.minimum(values.min(1, keepdims=True), 0), np.maximum(values.max(1, keepdims=True), 0)
    with np.errstate(over="ignore"):
        scale = (high - low) / F(255)
    scale[3] = high[3] / F(255) - low[3] / F(255)
    scale[0], scale[4] = 1, 2.0**-149
    zero = np.clip(np.rint(F(-128) - low / scale), -128, 127)
    zero[0] = 0
    np.testing.assert_array_equal(parts["scale"], scale)
    np.testing.assert_array_equal(parts["zero_point"], zero)
    np.testing.assert_array_equal(parts["codes"], np.clip(np.rint(values / scale) + zero, -128, 127))
    out = decode(scheme, parts, spec_of(values))
    np.testing.assert_array_equal(out, (parts["codes"].astype(F) - zero.astype(F)) * scale)
    assert np.all(np.abs(out - values) <= scale)
    np.testing.assert_array_equal(out[0], 0)


def test_zero_rows_and_tiny_rows_are_finite():
    values = np.zeros((5, 8), F)
    values[1, 3] = 2.0**-149
    values[2] = np.linspace(-1, 1, 8) * 2.0**-126
    values[3, 0] = np.finfo(F).max
    for symmetric in (True, False):
        parts = encode(make("int8", symmetric=symmetric), values)
        assert np.all(np.isfinite(parts["scale"]))
        assert np.all(parts["scale"] > 0)
        assert parts["scale"][0] == parts["scale"][4] == 1
        assert not parts["codes"][0].any()
    assert encode(make("int8"), values)["codes"][1, 3] == 1


def test_stacks_are_quantized_matrix_by_matrix():
    values = np.random.default_rng(6).standard_normal((3, 5, 7)).astype(F)
    whole = encode(make("int8"), values)
    assert whole["scale"].shape == (3, 5, 1)
    for expert in range(3):
        alone = encode(make("int8"), values[expert].copy())
        np.testing.assert_array_equal(whole["codes"][expert], alone["codes"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_non_finite_values_are_named(bad, source, symmetric):
    values = np.ones((9, 40), SOURCES[source])
    values[4, 33] = bad
    values[5, 0] = np.nan
    rows = values.view(DTYPES[source].carrier)
    with pytest.raises(NonFinite) as caught:
        encode(make("int8", symmetric=symmetric), values)
    assert (caught.value.row, caught.value.column) == (4, 33)
    np.testing.assert_array_equal(caught.value.value, bad)
    with pytest.raises(NonFinite, match="row 4, column 33"):
        make("int8").observe(rows, DTYPES[source])


def test_float64_beyond_float32_is_named_with_its_value():
    values = np.ones((2, 4))
    values[1, 2] = -1e300
    with pytest.raises(NonFinite, match=r"row 1, column 2: -1e\+300"):
        encode(make("int8"), values)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kept", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("width", [192, 80])
def test_mse_is_the_best_of_sixteen_scales(width, kept, weighted):
    """All of them tried in float64; the last group of a row is smaller."""
    grouped = {"granularity": "group", "group_size": width} if width < 192 else {}
    rng = np.random.default_rng(6)
    values = (rng.standard_t(4, (24, 192)) * np.exp2(rng.integers(-3, 4, (24, 1)))).astype(F)
    values[3] = 0
    values[4, 7] = 30 * np.abs(values[4]).max()
    weights = np.exp(2 * rng.standard_normal(192)).astype(F) if weighted else np.ones(192, F)
    if weighted:
        weights[7] = 0
    parts = encode(
        make("int8", optimize="mse", scale_dtype=kept, **grouped),
        values,
        weights=weights if weighted else None,
    )
    starts = np.arange(0, 192, width)
    counts = np.diff(np.append(starts, 192))
    peak = np.maximum.reduceat(np.abs(values), starts, axis=1)

    def codes(scale):
        return np.clip(np.rint(values / scale.repeat(counts, 1)), -127, 127)

    def error(scale):
        gaps = codes(scale) * scale.repeat(counts, 1).astype(np.float64) - values
        return np.add.reduceat(gaps**2 * weights.astype(np.float64), starts, axis=1)

    shares = [*(1 - k / 320 for k in range(10)), 0.96, 0.94, 0.92, 0.9, 0.85, 0.8]
    tried = [stored(peak / F(127) * F(share), kept) for share in shares]
    tried = np.stack([np.where(peak > 0, scale, F(1)) for scale in tried])
    scale = as_float32(parts["scale"], kept).reshape(peak.shape)
    least = np.min([error(one) for one in tried], 0)
    assert (error(scale) <= least * (1 + 1e-4)).all()
    assert (tried == scale).any(0).all()
    assert len(set((tried == scale).argmax(0).flat)) > 2
    if weighted:  # a largest value that does not weigh is cut off
        assert scale[4, 0] < 0.97 * peak[4, 0] / 127
    np.testing.assert_array_equal(parts["codes"], codes(scale))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "row"}, "granularity cannot be 'row'; choose from channel, tensor, group"),
        ({"group_size": 0}, "group_size cannot be 0"),
        ({"group_size": True}, "group_size cannot be True"),
        ({"symmetric": 1}, "symmetric cannot be 1; choose from true, false"),
        ({"scale_dtype": "F64"}, "choose from source, F32, BF16, F16"),
        ({"symmetric": False, "granularity": "tensor"}, "use granularity channel or group"),
        ({"optimize": "mse", "symmetric": False}, "optimize cannot be 'mse' of codes with a zero point"),
        ({"optimize": "mse", "granularity": "tensor"}, "optimize cannot be 'mse' of one scale for the whole"),
        ({"optimize": "mse", "rotate": 16}, "optimize cannot be 'mse' of rotated columns"),
        (
            {"bits": 4},
            "int8 has no option 'bits'; choose from granularity, group_size, symmetric, scale_dtype",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        make("int8", **options)


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        ("I8", (4, 4), "I8 is not one of"),
        ("F8_E4M3", (4, 4), "F8_E4M3 is not one of"),
        ("F32", (4,), "1-D"),
        ("F32", (2, 2, 2, 2), "4-D"),
        ("F32", (), "0-D"),
        ("F32", (4, 0), "empty"),
    ],
)
@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_tensors_that_are_not_matrices_are_refused(name, dtype, shape, message):
    assert message in make(name).refuses(Spec(DTYPES[dtype], shape))
