"""fp8 equals division in float32 followed by the cast of ml_dtypes and of torch."""

import ml_dtypes
import numpy as np
import pytest
import torch

from transcode.errors import RecipeError
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
KINDS = {
    "e4m3fn": (ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn, 448),
    "e5m2": (ml_dtypes.float8_e5m2, torch.float8_e5m2, 57344),
}


def model(values, scale, kind):
    """Codes by the formula, with the rounding of two libraries."""
    small, torch_kind, top = KINDS[kind]
    quotient = np.clip(values.astype(F) / scale, -F(top), F(top))
    codes = quotient.astype(small).view(np.uint8)
    same = torch.from_numpy(quotient).to(torch_kind).view(torch.uint8).numpy()
    np.testing.assert_array_equal(codes, same)
    return codes


def scale_of(size, kind):
    return np.maximum(size / F(KINDS[kind][2]), F(2.0**-149))


@pytest.mark.parametrize("kind", KINDS)
def test_every_bf16_value_under_many_scales(kind):
    every = finite_bf16()
    size = np.abs(every.astype(F))
    for peak in np.random.default_rng(1).permutation(every[size > 0])[:40]:
        row = every[size <= abs(F(peak))][None]
        parts = encode(make("fp8", format=kind, scale_dtype="F32"), row)
        scale = scale_of(np.abs(row.astype(F)).max(), kind)
        assert parts["scale"][0, 0] == scale
        np.testing.assert_array_equal(parts["codes"], model(row, scale, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", ["F32", "BF16", "F16"])
def test_every_bf16_value_as_the_largest_of_its_row(kind, kept):
    rows = peaks_and_values(seed=7)
    if kept == "F16":  # what it cannot hold is an error, not a clipped scale
        rows = rows[np.abs(rows.astype(F)).max(1) / F(KINDS[kind][2]) < 65520]
    parts = encode(make("fp8", format=kind, scale_dtype=kept), rows)
    peak = np.abs(rows.astype(F)).max(1, keepdims=True)
    scale = as_float32(parts["scale"], kept)
    limit = {"e4m3fn": 464, "e5m2": 61440}[kind]  # half a step above the largest value
    want = rounded_up_where_saturated(stored(peak / F(KINDS[kind][2]), kept), peak, limit, kept)
    np.testing.assert_array_equal(scale, want)
    np.testing.assert_array_equal(parts["codes"], model(rows, scale, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("granularity", ["channel", "block", "tensor"])
def test_scales_that_are_subnormal_in_f16_saturate_nothing(kind, granularity):
    scheme = make("fp8", format=kind, granularity=granularity, block=[1, 32], scale_dtype="F16")
    step = {"e4m3fn": 2.0**-4, "e5m2": 2.0**-3}[kind]
    values = small_in_f16(64, seed=12) * F(8 if kind == "e4m3fn" else 1024)
    for row in range(40, 160, 7):  # each as a tensor of its own
        alone = values[row : row + 1]
        parts = encode(scheme, alone)
        assert as_float32(parts["scale"], "F16").max() < 2.0**-14
        gap = np.abs(decode(scheme, parts, spec_of(alone)) - alone)
        assert gap.max() <= np.abs(alone).max() * step * 1.001


@pytest.mark.parametrize("kind", KINDS)
def test_every_bf16_value_plainly_when_the_scale_is_one(kind):
    top = KINDS[kind][2]
    every = finite_bf16()
    row = every[np.abs(every.astype(F)) <= top][None]
    parts = encode(make("fp8", format=kind), row)
    assert as_float32(parts["scale"], "BF16") == 1
    np.testing.assert_array_equal(parts["codes"], row.astype(F).astype(KINDS[kind][0]).view(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_quotients_next_to_a_tie(kind):
    small = KINDS[kind][0]
    steps = np.arange(0x78 if kind == "e4m3fn" else 0x7B, dtype=np.uint8).view(small).astype(F)
    middles = (steps[1:] + steps[:-1]) / 2
    rng = np.random.default_rng(8)
    scale = rng.uniform(1, 2, (3000, 1)).astype(F)
    ties = middles * scale
    rows = np.concatenate(
        [scale * KINDS[kind][2], np.nextafter(ties, F(0)), ties, -np.nextafter(ties, F(np.inf))], 1
    )
    parts = encode(make("fp8", format=kind), rows)
    np.testing.assert_array_equal(
        parts["codes"], model(rows, scale_of(np.abs(rows).max(1, keepdims=True), kind), kind)
    )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("shape", [(300, 260), (128, 128), (1, 1), (3, 130, 200), (2, 128, 129), (4, 7, 300)])
def test_blocks_with_ragged_edges_never_mix_matrices(source, shape):
    values = (np.random.default_rng(9).standard_normal(shape) * 5).astype(SOURCES[source])
    scheme = make("fp8", granularity="block", scale_dtype="F32")
    parts = encode(scheme, values)
    stack = values.astype(F).reshape(-1, *shape[-2:])
    rows, columns = -(-shape[-2] // 128), -(-shape[-1] // 128)
    assert parts["scale"].shape == (*shape[:-2], rows, columns)
    scales = parts["scale"].reshape(-1, rows, columns)
    codes = parts["codes"].reshape(stack.shape)
    for e, i, j in np.ndindex(len(stack), rows, columns):
        here = (e, slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))
        scale = scale_of(np.abs(stack[here]).max(), "e4m3fn")
        assert scales[e, i, j] == scale
        np.testing.assert_array_equal(codes[here], model(stack[here], scale, "e4m3fn"))


def test_one_scale_for_the_tensor():
    values = np.random.default_rng(10).standard_normal((2, 33, 65)).astype(ml_dtypes.bfloat16)
    scheme = make("fp8", granularity="tensor", format="e5m2")
    parts = encode(scheme, values, tile=5)
    scale = (np.abs(values.astype(F)).max() / F(57344)).astype(ml_dtypes.bfloat16).astype(F)
    assert parts["scale"].shape == ()
    assert as_float32(parts["scale"], "BF16") == scale
    np.testing.assert_array_equal(parts["codes"], model(values, scale, "e5m2"))


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_table_times_scale_and_encodes_to_the_same_codes(kind):
    values = np.random.default_rng(11).standard_normal((60, 100)).astype(F)
    scheme = make("fp8", format=kind, granularity="block", block=[16, 32])
    parts = encode(scheme, values)
    out = decode(scheme, parts, spec_of(values))
    scale = np.repeat(np.repeat(parts["scale"], 16, 0)[:60], 32, 1)[:, :100]
    np.testing.assert_array_equal(out, parts["codes"].view(KINDS[kind][0]).astype(F) * scale)
    again = encode(scheme, out)
    np.testing.assert_array_equal(again["codes"], parts["codes"])


def test_zero_rows():
    values = np.zeros((2, 8), F)
    values[1, 1] = -0.0
    parts = encode(make("fp8"), values)
    np.testing.assert_array_equal(parts["scale"], 1)
    assert parts["codes"][1, 1] == 0x80
    assert np.count_nonzero(parts["codes"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "e4m3"}, "format cannot be 'e4m3'; choose from e4m3fn, e5m2"),
        ({"granularity": "group"}, "choose from channel, tensor, block"),
        ({"block": 128}, "block cannot be 128"),
        ({"block": [0, 128]}, "block cannot be"),
        ({"blok": 1}, "fp8 has no option 'blok'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        make("fp8", **options)


@pytest.mark.parametrize("granularity", ["channel", "tensor", "block"])
def test_codes_up_to_14(granularity):
    """As LightX2V makes them where products are summed in float16 (qwen_image_21_fp8_f16_accum.py)."""
    torch = pytest.importorskip("torch")
    values = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    values[3] *= 1e-3
    scheme = make("fp8", qmax=14, granularity=granularity, block=(64, 256), scale_dtype="F32")
    parts = encode(scheme, values.numpy())
    if granularity == "channel":
        scales = values.abs().amax(dim=1, keepdim=True).clamp_min_(1e-8).div_(14.0)
    else:
        scales = values.abs().max() / 14
    codes = values.div(scales).clamp_(-14.0, 14.0).to(torch.float8_e4m3fn)
    np.testing.assert_array_equal(parts["scale"].reshape(-1), scales.reshape(-1).numpy())
    np.testing.assert_array_equal(parts["codes"], codes.view(torch.uint8).numpy())
    assert codes.float().abs().max() == 14


def test_lightx2v_looks_for_it_in_metadata(tmp_path, cli, refused):
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    save_file({"a.weight": torch.randn(16, 32, dtype=torch.bfloat16)}, tmp_path / "m.safetensors")
    job = ("run", tmp_path / "m.safetensors", tmp_path / "o.safetensors", "--scheme", "fp8", "-O", "qmax=14")
    said = refused(*job)
    assert "lightx2v reads fp8 with qmax=14 only where metadata has quantization_profile" in said
    assert "h3-fp8-f16-accum or qwen-image-21-fp8-f16-accum" in said
    cli(*job, "--metadata", "quantization_profile=h3-fp8-f16-accum")
    with safe_open(tmp_path / "o.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["quantization_profile"] == "h3-fp8-f16-accum"
    assert float(metadata["weight_qmax"]) == 14.0  # as its loader compares
    cli("run", tmp_path / "m.safetensors", tmp_path / "full.safetensors", "--scheme", "fp8")
    with safe_open(tmp_path / "full.safetensors", "np") as file:
        assert "weight_qmax" not in file.metadata()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kept", ["F32", "BF16", "F16"])
@pytest.mark.parametrize(
    "options",
    [{}, {"format": "e5m2"}, {"granularity": "block", "block": [16, 96]}, {"qmax": 14}],
    ids=["channel", "e5m2", "block", "qmax"],
)
def test_mse_is_the_best_of_sixteen_scales(options, kept, weighted):
    """All of them tried in float64, by ml_dtypes; nothing saturates."""
    scheme = make("fp8", optimize="mse", scale_dtype=kept, **options)
    rng = np.random.default_rng(6)
    values = (rng.standard_t(4, (32, 192)) * np.exp2(rng.integers(-3, 4, (32, 1)))).astype(np.float32)
    values[3] = 0
    weights = np.exp(2 * rng.standard_normal(192)).astype(np.float32) if weighted else None
    heavy = np.ones(192) if weights is None else weights.astype(np.float64)
    parts = encode(scheme, values, weights=weights)
    height, width = (16, 96) if "block" in options else (1, 192)
    kind = ml_dtypes.float8_e5m2 if "format" in options else ml_dtypes.float8_e4m3fn
    top = 14 if "qmax" in options else float(ml_dtypes.finfo(kind).max)
    cut = (32 // height, height, 192 // width, width)
    peak = np.abs(values).reshape(cut).max((1, 3)).astype(np.float32)
    scales = as_float32(parts["scale"], kept).reshape(peak.shape)
    plain = stored((peak / np.float32(top)).astype(np.float32), kept)

    def error(scale):
        wide = scale.repeat(height, 0).repeat(width, 1).astype(np.float64)
        share = np.clip(values / wide, -top, top).astype(np.float32).astype(kind).astype(np.float64)
        return (((share * wide - values) ** 2) * heavy).reshape(cut).sum((1, 3))

    shares = np.arange(16) / 16 + 1
    tried = [
        plain,
        *(stored((peak / np.float32(top) * np.float32(k)).astype(np.float32), kept) for k in shares[1:]),
    ]
    tried = [np.where(peak > 0, one, np.float32(1)) for one in tried]
    errors = np.stack([error(one) for one in tried])
    searched = (plain >= 2.0**-14) | (kept != "F16")  # among subnormal numbers the plain one stays
    assert (error(scales) <= errors.min(0) * (1 + 1e-5))[searched].all()
    np.testing.assert_array_equal(scales[~searched & (peak > 0)], plain[~searched & (peak > 0)])
    assert all(np.isin(scale, [one.reshape(-1)[n] for one in tried]) for n, scale in enumerate(scales.flat))
    assert (scales * np.float32(top) * 1.004 >= peak).all()
    assert error(scales)[searched].sum() < errors[0][searched].sum()
    assert (scales != tried[0])[searched].mean() > 0.5
    wide = scales.repeat(height, 0).repeat(width, 1)
    wanted = np.clip(values / wide, -top, top).astype(kind).view(np.uint8)
    np.testing.assert_array_equal(parts["codes"].view(np.uint8) & 0x7F, wanted & 0x7F)


def test_a_search_of_one_scale_for_the_tensor_is_refused():
    with pytest.raises(RecipeError, match="fp8: optimize cannot be 'mse' of one scale"):
        make("fp8", granularity="tensor", optimize="mse")


@pytest.mark.parametrize("kind", KINDS)
def test_scales_of_powers_of_two(kind):
    """The least power of two under which the largest value of a block is one of the format's."""
    rows = np.ldexp(np.random.default_rng(3).standard_normal((96, 64)), np.arange(-140, 52, 2)[:, None])
    rows = rows.astype(F)
    rows[5] = 0
    rows[6, :32] = F(2.0**-149)
    rows[7, :32] = F(KINDS[kind][2]) * F(2.0**-20)
    scheme = make("fp8", format=kind, granularity="block", block=[1, 32], scale_dtype="F8_E8M0")
    parts = encode(scheme, rows)
    peak = np.abs(rows.astype(np.float64)).reshape(96, 2, 32).max(-1)
    with np.errstate(divide="ignore"):
        exponent = np.maximum(np.ceil(np.log2(peak / KINDS[kind][2])), -127)
    exponent[peak == 0] = 0
    np.testing.assert_array_equal(parts["scale"].astype(int) - 127, exponent)
    scale = np.exp2(exponent).repeat(32, 1)
    quotient = torch.from_numpy((rows.astype(np.float64) / scale).astype(F))
    np.testing.assert_array_equal(
        parts["codes"], quotient.to(KINDS[kind][1]).view(torch.uint8).numpy().reshape(96, 64)
    )
