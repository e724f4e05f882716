"""The lanes of block formats over all their inputs, and their kernels with scales that are given."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.scratch import Scratch
from transcode.numerics import encode, micro
from transcode.numerics.jit import kernel
from transcode.numerics.minifloat import FORMATS

F, U = np.float32, np.uint32
KINDS = {
    "e2m1": ml_dtypes.float4_e2m1fn, "e3m2": ml_dtypes.float6_e3m2fn, "e2m3": ml_dtypes.float6_e2m3fn,
    "e4m3fn": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip


@kernel
def scale_bytes(peaks, mode, top, power, drop, out):
    for i in range(peaks.shape[0]):
        out[i] = micro.scale_byte(peaks[i], mode, top, power, drop)


@kernel
def reciprocals(codes, out):
    for i in range(codes.shape[0]):
        out[i] = micro.reciprocal(codes[i])


@kernel
def nv_scales(wanted, out):
    for i in range(wanted.shape[0]):
        out[i] = micro.nv_scale(wanted[i])


@kernel
def nv_values(codes, out):
    for i in range(codes.shape[0]):
        out[i] = micro.nv_value(codes[i])


def every_peak() -> np.ndarray:
    """All positive BF16 values, and around each power of two the next 40 float32 values on either side."""
    wide = (np.arange(1, 0x7F80, dtype=U) << U(16)).view(F)
    powers = np.concatenate([np.arange(1, 255, dtype=U) << U(23), [U(1), U(1 << 22), U(3 << 21)]])
    near = (powers[:, None] + np.arange(-40, 41)).astype(np.int64)
    near = near[(near > 0) & (near < 0x7F800000)].astype(U).view(F)
    return np.concatenate([wide, near])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["rceil", "floor", "even", "ceil"])
def test_scale_bytes_of_every_peak(kind, mode):
    """OCP Microscaling Formats 1.0, section 6.3, and its variants, in exact arithmetic on exponents."""
    form = FORMATS[kind]
    peaks = every_peak()
    for limit in (form.max, form.max * 2.0**-3):
        near = np.array([limit], F).view(U)[0] + np.arange(-50, 50)
        peaks = np.concatenate([peaks, near.astype(U).view(F)])
    out = np.empty(peaks.size, U)
    scale_bytes(peaks, micro.MODES[mode], F(form.max), U(form.emax), form.mantissa_shift, out)
    size = peaks.astype(np.float64)
    fraction, power = np.frexp(size)
    low, exact = power - 1, fraction == 0.5
    if mode == "rceil":
        wanted = (peaks / F(form.max)).astype(np.float64)
        fraction, power = np.frexp(wanted)
        result = np.where(wanted > 0, np.where(fraction == 0.5, power - 1, power), -127)
    elif mode == "floor":
        result = low - form.emax
    elif mode == "ceil":
        result = low + ~exact - form.emax
    else:  # rounded half up to the mantissa of the elements: what carries goes to the next power
        result = low + (size >= np.ldexp(2 - 2.0 ** -(form.nmant + 1), low)) - form.emax
    highest = 127 - form.emax  # under twice that, half of the codes are infinite in float32
    np.testing.assert_array_equal(out, np.clip(result, -127, highest) + 127)
    assert len(np.unique(out)) > 230


@pytest.mark.parametrize("search", ["none", "plain", "weighted"])
@pytest.mark.parametrize("mode", ["rceil", "floor", "even", "ceil"])
@pytest.mark.parametrize("name", ["e2m1", "e2m3", "e3m2", "e4m3fn", "e5m2"])
def test_no_finite_value_becomes_infinite(name, mode, search):
    """Of float32's largest, the plain scale was rounded up to one under which its code is infinite."""
    form = FORMATS[name]
    values = np.full((8, 32), np.finfo(F).max, F) * np.linspace(0.8, 1, 8, dtype=F)[:, None]
    values[:, 1:] *= 0.3
    codes, scales = np.empty(256 * form.bits // 8, np.uint8), np.empty(8, np.uint8)
    given = (values.view(U).reshape(-1), form, mode)
    if search == "weighted":
        assert encode.mx_weighted(*given, np.linspace(1, 9, 32, dtype=F), codes, scales, Scratch())
    else:
        assert encode.mx(*given, search == "plain", codes, scales, Scratch())
    share = np.minimum(values.astype(np.float64) * 2.0 ** (127.0 - scales[:, None]), form.max)
    grid = np.unique(np.abs(form.values()[np.isfinite(form.values())].astype(np.float64)))
    nearest = grid[np.abs(share[..., None] - grid).argmin(-1)]
    assert (nearest * 2.0 ** (scales[:, None] - 127.0) <= np.finfo(F).max).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_modes_keep_their_promises(kind):
    """rceil never saturates, and half of its scale would; floor's scale is never above rceil's."""
    form = FORMATS[kind]
    peaks = every_peak()
    peaks = peaks[(peaks > 2.0**-100) & (peaks < 2.0**120)]
    found = {}
    for mode in micro.MODES:
        out = np.empty(peaks.size, U)
        scale_bytes(peaks, micro.MODES[mode], F(form.max), U(form.emax), form.mantissa_shift, out)
        found[mode] = np.exp2(out.astype(np.float64) - 127)
    assert (peaks / found["rceil"] <= form.max).all()
    assert (peaks / found["rceil"] * 2 > form.max * (1 - 1e-6)).all()
    assert (found["floor"] <= found["even"]).all()
    assert (found["even"] <= found["ceil"]).all()
    assert set(np.unique(found["ceil"] / found["floor"])) == {1.0, 2.0}


@pytest.mark.parametrize("mode", micro.MODES.values())
def test_a_block_of_zeros_has_code_zero(mode):
    out = np.full(1, 7, U)
    scale_bytes(np.zeros(1, F), mode, F(6), U(2), U(22), out)
    assert out[0] == 0


def test_reciprocals_of_every_scale():
    codes = np.arange(255, dtype=U)
    out = np.empty(255, F)
    reciprocals(codes, out)
    np.testing.assert_array_equal(out.astype(np.float64), np.exp2(127.0 - codes))


def test_e4m3_scales_of_every_bf16_and_around_every_tie():
    every = (np.arange(0x7F80, dtype=U) << U(16)).view(F)
    steps = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(F)
    ties = ((steps[1:].astype(np.float64) + steps[:-1]) / 2).astype(F)
    near = np.concatenate([ties, np.nextafter(ties, F(0)), np.nextafter(ties, F(1e9)), steps])
    wanted = np.concatenate([every, near, [F(448), F(464), F(1e30)]]).astype(F)
    out = np.empty(wanted.size, U)
    nv_scales(wanted, out)
    expected = np.minimum(wanted, F(448)).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(out, expected)
    assert len(np.unique(out)) == 127


def test_values_of_every_e4m3_scale():
    out = np.empty(127, F)
    nv_values(np.arange(127, dtype=U), out)
    np.testing.assert_array_equal(out, np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(F))


def bits_of(values: np.ndarray) -> np.ndarray:
    found = np.ascontiguousarray(values, F).reshape(-1).view(U)
    found.setflags(write=False)
    return found


def unpacked(codes: np.ndarray, bits: int) -> np.ndarray:
    """A little-endian stream of codes, bit by bit."""
    stream = np.unpackbits(codes, bitorder="little").reshape(-1, bits)
    return np.packbits(np.pad(stream, ((0, 0), (0, 8 - bits))), axis=1, bitorder="little").reshape(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_mx_under_given_scales(kind):
    """All exponents of the scale, all steps of the format and their ties, both signs."""
    form = FORMATS[kind]
    steps = form.values()[: 1 << (form.bits - 1)]
    steps = steps[np.isfinite(steps)]
    ties = (steps[1:].astype(np.float64) + steps[:-1]) / 2
    probes = np.concatenate([steps, ties, np.nextafter(ties, 0), np.nextafter(ties, 1e9), [form.max * 1.2]])
    probes = np.concatenate([probes, -probes])
    probes = np.resize(probes, -(-probes.size // 32) * 32)
    codes_of_scales = np.arange(30, 225, dtype=np.uint8)  # so that all products are normal numbers
    values = np.ldexp(probes[None], codes_of_scales[:, None].astype(int) - 127).astype(F)
    scales = np.repeat(codes_of_scales, probes.size // 32)
    before = scales.copy()
    out = np.empty(values.size * form.bits // 8, np.uint8)
    assert micro.mx(
        bits_of(values), 0, True, form.bits, F(form.max), U(form.emax), form.normal_bits, form.mantissa_shift,
        form.magic, *micro.work(Scratch()), out, scales,
    )  # fmt: skip
    np.testing.assert_array_equal(scales, before)
    quotient = np.ldexp(values.astype(np.float64), 127 - codes_of_scales[:, None].astype(int))
    wanted = np.clip(quotient, -form.max, form.max).astype(F).astype(KINDS[kind]).view(np.uint8)
    np.testing.assert_array_equal(unpacked(out, form.bits), wanted.reshape(-1))


def test_nv_under_given_scales():
    """Each E4M3 scale under several shared ones: the formula in float32, true division."""
    rng = np.random.default_rng(0)
    scales = np.repeat(np.arange(127, dtype=np.uint8), 20)
    for shared in (F(1), F(0.123), F(2.0**-60), F(3e-7)):
        unit = (shared * scales.view(ml_dtypes.float8_e4m3fn).astype(F))[:, None]
        values = (unit * rng.uniform(-7, 7, (scales.size, 16))).astype(F)
        values[scales == 0] = 1  # under a scale of zero everything is zero
        out = np.empty(values.size // 2, np.uint8)
        given = scales.copy()
        assert micro.nv(bits_of(values), shared, True, 0, 0, False, *micro.nv_work(Scratch()), out, given)
        np.testing.assert_array_equal(given, scales)
        with np.errstate(all="ignore"):
            quotient = np.where(unit > 0, values / unit, F(0))
        codes = np.abs(np.clip(quotient, -6, 6)).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
        codes |= np.signbit(values).astype(np.uint8) << 3
        np.testing.assert_array_equal(unpacked(out, 4), codes.reshape(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_of_scales_that_are_as_good_the_plain_one_is_kept(kind):
    """Zeros are exact under every scale, and so is a block of one power of two."""
    form = FORMATS[kind]
    values = np.zeros((3, 32), F)
    values[1] = 1
    values[2, 0] = 1
    plain, best = np.empty(3, np.uint8), np.empty(3, np.uint8)
    out = np.empty(96 * form.bits // 8, np.uint8)
    rest = (F(form.max), U(form.emax), form.normal_bits, form.mantissa_shift)
    assert micro.mx(
        bits_of(values), 1, False, form.bits, *rest, form.magic, *micro.work(Scratch()), out, plain
    )
    assert micro.mx_search(bits_of(values), 1, *rest, *micro.search_work(Scratch()), best)
    np.testing.assert_array_equal(best, plain)


def test_of_scales_that_lose_as_much_the_plain_one_is_kept():
    """Under scales of 1 and of 1/2: 4 is exact or 3, each 1/4 is 1/16 off or exact, 2.5 is off by 1/2."""
    form = FORMATS["e2m1"]
    values = np.zeros((1, 32), F)
    values[0, :18] = [4, 2.5, *[0.25] * 16]
    best = np.empty(1, np.uint8)
    rest = (F(form.max), U(form.emax), form.normal_bits, form.mantissa_shift)
    assert micro.mx_search(bits_of(values), 1, *rest, *micro.search_work(Scratch()), best)
    assert best.tolist() == [127]
    values[0, 18] = 0.25
    assert micro.mx_search(bits_of(values), 1, *rest, *micro.search_work(Scratch()), best)
    assert best.tolist() == [126]


def test_of_nvfp4_scales_that_are_as_good_the_plain_one_is_kept():
    """A block of one power of two is exact under codes of 6, of 4, of 3, 2 and 1."""
    values = np.zeros((4, 16), F)
    values[0, 0], values[1] = 2688, 96
    values[2, 3], values[3, ::2] = 1.5, 768
    plain, best = np.empty(4, np.uint8), np.empty(4, np.uint8)
    out = np.empty(32, np.uint8)
    for found, search in ((plain, (0, 0)), (best, (4, 7))):
        assert micro.nv(bits_of(values), F(1), False, *search, False, *micro.nv_work(Scratch()), out, found)
    np.testing.assert_array_equal(best, plain)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 31, 32, 2047, 2048, 4095])
def test_what_is_not_finite_is_told_wherever_it_is(bad, at):
    values = np.ones(4096, F)
    values[at] = bad
    form = FORMATS["e2m1"]
    codes, scales = np.empty(2048, np.uint8), np.empty(256, np.uint8)
    rest = (F(form.max), U(form.emax), form.normal_bits, form.mantissa_shift)
    bits = bits_of(values)
    assert not micro.mx(bits, 0, False, 4, *rest, form.magic, *micro.work(Scratch()), codes, scales[:128])
    assert not micro.mx_search(bits, 0, *rest, *micro.search_work(Scratch()), scales[:128])
    for search in ((0, 0), (-1, 0), (4, 7)):
        assert not micro.nv(bits, F(1), False, *search, False, *micro.nv_work(Scratch()), codes, scales)


@pytest.mark.parametrize("name", ["e2m1", "e2m3", "e3m2", "e4m3fn", "e5m2"])
def test_twice_a_scale_that_holds_a_value_is_never_nearer(name):
    """Why larger scales are left out: for every bfloat16 up to half a step above the largest code, and each
    of its neighbours; not for what lies beyond. And what a smaller scale cuts off is lost at least.
    """
    form = FORMATS[name]
    grid = np.unique(np.abs(form.values()[np.isfinite(form.values())].astype(np.float64)))
    sizes = np.arange(0x7F80, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
    sizes = np.unique(np.concatenate([sizes, np.nextafter(sizes, 0), np.nextafter(sizes, np.inf)]))
    sizes = sizes[(sizes >= form.smallest_subnormal / 8) & (sizes <= 4 * form.max)]

    def lost(scale):
        return np.abs(sizes[:, None] / scale - grid).min(1) * scale

    held = sizes <= form.limit
    assert (lost(2)[held] >= lost(1)[held]).all()
    assert (lost(2)[~held] < lost(1)[~held]).any()
    assert (lost(0.5) >= sizes - 0.5 * form.max).all()


@pytest.mark.parametrize("name", ["e2m1", "e2m3", "e3m2", "e4m3fn", "e5m2"])
@pytest.mark.parametrize("mode", micro.MODES)
def test_the_search_leaves_out_no_better_scale(name, mode):
    """All three, tried in numpy, for blocks with every bfloat16 for their largest value."""
    form = FORMATS[name]
    peaks = np.arange(0x3F00, 0x4080, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    rng = np.random.default_rng(2)
    values = np.float32(rng.uniform(-1, 1, (4, len(peaks), 32)) ** 3) * peaks[:, None]
    values[:, :, 7] = peaks
    values = values.reshape(-1, 32)
    exact = values.astype(np.float64)
    plain, best = (np.zeros(len(values), np.uint8) for _ in range(2))
    codes = np.zeros(values.size * form.bits // 8, np.uint8)
    for search, out in ((False, plain), (True, best)):
        assert encode.mx(bits_of(values), form, mode, search, codes, out, Scratch())
    grid = np.unique(np.abs(form.values()[np.isfinite(form.values())].astype(np.float64)))

    def error(scales):
        unit = 2.0 ** (scales.astype(int)[:, None] - 127)
        share = np.abs(exact) / unit
        place = np.searchsorted((grid[1:] + grid[:-1]) / 2, share)
        return (((share - grid[place]) * unit) ** 2).sum(1)

    errors = np.stack([error(plain + move) for move in (np.int8(0), np.int8(-1), np.int8(1))])
    np.testing.assert_allclose(error(best), errors.min(0), rtol=1e-6)
    assert set(np.unique(best.astype(int) - plain)) <= {-1, 0, 1}
    if name == "e2m1":
        assert (best < plain).any() or mode in ("floor", "even")
        assert (best > plain).any() == (mode == "floor")
