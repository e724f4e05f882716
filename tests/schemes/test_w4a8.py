"""W4A8 and W6A8 lose no more than comfy_kitchen's own encoder, and are decoded to its integers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.numerics.test_hadamard import matrix
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.errors import RecipeError
from transcode.numerics import NonFinite
from transcode.schemes import make

from .helpers import SOURCES, decode, encode, spec_of

kitchen = pytest.importorskip("comfy_kitchen.tensor")
eager = pytest.importorskip("comfy_kitchen.backends.eager.w4a8_int8")
packed = pytest.importorskip("comfy_kitchen.tensor.w4a8_packed")
LAYOUT = kitchen.AsymW4A8Int8Layout

F = np.float32


def matrices(shape=(128, 1024)):
    random = np.random.default_rng(0)
    normal = random.standard_normal(shape)
    hot = normal.copy()
    hot[:, ::64] *= 20
    sparse = np.where(random.random(shape) < 0.02, normal, 0)
    turned = (sparse.reshape(len(sparse), -1, 256) @ matrix(256)).reshape(shape)
    yield "normal", normal
    yield "Laplace", random.laplace(size=shape)
    yield "Student", random.standard_t(3, size=shape)
    yield "even", random.uniform(-1, 1, shape)
    yield "hot columns", hot
    yield "sparse", sparse
    yield "sparse once turned", turned
    yield "rows of all sizes", normal * np.exp2(random.integers(-12, 3, (shape[0], 1)))
    yield "values of all sizes", normal * np.exp2(random.integers(-6, 3, shape))


MATRICES = dict(matrices())


def sqnr(values, out):
    values = values.astype(np.float64)
    return 10 * np.log10((values**2).sum() / ((out - values) ** 2).sum())


def by_them(tensor, **options):
    """What they make of a tensor, decoded by them in float32."""
    codes, params = LAYOUT.quantize(tensor, **options)
    wide = LAYOUT.Params(
        scale=params.scale, s_channel=params.s_channel, codebook=params.codebook,
        orig_dtype=torch.float32, orig_shape=tuple(tensor.shape),
        group_size=params.group_size, convrot_groupsize=params.convrot_groupsize,
    )  # fmt: skip
    return codes, params, LAYOUT.dequantize(codes, wide).numpy()


@pytest.mark.parametrize("source", ["F32", "BF16"])
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(("scheme", "bits"), [("w4a8", 4), ("w6a8", 6)])
def test_no_more_is_lost_than_by_comfy_kitchen(name, source, scheme, bits):
    tensor = torch.from_numpy(MATRICES[name]).to({"F32": torch.float32, "BF16": torch.bfloat16}[source])
    values = tensor.float().numpy().astype(SOURCES[source])
    _, _, theirs = by_them(tensor, bits=bits)
    made = make(scheme)
    ours = decode(made, encode(made, values), spec_of(values))
    margin = 0.08 if bits == 4 else -0.002  # theirs searches the scales of 6 bits, as ours does
    assert sqnr(values, ours) > sqnr(values, theirs) + margin


@pytest.mark.parametrize("group", [16, 32, 64, 128])
@pytest.mark.parametrize("rotate", [16, 256])
@pytest.mark.parametrize(
    ("scheme", "options"), [("w4a8", {}), ("w4a8", {"codebook": "uniform"}), ("w6a8", {})]
)
def test_their_integers_are_what_is_decoded(scheme, options, rotate, group):
    values = MATRICES["hot columns"].astype(F)
    made = make(scheme, group_size=group, rotate=rotate, **options)
    parts = encode(made, values)
    codes = torch.from_numpy(parts["codes"].view(np.int8))
    scale = torch.from_numpy(parts["scale"]).view(torch.float8_e4m3fn)
    codebook = torch.from_numpy(parts["codebook"]) if "codebook" in parts else None
    integers = eager._dequant_int4_grouped_to_int8(codes, scale, codebook, group).numpy()
    out = decode(made, parts, spec_of(values))
    sums = integers.astype(np.float64).reshape(len(values), -1, rotate) @ matrix(rotate)
    row_scale = parts["row_scale"].reshape(-1, 1)
    np.testing.assert_array_equal(out, sums.reshape(out.shape).astype(F) * row_scale)
    theirs = eager.dequantize_w4a8_int8_weight(
        codes, scale, torch.from_numpy(parts["row_scale"]), codebook, None, group, rotate, torch.float32
    ).numpy()
    products = np.abs(integers.astype(np.float64)) * row_scale
    reach = np.repeat(products.reshape(len(values), -1, rotate).sum(-1), rotate, -1) / rotate**0.5
    assert (np.abs(theirs - out) <= rotate * 2.0**-24 * reach).all()


def test_codes_of_six_bits_lie_as_theirs():
    values = MATRICES["normal"].astype(F)
    parts = encode(make("w6a8"), values)
    levels = packed._unpack_codes(torch.from_numpy(parts["codes"].view(np.int8)), 1024, 6)
    assert (int(levels.min()), int(levels.max())) == (1, 63)
    again = packed._pack_codes(levels, 6).numpy().view(np.uint8)
    np.testing.assert_array_equal(again, parts["codes"])


def test_which_levels():
    """The frozen ones are the consumer's, to the bit; what is not normal has levels of its own."""
    normal, sparse = (MATRICES[name].astype(F) for name in ("normal", "sparse once turned"))
    frozen = packed.default_w4a8_codebook().numpy()
    np.testing.assert_array_equal(encode(make("w4a8"), normal)["codebook"], frozen)
    np.testing.assert_array_equal(encode(make("w4a8", codebook="frozen"), sparse)["codebook"], frozen)
    assert not np.array_equal(encode(make("w4a8"), sparse)["codebook"], frozen)
    fitted = encode(make("w4a8", codebook="fitted"), normal)["codebook"]
    assert 0 < np.abs(fitted - frozen).max() < 0.02  # a histogram of normal values gives them again
    assert (np.diff(fitted) > 0).all()
    assert "codebook" not in encode(make("w4a8", codebook="uniform"), normal)


@pytest.mark.parametrize("name", ["w4a8", "w6a8"])
def test_rows_of_zeros_and_of_small_and_large_values(name):
    random = np.random.default_rng(1)
    values = random.standard_normal((6, 256)).astype(F)
    values[0] = 0
    values[1] *= F(2.0**-100)
    values[2] *= F(2.0**100)
    values[3, 16:] = 0
    values[4] = 1e-42
    scheme = make(name, rotate=16)
    parts = encode(scheme, values)
    assert np.isfinite(parts["row_scale"]).all()
    assert (parts["row_scale"] > 0).all()
    assert (parts["scale"] <= 126).all()
    out = decode(scheme, parts, spec_of(values))
    assert not out[0].any()
    for row in (1, 2, 3, 5):
        assert sqnr(values[row], out[row]) > 20
    assert np.abs(out[4]).max() <= 2.0**-120


@pytest.mark.parametrize("name", ["w4a8", "w6a8"])
def test_values_that_are_not_finite_are_named(name):
    values = np.ones((4, 256), F)
    values[3, 77] = np.inf
    for options in ({}, {"codebook": "frozen"}) if name == "w4a8" else ({},):
        with pytest.raises(NonFinite, match="row 3, column 77: inf"):
            encode(make(name, **options), values)


def test_shapes():
    spec = Spec(DTYPES["BF16"], (8, 768))
    assert [str(part.spec) for part in make("w4a8").parts(spec)] == [
        "U8[8,384]", "F8_E4M3[8,48]", "F32[8]", "F32[16]",
    ]  # fmt: skip
    assert [str(part.spec) for part in make("w6a8").parts(spec)] == ["U8[8,576]", "F8_E4M3[8,48]", "F32[8]"]
    assert make("w4a8").refuses(Spec(DTYPES["BF16"], (8, 392))) == "392 columns are not a multiple of 256"
    smaller, said = make("w4a8").instead(Spec(DTYPES["BF16"], (8, 192)))
    assert smaller == make("w4a8", rotate=64)
    assert said == "rotated by 64: 192 columns are not a multiple of 256"
    for columns in (512, 7):
        assert make("w6a8").instead(Spec(DTYPES["BF16"], (8, columns))) is None
    with pytest.raises(RecipeError, match="rotate cannot be 1; give a power of 4 from 4 to 65536"):
        make("w4a8", rotate=1)


@pytest.mark.parametrize(("name", "bits"), [("w4a8", 4), ("w6a8", 6)])
@pytest.mark.parametrize("place", ["tensor", "metadata"])
def test_their_file_is_read_and_ours_by_them(name, bits, place, tmp_path, cli):
    """Both ways through files, where ComfyUI looks for each part."""
    weight = torch.from_numpy(MATRICES["normal"]).to(torch.bfloat16)
    codes, params, values = by_them(weight, bits=bits)
    stored = {f"a.weight{key}": value for key, value in LAYOUT.state_dict_tensors(codes, params).items()}
    said = {"format": "asym_w4a8_int8", "group_size": 16, "convrot_groupsize": 256}
    metadata = {}
    if place == "tensor":
        stored["a.comfy_quant"] = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    else:
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": {"a": said}})
    theirs, plain = tmp_path / "theirs.safetensors", tmp_path / "plain.safetensors"
    save_file(stored, theirs, metadata)
    cli("run", theirs, plain, "--dequantize", "f32")
    out = load_file(plain)
    assert set(out) == {"a.weight"}
    assert np.abs(out["a.weight"].numpy() - values).max() < 1e-5

    save_file({"a.weight": weight}, tmp_path / "m.safetensors")
    ours = tmp_path / "ours.safetensors"
    cli("run", tmp_path / "m.safetensors", ours, "--scheme", name, "--convention", "comfyui")
    stored = load_file(ours)
    assert json.loads(bytes(stored.pop("a.comfy_quant").tolist())) == said
    wide = LAYOUT.Params(
        scale=stored["a.weight_s_rel"], s_channel=stored["a.weight_s_channel"],
        codebook=stored.get("a.weight_codebook"), orig_dtype=torch.float32, orig_shape=(128, 1024),
    )  # fmt: skip
    assert stored["a.weight"].dtype == torch.int8
    theirs = LAYOUT.dequantize(stored["a.weight"], wide)
    cli("run", ours, tmp_path / "back.safetensors", "--dequantize", "f32")
    back = load_file(tmp_path / "back.safetensors")["a.weight"]
    assert (back - theirs).abs().max() < 1e-5
    assert sqnr(weight.float().numpy(), back.numpy()) > (22.8 if bits == 4 else 33.6)
    x = torch.randn(3, 1024, generator=torch.Generator().manual_seed(0))
    y = eager.w4a8_int8_linear(
        x, stored["a.weight"], wide.scale, wide.s_channel, wide.codebook, out_dtype=torch.float32
    )
    wanted = x @ weight.float().T
    assert (y - wanted).norm() / wanted.norm() < (0.08 if bits == 4 else 0.03)
