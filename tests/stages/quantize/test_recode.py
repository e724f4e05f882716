"""Quantized files in another scheme by their codes: whole conversions, and what is said of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import transcode as tc
from transcode.core.performance import Performance
from transcode.errors import DataError, PlanError
from transcode.execution.carry import consume
from transcode.execution.consuming import Consumption

NAMES = [f"model.layers.{block}.self_attn.{part}_proj.weight" for block in (0, 1) for part in "qkvo"]
NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture
def source(tmp_path):
    """Matrices as mxfp4, of which exponents spread over a few powers of two."""
    rng = np.random.default_rng(0)
    sizes = np.exp2(rng.integers(-3, 4, (256, 1))).astype(np.float32)
    tensors = {
        name: (rng.standard_normal((256, 128)).astype(np.float32) * sizes).astype(ml_dtypes.bfloat16)
        for name in NAMES
    }
    tensors[NORM] = np.ones(128, ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / "plain.safetensors")
    path = tmp_path / "mx.safetensors"
    tc.open(tmp_path / "plain.safetensors") | tc.quantize("mxfp4") | tc.write(path, convention="neutral")
    return path


def values(path):
    out = path.with_suffix(".f32.safetensors")
    tc.open(path) | tc.dequantize("F32") | tc.write(out, force=True)
    return load_file(out)


def changed(path, name, index, byte):
    """The file with one byte of a tensor set."""
    tensors = load_file_raw(path)
    begin = tensors[name] + index
    data = bytearray(path.read_bytes())
    data[begin] = byte
    path.write_bytes(bytes(data))


def load_file_raw(path):
    """Where the bytes of each tensor begin."""
    import json

    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return {
        name: 8 + size + facts["data_offsets"][0] for name, facts in header.items() if name != "__metadata__"
    }


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("nvfp4", {}), ("mxfp6", {}), ("mxfp8", {}), ("fp8", {}),
        ("fp8", {"granularity": "tensor"}), ("fp8", {"granularity": "block"}),
        ("int8", {"granularity": "group", "group_size": 32}),
    ],
)  # fmt: skip
def test_no_value_changes(scheme, options, source, tmp_path):
    out = tmp_path / "o.safetensors"
    flow = tc.open(source) | tc.quantize(scheme, **options)
    report = flow | tc.write(out, convention="neutral", lossless=True, workers=1)
    assert set(report.recoded) == set(NAMES)
    assert all(exact == blocks > 0 for exact, blocks in report.recoded.values())
    assert {event.kind for tensor in report.plan.tensors for event in tensor.fate} == {"recode", "keep"}
    before, after = values(source), values(out)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    first = out.read_bytes()
    for workers, tile in ((2, 70_000), (3, 1 << 20)):
        flow | tc.write(out, convention="neutral", workers=workers, tile=tile, force=True, lossless=True)
        assert out.read_bytes() == first


def test_blocks_are_counted_of_all_who_did_them(source, tmp_path):
    """In parts, and while the source goes: as many as the tensors have blocks of 16."""
    wanted = dict.fromkeys(NAMES, (256 * 128 // 16, 256 * 128 // 16))
    flow = tc.open(source) | tc.quantize("nvfp4")
    for number in (2, 1, 3):
        report = flow | tc.write(
            tmp_path / "o.safetensors", convention="neutral", part=f"{number}/3", workers=1, tile=16 << 10
        )
    assert report.recoded == wanted
    tc.open(source) | tc.write(tmp_path / "several", max_tensors=8)
    several = tc.open(tmp_path / "several") | tc.quantize("nvfp4")
    plan = tc.write(tmp_path / "p.safetensors", convention="neutral").plan(several)
    assert consume(Consumption(plan, Performance()), Performance(workers=1)).recoded == wanted


def test_joined_layers_have_one_scale(source, tmp_path):
    """modelopt joins q, k, v: their global scale is that of the largest exponent of all three."""
    for name, byte in zip(NAMES[:3], (135, 139, 137), strict=True):  # each has another one
        changed(source, f"{name}_scale", 5, byte)
    tc.open(source) | tc.quantize("nvfp4") | tc.write(tmp_path / "o", convention="modelopt", lossless=True)
    (out,) = (tmp_path / "o").glob("*.safetensors")
    places, content = load_file_raw(out), out.read_bytes()
    scales = [np.frombuffer(content, "<f4", 1, places[f"{name}_scale_2"])[0] for name in NAMES[:3]]
    assert len(set(scales)) == 1
    mx = load_file_raw(source)
    data = source.read_bytes()
    tops = []
    for name in NAMES[:3]:
        begin = mx[f"{name}_scale"]
        tops.append(max(data[begin : begin + 256 * 4]))
    assert scales[0] == 2.0 ** (max(tops) - 127 - 8)


def test_what_is_out_of_range_is_counted_or_refused(source, tmp_path):
    changed(source, f"{NAMES[0]}_scale", 5, 20)
    flow = tc.open(source) | tc.quantize("nvfp4")
    report = flow | tc.write(tmp_path / "o.safetensors", convention="neutral")
    exact, blocks = report.recoded[NAMES[0]]
    assert (exact, blocks) == (256 * 8 - 2, 256 * 8)
    assert "of 16,384 blocks of 8 tensors" in report.kept_blocks
    assert report.changed_blocks == [f"  {NAMES[0]}: 2 of 2,048 blocks rounded anew"]
    assert report.changed_blocks[0] in str(report)
    with pytest.raises(DataError, match=r"would lose: scales at row 1 are too small"):
        flow | tc.write(tmp_path / "p.safetensors", convention="neutral", lossless=True)
    assert not (tmp_path / "p.safetensors").exists()


def test_what_stays_as_nobody_asked_is_said(source, tmp_path):
    notes = [note.text for note in tc.write(tmp_path / "o.safetensors").plan(tc.open(source)).log.notes]
    assert any(
        "as they are stored: 8 tensors of U8" in text or "8 tensors of F4" in text for text in notes
    ), notes
    asked = tc.open(source) | tc.dequantize("BF16")
    assert not any(
        "as they are stored" in note.text
        for note in tc.write(tmp_path / "o.safetensors").plan(asked).log.notes
    )


@pytest.mark.parametrize("scheme", ["nvfp4", "mxfp8"])
def test_a_scale_that_is_nan_stops_the_run(scheme, source, tmp_path):
    changed(source, f"{NAMES[1]}_scale", 7, 255)
    with pytest.raises(DataError, match="a scale is NaN"):
        tc.open(source) | tc.quantize(scheme) | tc.write(tmp_path / "o.safetensors", convention="neutral")


def test_options_of_a_search_do_nothing(source, tmp_path):
    flow = tc.open(source) | tc.quantize("nvfp4", optimize="mse")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors", convention="neutral"))
    assert any("optimize does nothing for 8 tensors" in str(one) for one in plan.log.warnings)
    notes = "; ".join(map(str, plan.log.notes))
    assert "8 tensors: the codes of mxfp4 become those of nvfp4" in notes


def test_lossless_refuses_while_planning(source, tmp_path):
    write = tc.write(tmp_path / "o.safetensors", convention="neutral", lossless=True)
    plain = tc.open(tmp_path / "plain.safetensors")
    with pytest.raises(PlanError, match="would lose: it is encoded as int8, and so do 7 others"):
        (plain | tc.quantize("int8")).plan(write)
    with pytest.raises(PlanError, match="would lose: BF16 is cast to F16"):
        (plain | tc.cast("F16")).plan(write)
    (plain | tc.cast("F32")).plan(write)
    (tc.open(source) | tc.dequantize("BF16")).plan(write)  # powers of two
    with pytest.raises(PlanError, match="would lose: it is encoded as int4"):
        (tc.open(source) | tc.quantize("int4", group_size=32)).plan(write)
    tc.open(source) | tc.quantize("mxfp8") | write
    assert not list(tmp_path.glob("o.safetensors.*"))


@pytest.mark.parametrize(
    ("scheme", "between"),
    [
        ("mxfp4", tc.dequantize("BF16")),
        ("mxfp4", tc.quantize("nvfp4")),
        ("mxfp4", tc.quantize("mxfp8")),
        ("fp8", tc.dequantize("F32")),
        ("int4", tc.quantize("int8", granularity="group", group_size=32)),
        ("nvfp4", tc.dequantize("F32")),
    ],
    ids=str,
)
def test_lossless_back_from_what_is_wider(scheme, between, tmp_path):
    """Encoded, decoded again and compared as it is written; a single value that is none of it is an error."""
    rng = np.random.default_rng(1)
    plain = (rng.standard_normal((64, 128)) * 2.0 ** rng.integers(-3, 4, (64, 1))).astype(ml_dtypes.bfloat16)
    save_file({NAMES[0]: plain}, tmp_path / "plain.safetensors")
    paths = [tmp_path / f"{name}.safetensors" for name in ("narrow", "wide", "back")]
    again = tc.quantize(scheme, group_size=32) if scheme == "int4" else tc.quantize(scheme)
    tc.open(tmp_path / "plain.safetensors") | again | tc.write(paths[0], convention="neutral")
    tc.open(paths[0]) | between | tc.write(paths[1], convention="neutral", lossless=True)
    tc.open(paths[1]) | again | tc.write(paths[2], convention="neutral", lossless=True)
    before, after = values(paths[0]), values(paths[2])
    assert np.array_equal(before[NAMES[0]], after[NAMES[0]])
    if str(between).startswith("dequantize"):
        dtype = ml_dtypes.bfloat16 if "BF16" in str(between) else np.float32
        wide = before[NAMES[0]].astype(dtype)
        wide[50, 3] = wide[50, 3] * dtype(1.01) + dtype(0.01)
        save_file({NAMES[0]: wide}, paths[1])
        flow = tc.open(paths[1]) | again
        with pytest.raises((DataError, PlanError), match=f"would lose: .*{scheme}"):
            flow | tc.write(tmp_path / "no.safetensors", convention="neutral", lossless=True, tile=2048)
        assert not (tmp_path / "no.safetensors").exists()


def test_a_decoded_value_that_the_dtype_lacks_is_an_error(source, tmp_path):
    changed(source, f"{NAMES[2]}_scale", 0, 60)  # below the least of F16
    flow = tc.open(source) | tc.dequantize("F16")
    with pytest.raises(DataError, match=r"would lose: a value at row 0 is none of F16"):
        flow | tc.write(tmp_path / "o.safetensors", lossless=True)
    flow | tc.write(tmp_path / "o.safetensors")
