"""Blocks of GGUF, held to ggml's own quantizers and the gguf package's decoders (``fixtures/ggml``)."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import transcode as tc
from tests.schemes.helpers import encode
from transcode.core.dtypes import BLOCKS, DTYPES
from transcode.core.spec import Spec
from transcode.errors import DataError, PlanError, RecipeError
from transcode.numerics import NonFinite, Overflow
from transcode.numerics.ggml.table import DECODED, ENCODED, NEEDY, SPREAD, decode
from transcode.schemes import DECODED as READ
from transcode.schemes import SCHEMES, block, decoder, make

FIXTURES = Path(__file__).parents[2] / "fixtures" / "ggml"
MADE = load_file(FIXTURES / "encoded.safetensors")
READ_BACK = load_file(FIXTURES / "decoded.safetensors")
ROWS = MADE.pop("rows")
WEIGHTED = load_file(FIXTURES / "weighted.safetensors")
WEIGHTS = WEIGHTED.pop("weights")
NAMES = {block(name).name: name for name in (*SCHEMES, *READ) if block(name) is not None}
each = pytest.mark.parametrize("kind", MADE)


def misplaced(kind: str, rows: np.ndarray) -> np.ndarray:
    """Blocks that the reference spoils: of IQ3_S those of which 32 values are 0, behind which it puts numbers
    and signs into the place of others.
    """
    zero = (rows.reshape(-1, BLOCKS[kind].elements // 32, 32) == 0).all(2).any(1)
    return zero if kind == "IQ3_S" else np.zeros_like(zero)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit, but for the payloads of NaN."""
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def test_every_type_has_its_scheme_and_its_fixture():
    assert set(NAMES) == set(DECODED)
    assert set(DECODED) == set(BLOCKS) - {"Q8_1", "Q8_K"}
    assert set(MADE) == set(ENCODED) - set(NEEDY)
    assert {NAMES[kind] for kind in ENCODED} == {name for name in SCHEMES if block(name) is not None}
    assert {name.partition(".")[0] for name in READ_BACK} == set(DECODED) - {"Q1_0"}


@each
def test_blocks_are_those_of_the_reference(kind):
    fits = np.abs(ROWS).max(1) <= (2688 if kind == "NVFP4" else np.inf)
    assert fits.sum() > 48
    codes = encode(make(NAMES[kind]), ROWS[fits])["codes"].reshape(-1, BLOCKS[kind].bits // 8)
    same = MADE[kind][fits].reshape(codes.shape)
    sound = ~misplaced(kind, ROWS[fits]) if kind == "IQ3_S" else slice(None)
    np.testing.assert_array_equal(codes[sound], same[sound])


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("tile", [None, 1, 4])
def test_blocks_under_weights_are_those_of_the_reference(kind, tile):
    rows = ROWS.reshape(27, 512)
    codes = encode(make(NAMES[kind]), rows, tile=tile, weights=WEIGHTS)["codes"]
    blocks, same = (one.reshape(-1, BLOCKS[kind].bits // 8) for one in (codes, WEIGHTED[kind]))
    sound = ~misplaced(kind, rows) if kind == "IQ3_S" else slice(None)
    np.testing.assert_array_equal(blocks[sound], same[sound])
    assert (codes != encode(make(NAMES[kind]), rows)["codes"]).any()


def test_what_the_reference_puts_into_the_place_of_others_stands_in_its_own():
    rows = ROWS.reshape(27, 512)
    spoiled = misplaced("IQ3_S", rows)
    assert spoiled.sum() == 6
    made, given = np.empty((54, 256), np.float32), np.empty((54, 256), np.float32)
    decode("IQ3_S", encode(make("iq3_s"), rows, weights=WEIGHTS)["codes"], made)
    decode("IQ3_S", WEIGHTED["IQ3_S"], given)
    far, farther = (np.square(one - ROWS)[spoiled].sum(1) for one in (made, given))
    assert (far <= farther).all()
    assert (far < farther).sum() == 4


def test_types_that_heed_weights_have_fixtures():
    assert set(WEIGHTED) == set(SPREAD)
    assert {kind for kind in ENCODED if make(NAMES[kind]).weighs} == set(SPREAD)


@pytest.mark.parametrize("kind", ["IQ4_NL", "IQ4_XS"])
def test_columns_without_weight_make_no_nan(kind):
    """The reference divides zero by zero there."""
    codes = encode(make(NAMES[kind]), ROWS, weights=np.zeros(256, np.float32))["codes"]
    out = np.full((54, 256), 99, np.float32)
    decode(kind, codes, out)
    assert (out == 0).all()


@pytest.mark.parametrize("kind", NEEDY)
def test_low_types_are_not_made_without_weights(kind, tmp_path):
    save_file({"blocks.0.w.weight": ROWS[:3]}, tmp_path / "m.safetensors")
    flow = tc.open(tmp_path / "m.safetensors") | tc.quantize(NAMES[kind])
    with pytest.raises(PlanError, match=rf"w\.weight: cannot become {NAMES[kind]} without weights"):
        flow.plan(tc.write(tmp_path / "m.gguf"))
    flow = tc.open(tmp_path / "m.safetensors") | tc.quantize(NAMES[kind], importance="sinq")
    flow.plan(tc.write(tmp_path / "m.gguf"))


@each
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F64"])
def test_of_every_float_dtype_as_of_its_float32(kind, dtype):
    of = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F64": np.float64}[dtype]
    with np.errstate(over="ignore", under="ignore"):
        rows = ROWS[:12].astype(of)
    np.testing.assert_array_equal(
        encode(make(NAMES[kind]), rows)["codes"], encode(make(NAMES[kind]), rows.astype(np.float32))["codes"]
    )


@pytest.mark.parametrize("kind", sorted(set(DECODED) - {"Q1_0"}))
def test_values_are_those_of_the_package(kind):
    blocks, values = READ_BACK[f"{kind}.blocks"], READ_BACK[f"{kind}.values"]
    for count in (len(blocks), 1, 5):
        out = np.full(values[:count].shape, 99, np.float32)
        decode(kind, blocks[:count], out)
        assert same(out, values[:count])


@pytest.mark.parametrize("first", [-0.0, 0.0])
def test_of_zeros_of_both_signs_the_first_is_the_least(first):
    """ggml takes a value for the least so far only where it is less."""
    row = np.linspace(1, 2, 32, dtype=np.float32)[None]
    row[0, 3], row[0, 20] = first, -first
    blocks = encode(make("q4_1"), row)["codes"].reshape(-1)
    assert blocks[2:4].view(np.uint16)[0] == np.array(first, np.float16).view(np.uint16)


def test_signs_of_one_bit():
    blocks = np.zeros((1, 18), np.uint8)
    blocks[0, :2] = np.array([0.75], np.float16).view(np.uint8)
    blocks[0, 2:] = np.packbits(np.arange(128) % 3 == 0, bitorder="little")
    out = np.empty((1, 128), np.float32)
    decode("Q1_0", blocks, out)
    np.testing.assert_array_equal(out[0], np.where(np.arange(128) % 3 == 0, 0.75, -0.75))


@pytest.mark.parametrize("kind", sorted(DECODED))
def test_any_block_of_the_package(kind):
    """Where it is installed: many more blocks, of every type."""
    package = pytest.importorskip("gguf")
    dtype = BLOCKS[kind]
    blocks = np.random.default_rng(1).integers(0, 256, (777, dtype.bits // 8), np.uint8)
    out = np.empty((777, dtype.elements), np.float32)
    decode(kind, blocks, out)
    try:
        with np.errstate(invalid="ignore"):
            wanted = package.dequantize(blocks, package.GGMLQuantizationType[kind])
    except NotImplementedError:
        pytest.skip("the package does not decode it")
    assert same(out, wanted)


@each
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_its_place(kind, value):
    rows = np.ones((3, 512), np.float32)
    rows[1, 300] = value
    with pytest.raises(NonFinite) as error:
        encode(make(NAMES[kind]), rows)
    assert (error.value.row, error.value.column) == (1, 300)


@pytest.mark.parametrize("kind", sorted(set(MADE) - {"MXFP4"}))
def test_what_needs_a_scale_beyond_f16_is_refused(kind):
    rows = np.ones((3, 512), np.float32)
    rows[2, 256:] = 1e20
    with pytest.raises(Overflow) as error:
        encode(make(NAMES[kind]), rows)
    assert error.value.row == 2
    assert 256 <= error.value.column < 512


def test_and_said_so(tmp_path):
    save_file({"blocks.0.w.weight": np.full((2, 256), 1e20, np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(DataError, match=r"needs a scale that q8_0 cannot hold; exclude the tensor"):
        tc.open(tmp_path / "m.safetensors") | tc.quantize("q8_0") | tc.write(tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


@each
def test_whatever_the_workers_and_tiles(kind, tmp_path):
    random = np.random.default_rng(3)
    held = {f"blocks.{n}.w.weight": random.standard_normal((37, 768)).astype(np.float32) for n in range(3)}
    held["blocks.0.w.bias"] = random.standard_normal(37).astype(np.float32)
    save_file(held, tmp_path / "m.safetensors")
    step = tc.quantize(NAMES[kind])
    ways = [{"workers": 1}, {"workers": 4, "tile": 1}, {"workers": 2, "tile": 5000, "mmap": False}]
    for number, way in enumerate(ways):
        way = dict(way)
        flow = tc.open(tmp_path / "m.safetensors", mmap=way.pop("mmap", True))
        flow | step | tc.write(tmp_path / f"{number}.gguf", **way)
    first = (tmp_path / "0.gguf").read_bytes()
    assert all((tmp_path / f"{n}.gguf").read_bytes() == first for n in (1, 2))
    back = tc.open(tmp_path / "0.gguf")
    assert back["blocks.1.w.weight"].spec == Spec(BLOCKS[kind], (37, 768))
    wanted = encode(make(NAMES[kind]), held["blocks.1.w.weight"])["codes"]
    np.testing.assert_array_equal(back["blocks.1.w.weight"].numpy(), wanted.reshape(-1))


@pytest.mark.parametrize("name", [name for name in READ if block(name) is not None])
def test_those_that_are_only_decoded_say_so(name):
    with pytest.raises(RecipeError, match=f"^{name} is decoded, not encoded; choose from "):
        make(name)
    scheme = decoder(name)()
    assert scheme.undecodable(Spec(DTYPES["F32"], (3, 5))) is not None
    assert scheme.undecodable(Spec(DTYPES["F32"], (512,))) is None


def test_a_source_of_blocks_is_encoded_anew_or_kept(tmp_path):
    save_file({"blocks.0.w.weight": ROWS[:3]}, tmp_path / "m.safetensors")
    tc.open(tmp_path / "m.safetensors") | tc.quantize("q8_0") | tc.write(tmp_path / "q8.gguf")
    (
        tc.open(tmp_path / "q8.gguf")
        | tc.dequantize("F32")
        | tc.quantize("q4_0")
        | tc.write(tmp_path / "q4.gguf")
    )
    values = np.empty((3, 256), np.float32)
    decode("Q8_0", MADE["Q8_0"][:3], values)
    wanted = encode(make("q4_0"), values)["codes"].reshape(-1)
    np.testing.assert_array_equal(tc.open(tmp_path / "q4.gguf")["blocks.0.w.weight"].numpy(), wanted)
