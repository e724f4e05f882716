"""The MX formats equal a plain model of OCP Microscaling with the casts of ml_dtypes, and two libraries."""

import ml_dtypes
import numpy as np
import pytest
import torch

from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.errors import RecipeError
from transcode.numerics import NonFinite
from transcode.numerics.packing import unpack4, unpack6
from transcode.numerics.swizzle import unswizzle
from transcode.schemes import make

from .helpers import SOURCES, decode, encode, finite_bf16, peaks_and_values, spec_of

F = np.float32
# numpy dtype, largest value, exponent of the largest power of two, mantissa bits, bits
KINDS = {
    ("mxfp4", None): (ml_dtypes.float4_e2m1fn, 6.0, 2, 1, 4),
    ("mxfp6", "e3m2"): (ml_dtypes.float6_e3m2fn, 28.0, 4, 2, 6),
    ("mxfp6", "e2m3"): (ml_dtypes.float6_e2m3fn, 7.5, 2, 3, 6),
    ("mxfp8", "e4m3fn"): (ml_dtypes.float8_e4m3fn, 448.0, 8, 3, 8),
    ("mxfp8", "e5m2"): (ml_dtypes.float8_e5m2, 57344.0, 15, 2, 8),
}
MODES = ("rceil", "floor", "even", "ceil")


def scheme_of(kind, **options):
    name, form = kind
    return make(name, **({} if form is None else {"format": form}), **options)


def codes_of(parts, kind):
    bits = KINDS[kind][4]
    stored = parts["codes"]
    return {4: unpack4, 6: unpack6, 8: np.asarray}[bits](stored)


def exponent(size):
    """``floor(log2(size))`` and whether that is exact, of positive float64."""
    fraction, power = np.frexp(size)
    return power - 1, fraction == 0.5


def scale_model(peak, kind, mode):
    """Scale bytes for the peaks of blocks, by exact arithmetic on exponents."""
    _, top, power, mantissa, _ = KINDS[kind]
    peak = peak.astype(np.float64)
    size = np.where(peak > 0, peak, 1)
    if mode == "rceil":
        wanted = (size.astype(F) / F(top)).astype(np.float64)
        low, exact = exponent(wanted)
        result = np.where(wanted > 0, low + ~exact, -127)
    elif mode == "ceil":
        low, exact = exponent(size)
        result = low + ~exact - power
    elif mode == "floor":
        result = exponent(size)[0] - power
    else:
        low, _ = exponent(size)
        up = size >= np.ldexp(2 - 2.0 ** -(mantissa + 1), low)
        result = low + up - power
    highest = 127 - power  # beyond it the largest code would be infinite in float32
    return np.where(peak > 0, np.clip(result, -127, highest) + 127, 0).astype(np.uint8)


def code_model(values, scales, kind):
    """Codes: division by the power of two, clamp, the cast of ml_dtypes (one code to a byte)."""
    small, top = KINDS[kind][:2]
    wide = np.repeat(scales.astype(np.int64), 32, -1) - 127
    quotient = np.ldexp(values.astype(np.float64), -wide)
    return np.clip(quotient, -top, top).astype(F).astype(small).view(np.uint8)


def check(values, kind, mode="rceil"):
    parts = encode(scheme_of(kind, scale_mode=mode), values)
    blocks = np.abs(values.astype(F)).reshape(*values.shape[:-1], -1, 32)
    scales = scale_model(blocks.max(-1), kind, mode)
    np.testing.assert_array_equal(parts["scale"], scales)
    np.testing.assert_array_equal(codes_of(parts, kind), code_model(values, scales, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_bf16_value_under_many_scales(kind):
    every = finite_bf16()
    size = np.abs(every.astype(F))
    for peak in np.random.default_rng(1).permutation(every[size > 0])[:12]:
        below = every[size <= abs(F(peak))]
        rows = np.full((-(-len(below) // 31), 32), peak)
        rows[:, 1:].flat[: len(below)] = below
        check(rows, kind)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_bf16_value_as_the_largest_of_its_block(kind, mode):
    check(peaks_and_values(32, seed=3), kind, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_peaks_next_to_every_power_and_limit(kind, mode):
    _, top, _, mantissa, _ = KINDS[kind]
    marks = np.concatenate([[top, 1, 1.5, 2 - 2.0 ** -(mantissa + 1)], np.linspace(1, 2, 9)]).astype(F)
    marks = np.concatenate([marks, np.nextafter(marks, F(0)), np.nextafter(marks, F(9e9))])
    with np.errstate(over="ignore", under="ignore"):
        peaks = np.ldexp(marks[:, None], np.arange(-149, 128)).astype(F).reshape(-1, 1)
    peaks = peaks[np.isfinite(peaks[:, 0])]
    shares = np.random.default_rng(4).uniform(-1, 1, (len(peaks), 32)).astype(F)
    shares[:, 5] = 1
    check(peaks * shares, kind, mode)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", KINDS)
def test_sources_stacks_and_chunks(kind, source):
    values = (np.random.default_rng(5).standard_normal((3, 7, 2112)) * 0.02).astype(SOURCES[source])
    check(values.astype(F).astype(SOURCES[source]), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_exact_and_encodes_to_the_same_codes(kind):
    values = np.random.default_rng(6).standard_normal((40, 96)).astype(F)
    scheme = scheme_of(kind)
    parts = encode(scheme, values)
    out = decode(scheme, parts, spec_of(values))
    wide = np.repeat(parts["scale"].astype(int), 32, -1) - 127
    np.testing.assert_array_equal(out, np.ldexp(codes_of(parts, kind).view(KINDS[kind][0]).astype(F), wide))
    again = encode(scheme, out)
    np.testing.assert_array_equal(decode(scheme, again, spec_of(out)), out)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_zeros(kind):
    values = np.zeros((2, 64), F)
    values[0, 40] = 1
    values[1, 3] = -0.0
    parts = encode(scheme_of(kind), values)
    codes = codes_of(parts, kind)
    assert parts["scale"][0, 0] == parts["scale"][1, 0] == parts["scale"][1, 1] == 0
    assert not codes[0, :32].any()
    assert codes[1, 3] == 1 << (KINDS[kind][4] - 1)
    assert not decode(scheme_of(kind), parts, spec_of(values))[1].any()


@pytest.mark.parametrize("optimize", ["none", "mse"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_below_the_smallest_scale_keep_what_the_format_can_hold(kind, optimize):
    # Scales end at 2**-127: there the nearest codes under it lose least, whatever the mode asks for.
    sizes = np.exp2(np.linspace(-149, -105, 200))[:, None]
    values = (np.random.default_rng(13).uniform(-1, 1, (200, 32)) * sizes).astype(F)
    values[:, 0] = sizes[:, 0]
    parts = encode(scheme_of(kind, optimize=optimize), values)
    lowest = parts["scale"][:, 0] == 0
    assert 20 < lowest.sum() < 200
    out = decode(scheme_of(kind), parts, spec_of(values)).astype(np.float64)
    exact = values.astype(np.float64)
    lost = (np.ldexp(out - exact, 127) ** 2).sum(1)
    nothing = (np.ldexp(exact, 127) ** 2).sum(1)
    assert (lost <= nothing).all()
    for byte in (0, 1) if optimize == "mse" else ():
        codes = code_model(values, np.full((200, 1), byte), kind).view(KINDS[kind][0]).astype(np.float64)
        other = ((codes * 2.0**byte - np.ldexp(exact, 127)) ** 2).sum(1)
        assert (lost[lowest] <= other[lowest] * (1 + 1e-6)).all()


def test_worked_exponents_of_the_modes():
    # From a table that was run with torchao, for e2m1.
    table = {3.9: (-1, 0, 0), 5.9: (0, 0, 0), 6.0: (0, 0, 0), 6.1: (0, 1, 0), 6.9: (0, 1, 0)}
    table |= {7.0: (0, 1, 1), 7.5: (0, 1, 1), 8.0: (1, 1, 1)}
    for peak, exponents in table.items():
        values = np.full((1, 32), peak, F)
        for mode, want in zip(("floor", "rceil", "even"), exponents, strict=True):
            assert encode(make("mxfp4", scale_mode=mode), values)["scale"][0, 0] == 127 + want


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torchao(kind, mode):
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    kinds = {
        ("mxfp4", None): torch.float4_e2m1fn_x2,
        ("mxfp8", "e4m3fn"): torch.float8_e4m3fn,
        ("mxfp8", "e5m2"): torch.float8_e5m2,
    }
    if kind not in kinds:
        pytest.skip("not in torchao")
    values = (
        np.random.default_rng(7).standard_normal((64, 256)) * np.exp2(np.arange(64) - 32)[:, None]
    ).astype(F)
    values[3, :64] = 0
    modes = mx.ScaleCalculationMode
    scale, data = mx.to_mx(torch.from_numpy(values), kinds[kind], 32, modes[mode.upper()])
    parts = encode(scheme_of(kind, scale_mode=mode), values)
    np.testing.assert_array_equal(parts["scale"], scale.view(torch.uint8).numpy().reshape(64, 8))
    np.testing.assert_array_equal(parts["codes"], data.view(torch.uint8).numpy())


def test_mxfp8_equals_comfy_kitchen():
    eager = pytest.importorskip("comfy_kitchen.backends.eager.quantization")
    values = (
        np.random.default_rng(8).standard_normal((160, 320)) * np.exp2(np.arange(160) - 80)[:, None]
    ).astype(F)
    values[3, :64] = 0
    codes, scales = eager.quantize_mxfp8(torch.from_numpy(values))
    parts = encode(make("mxfp8"), values)
    np.testing.assert_array_equal(parts["codes"], codes.view(torch.uint8).numpy())
    np.testing.assert_array_equal(parts["scale"], unswizzle(scales.view(torch.uint8).numpy(), 160, 10))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_mse_is_the_best_of_three_scales(kind, mode):
    values = np.random.default_rng(9).standard_t(4, (50, 128)).astype(F)
    values[0, :32] = 0
    values[1, :32] *= F(2.0**100)
    values[2, :32] *= F(2.0**-100)
    blocks = values.reshape(-1, 32)
    middle = scale_model(np.abs(blocks).max(1), kind, mode).astype(int)
    errors = []
    for step in (0, -1, 1):
        scale = np.clip(middle + step, 0, 254)[:, None]
        codes = code_model(blocks, scale, kind).view(KINDS[kind][0]).astype(np.float64)
        errors.append(((np.ldexp(codes, scale - 127) - blocks.astype(np.float64)) ** 2).sum(1))
    parts = encode(scheme_of(kind, scale_mode=mode, optimize="mse"), values)
    got = decode(scheme_of(kind), parts, spec_of(values)).reshape(-1, 32).astype(np.float64)
    found = ((got - blocks) ** 2).sum(1)
    np.testing.assert_allclose(found, np.min(errors, 0), rtol=1e-5)
    assert (found < errors[0] * (1 - 1e-4)).any() or kind[0] != "mxfp4"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_named(bad):
    values = np.ones((100, 96), F)
    values[71, 33] = bad
    with pytest.raises(NonFinite, match="row 71, column 33"):
        encode(make("mxfp4"), values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_mode_is_the_one_that_loses_least(kind):
    values = np.random.default_rng(10).standard_normal((400, 320)).astype(F)
    lost = {}
    for mode in MODES:
        out = decode(scheme_of(kind), encode(scheme_of(kind, scale_mode=mode), values), spec_of(values))
        lost[mode] = float(np.square(out.astype(np.float64) - values).sum())
    default = scheme_of(kind).scale_mode
    assert lost[default] <= min(lost.values()) * (1 + 2e-4)
    if kind[0] == "mxfp4":
        assert lost[default] < 0.95 * lost["rceil"]


def test_the_default_format_of_mxfp6_is_the_one_that_loses_least():
    values = np.random.default_rng(11).standard_normal((100, 320)).astype(F)
    lost = {}
    for form in ("e2m3", "e3m2"):
        scheme = make("mxfp6", format=form)
        out = decode(scheme, encode(scheme, values), spec_of(values))
        lost[form] = float(np.square(out.astype(np.float64) - values).sum())
    assert make("mxfp6").format == "e2m3"
    assert lost["e2m3"] < 0.4 * lost["e3m2"]


def test_mxfp4_has_the_scales_of_compressed_tensors():
    module = pytest.importorskip("compressed_tensors.quantization.utils.mxfp_utils")
    values = (
        np.random.default_rng(12).standard_normal((64, 256)) * np.exp2(np.arange(64) - 32)[:, None]
    ).astype(F)
    peaks = torch.from_numpy(np.abs(values).reshape(64, 8, 32).max(-1))
    theirs = module.generate_mx_scales(peaks, 4)
    np.testing.assert_array_equal(encode(make("mxfp4"), values)["scale"], theirs.to(torch.uint8).numpy())


def test_what_is_refused_and_stored():
    spec = Spec(DTYPES["BF16"], (4, 48))
    assert make("mxfp4").refuses(spec) == "48 columns are not a multiple of 32"
    parts = make("mxfp6").parts(Spec(DTYPES["BF16"], (2, 4, 64)))
    assert [(part.role, str(part.spec)) for part in parts] == [
        ("codes", "F6_E2M3[2,4,64]"),
        ("scale", "F8_E8M0[2,4,2]"),
    ]
    with pytest.raises(
        RecipeError, match="scale_mode cannot be 'round'; choose from rceil, floor, even, ceil"
    ):
        make("mxfp8", scale_mode="round")
    with pytest.raises(RecipeError, match="format cannot be 'e2m1'; choose from e2m3, e3m2"):
        make("mxfp6", format="e2m1")
