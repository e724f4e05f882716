"""Parts as they are stored: every layout by a formula of the test, or as the consumer's own code reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode import catalog
from transcode.consumers.declared import Declared
from transcode.consumers.group import Names, readings
from transcode.consumers.spell import canonical
from transcode.errors import DataError, PlanError, RecipeError

WAYS = [{"workers": 1}, {"workers": 3, "tile": 1}, {"workers": 2, "tile": 5000}]
"""One tile, and many: what a tile of rows does to an offset shows only from the second on."""


def values(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=draw) * torch.logspace(-2, 1, rows)[:, None]


@pytest.fixture
def convention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a convention of one's own for one scheme: ``convention(scheme, codes="{...}", scale=...)``."""
    folder = tmp_path / "formats" / "conventions"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TRANSCODE_FORMATS", str(folder.parent))
    made = 0

    def make(scheme: str, **parts: str) -> str:
        nonlocal made
        made += 1
        name = f"mine{made}"
        lines = [f"convention: {name}", "title: mine", "schemes:", f"  {scheme}:", "    parts:"]
        lines += [f"      {role}: {{name: '{{name}}.{role}'{rule}}}" for role, rule in parts.items()]
        (folder / f"{name}.yaml").write_text("\n".join([*lines, "files: {}", ""]))
        return name

    return make


def written(x: torch.Tensor, scheme: str, convention: str, save, tmp_path: Path, way, **options):
    """What is stored of a tensor ``w.weight``, and the scheme's own parts of it."""
    flow = tc.open(save({"w.weight": x}, "in/model.safetensors")) | tc.quantize(
        scheme, include=["w"], **options
    )
    out = tmp_path / "o.safetensors"
    report = flow | tc.write(out, convention=convention, force=True, **way)
    (tensor,) = (t for t in report.plan.tensors if t.name == "w.weight")
    assert tensor.scheme is not None
    own = next(iter(flow))
    return load_file(out), {part.role: own.numpy(part.role) for part in own.parts}


def as_bytes(tensor: Any) -> np.ndarray:
    array = tensor.flatten().view(torch.uint8).numpy() if isinstance(tensor, torch.Tensor) else tensor
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def tiled(scales: np.ndarray) -> np.ndarray:
    """Scales ``[R, C]`` in tiles of 128 by 4: cuBLAS documentation, "1D block scaling factors layout"."""
    rows, columns = scales.shape
    high, wide = -(-rows // 128) * 128, -(-columns // 4) * 4
    out = np.zeros(high * wide, np.uint8)
    for m in range(rows):
        for k in range(columns):
            tile = (m // 128) * (wide // 4) + k // 4
            out[tile * 512 + (m % 32) * 16 + (m % 128) // 32 * 4 + k % 4] = scales[m, k]
    return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("scheme", "shape", "block"),
    [
        ("mxfp8", (300, 160), 32),  # 5 columns of scales are padded to 8, 300 rows to 384
        ("mxfp4", (256, 224), 32),  # 7 columns to 8, and no row
        ("nvfp4", (288, 160), 16),  # 10 columns to 12
        ("nvfp4", (130, 16), 16),  # 1 column to 4
        ("mxfp6", (131, 128), 32),  # 4 columns, and 125 rows of padding
    ],
)
def test_swizzled_scales_lie_where_the_hardware_looks(scheme, shape, block, way, convention, save, tmp_path):
    rules = {"codes": ", dtype: U8", "scale": ", dtype: U8, layout: swizzled", "global_scale": ""}
    mine = convention(scheme, **{r: rules[r] for r in rules if r != "global_scale" or scheme == "nvfp4"})
    stored, own = written(values(*shape), scheme, mine, save, tmp_path, way)
    scales = own["scale"].view(np.uint8)
    assert scales.shape == (shape[0], shape[1] // block)
    found = stored["w.weight.scale"]
    assert list(found.shape) == [-(-shape[0] // 128) * 128, -(-scales.shape[1] // 4) * 4]
    np.testing.assert_array_equal(as_bytes(found), tiled(scales))


@pytest.mark.parametrize("way", WAYS)
def test_nvfp4_of_comfyui_is_what_comfyui_decodes(way, save, tmp_path):
    """comfy_kitchen's own decoder, given the file's tensors alone, must return the weight."""
    eager = pytest.importorskip("comfy_kitchen.backends.eager.quantization")
    x = values(288, 160)
    stored, own = written(x, "nvfp4", "comfyui", save, tmp_path, way)
    out = eager.dequantize_nvfp4(
        stored["w.weight"].view(torch.uint8),
        stored["w.weight_scale_2"],
        stored["w.weight_scale"].view(torch.float8_e4m3fn),
        torch.float32,
    )
    # Rows stand apart by their size: each must be near, which one nibble in the wrong half is not.
    noise = (out - x).norm(dim=1) / x.norm(dim=1)
    assert noise[x.abs().amax(1) > x.abs().max() / 50].max() < 0.2
    steps = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    low, high = own["codes"].reshape(288, 80) & 15, own["codes"].reshape(288, 80) >> 4
    codes = np.stack([steps[low], steps[high]], -1).reshape(288, 160)  # the scheme: even column low
    unit = np.repeat(own["scale"].view(np.uint8), 16, 1)
    unit = torch.from_numpy(unit).view(torch.float8_e4m3fn).float().numpy() / own["global_scale"]
    np.testing.assert_allclose(out.numpy(), codes * unit, rtol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_mxfp8_of_comfyui_is_what_comfyui_decodes(way, save, tmp_path):
    eager = pytest.importorskip("comfy_kitchen.backends.eager.quantization")
    x = values(288, 160)
    stored, _ = written(x, "mxfp8", "comfyui", save, tmp_path, way)
    out = eager.dequantize_mxfp8(
        stored["w.weight"], stored["w.weight_scale"].view(torch.float8_e8m0fnu), torch.float32
    )
    assert ((out - x).norm(dim=1) / x.norm(dim=1)).max() < 0.05


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [16, 45, 203])
def test_int4_of_compressed_tensors_is_what_compressed_tensors_decodes(rows, way, save, tmp_path):
    packed = pytest.importorskip("compressed_tensors.compressors")
    unpack = _unpack(packed)
    x = values(rows, 256)
    stored, own = written(
        x, "int4", "compressed_tensors", save, tmp_path, way, symmetric=False, group_size=128
    )
    codes = unpack(stored["w.weight_packed"], 4, torch.Size([rows, 256]))
    zeros = unpack(stored["w.weight_zero_point"], 4, torch.Size([rows, 2]), packed_dim=0)
    scale = stored["w.weight_scale"]
    assert list(scale.shape) == [rows, 2]
    assert stored["w.weight_shape"].tolist() == [rows, 256]
    wide = [t.float().repeat_interleave(128, 1) for t in (zeros, scale)]
    out = (codes.float() - wide[0]) * wide[1]
    step = wide[1]
    assert ((out - x).abs() <= step * 0.51 + 1e-6).all()
    np.testing.assert_array_equal(zeros.numpy(), own["zero_point"])


def test_scales_of_either_sign_are_what_compressed_tensors_multiplies_by(save, tmp_path):
    """Its own code decodes ours to the bit; and loses less than with any scale above zero."""
    packed = pytest.importorskip("compressed_tensors.compressors")
    unpack = _unpack(packed)
    x = values(24, 256)
    losses = []
    for optimize in ("mse", "signed"):
        stored, own = written(
            x, "int4", "compressed_tensors", save, tmp_path, {}, group_size=128, optimize=optimize
        )
        scale = stored["w.weight_scale"]
        out = unpack(stored["w.weight_packed"], 4, torch.Size([24, 256])) * scale.repeat_interleave(128, 1)
        losses.append((out - x).square().sum().item())
        np.testing.assert_array_equal(scale.numpy(), own["scale"])
        assert (scale < 0).any().item() == (optimize == "signed")
    back = tc.open(tmp_path / "o.safetensors") | tc.dequantize("f32")
    (whole,) = (tensor for tensor in back if tensor.name == "w.weight")
    np.testing.assert_array_equal(whole.numpy(), out.numpy())
    assert losses[1] < 0.97 * losses[0]


def _unpack(package: Any) -> Any:
    from importlib import import_module

    for name in ("pack_quantized.helpers", "quantized_compressors.pack_quantized", "pack_quantized.base"):
        try:
            return import_module(f"{package.__name__}.{name}").unpack_from_int32
        except (ImportError, AttributeError):
            continue
    pytest.skip("this compressed-tensors has no unpack_from_int32 that is known")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["mxfp4", "nvfp4"])
def test_high_first_swaps_the_nibbles_of_every_byte(scheme, way, convention, save, tmp_path):
    parts = {"codes": ", dtype: U8, packing: high_first", "scale": ""}
    if scheme == "nvfp4":
        parts["global_scale"] = ""
    stored, own = written(values(37, 256), scheme, convention(scheme, **parts), save, tmp_path, way)
    codes = as_bytes(own["codes"])
    assert (codes >> 4 != codes & 15).any()
    np.testing.assert_array_equal(as_bytes(stored["w.weight.codes"]), codes >> 4 | (codes & 15) << 4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("scheme", "offset"), [("int8", 128), ("int4", 8)])
def test_offsets_make_codes_unsigned(scheme, offset, way, convention, save, tmp_path):
    mine = convention(scheme, codes=f", dtype: U8, offset: {offset}", scale="")
    stored, own = written(values(37, 256), scheme, mine, save, tmp_path, way)
    raw = as_bytes(own["codes"]).astype(int)
    if offset == 128:
        want = (raw + 128) % 256
    else:
        want = ((raw & 15) + 8) % 16 | (((raw >> 4) + 8) % 16) << 4
    np.testing.assert_array_equal(as_bytes(stored["w.weight.codes"]), want)


@pytest.mark.parametrize("way", WAYS)
def test_a_reciprocal_and_a_shape_of_the_one_scale(way, convention, save, tmp_path):
    mine = convention("nvfp4", codes="", scale="", global_scale=", reciprocal: true")
    x = values(37, 64)
    stored, own = written(x, "nvfp4", mine, save, tmp_path, way)
    assert own["global_scale"] == np.float32(2688) / x.abs().max().numpy()
    assert stored["w.weight.global_scale"].shape == ()
    assert stored["w.weight.global_scale"].numpy() == np.float32(1) / own["global_scale"]
    mine = convention("nvfp4", codes="", scale="", global_scale=", shape: [1, 1]")
    stored, own = written(x, "nvfp4", mine, save, tmp_path, way)
    assert list(stored["w.weight.global_scale"].shape) == [1, 1]
    assert stored["w.weight.global_scale"].numpy() == own["global_scale"]


@pytest.mark.parametrize("way", WAYS)
def test_combined_rules_of_one_tensor(way, convention, save, tmp_path):
    """Another dtype, a swizzle, swapped nibbles and a reciprocal at once, as each part has its own rule."""
    mine = convention(
        "nvfp4",
        codes=", dtype: U8, packing: high_first",
        scale=", dtype: U8, layout: swizzled",
        global_scale=", reciprocal: true, shape: [1]",
    )
    stored, own = written(values(300, 48), "nvfp4", mine, save, tmp_path, way)
    codes = as_bytes(own["codes"])
    np.testing.assert_array_equal(as_bytes(stored["w.weight.codes"]), codes >> 4 | (codes & 15) << 4)
    assert list(stored["w.weight.codes"].shape) == [300, 24]
    np.testing.assert_array_equal(as_bytes(stored["w.weight.scale"]), tiled(own["scale"].view(np.uint8)))
    assert stored["w.weight.global_scale"].tolist() == [np.float32(1) / own["global_scale"]]


def numbers4(own: np.ndarray, rows: int) -> np.ndarray:
    """Codes -8 to 7 of int4, ``[rows, K]``: the scheme has the even column low."""
    packed = own.reshape(rows, -1).view(np.uint8).astype(int)
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(rows, -1)
    return np.where(codes > 7, codes - 16, codes)


@pytest.mark.parametrize("way", WAYS)
def test_offset_and_order_are_both_done(way, convention, save, tmp_path):
    """The two were told apart by nobody: the second was dropped in silence."""
    mine = convention("int4", codes=", offset: 8, packing: high_first", scale="")
    stored, own = written(values(37, 256), "int4", mine, save, tmp_path, way)
    unsigned = numbers4(own["codes"], 37) + 8
    np.testing.assert_array_equal(
        as_bytes(stored["w.weight.codes"]).reshape(37, 128), unsigned[:, 0::2] * 16 + unsigned[:, 1::2]
    )


AWQ = [0, 2, 4, 6, 1, 3, 5, 7]
"""AutoAWQ, ``awq/utils/packing_utils.py``: the column that each nibble of a word holds."""

PACKINGS = {
    "gptq": (
        "{codec: offset, by: 8}, {codec: view, dtype: I32}, transposed",
        lambda codes: sum(codes.T[i::8].astype(np.int64) << 4 * i for i in range(8)),  # [K / 8, N]
        np.uint32,
    ),
    "awq": (
        "{codec: offset, by: 8}, {codec: transposed, of: nibbles}, {codec: view, dtype: I32},"
        " {codec: nibbles, order: awq}",
        lambda codes: sum(codes.T[:, AWQ[i] :: 8].astype(np.int64) << 4 * i for i in range(8)),  # [K, N / 8]
        np.uint32,
    ),
    # Two rows in a byte, the even one low (ModelOpt, quant_utils.py), here unsigned.
    "modelopt": (
        "{codec: offset, by: 8}, {codec: transposed, of: nibbles}, transposed",
        lambda codes: codes[0::2] + 16 * codes[1::2],  # [N / 2, K]
        np.uint8,
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("packing", PACKINGS)
def test_transposed_packings(packing, way, convention, save, tmp_path):
    codecs, formula, kind = PACKINGS[packing]
    mine = convention(
        "int4",
        codes=f", codecs: [{codecs}]",
        scale=", codecs: [transposed]",
        zero_point=", codecs: [{codec: rows_int32}, transposed]",
    )
    stored, own = written(values(40, 512), "int4", mine, save, tmp_path, way, symmetric=False)
    wanted = formula(numbers4(own["codes"], 40) + 8).astype(kind)
    assert list(stored["w.weight.codes"].shape) == list(wanted.shape)
    np.testing.assert_array_equal(as_bytes(stored["w.weight.codes"]), as_bytes(wanted))
    assert list(stored["w.weight.scale"].shape) == [8, 40]
    np.testing.assert_array_equal(as_bytes(stored["w.weight.scale"]), as_bytes(own["scale"].T.copy()))
    zeros = own["zero_point"].reshape(5, 8, 8).astype(np.int64) + 8  # words, rows in a word, groups
    words = sum(zeros[:, i] << 4 * i for i in range(8)).T  # [K / 64, N / 8]
    np.testing.assert_array_equal(as_bytes(stored["w.weight.zero_point"]), as_bytes(words.astype(np.uint32)))
    # And it is read back: what comes out is what the scheme's own layout decodes to.
    plain = convention("int4", codes="", scale="", zero_point="")
    written(values(40, 512), "int4", plain, save, tmp_path, way, symmetric=False)
    (
        tc.open(tmp_path / "o.safetensors")
        | tc.dequantize("F32", convention=plain)
        | tc.write(tmp_path / "a.safetensors")
    )
    written(values(40, 512), "int4", mine, save, tmp_path, way, symmetric=False)
    (
        tc.open(tmp_path / "o.safetensors")
        | tc.dequantize("F32", convention=mine)
        | tc.write(tmp_path / "b.safetensors", **way)
    )
    assert torch.equal(
        load_file(tmp_path / "a.safetensors")["w.weight"], load_file(tmp_path / "b.safetensors")["w.weight"]
    )


@pytest.mark.parametrize("way", WAYS)
def test_scales_with_fewer_rows_than_the_tensor_are_transposed_whole(way, convention, save, tmp_path):
    """A scale to each block of 128 rows: a tile of the tensor has but a row of them."""
    mine = convention("fp8", codes="", scale=", codecs: [transposed]")
    options = {"granularity": "block", "block": [32, 32], "scale_dtype": "F32"}
    stored, own = written(values(300, 160), "fp8", mine, save, tmp_path, way, **options)
    assert own["scale"].shape == (10, 5)
    assert list(stored["w.weight.scale"].shape) == [5, 10]
    np.testing.assert_array_equal(as_bytes(stored["w.weight.scale"]), as_bytes(own["scale"].T.copy()))


@pytest.mark.parametrize(
    ("scheme", "codes", "said"),
    [
        ("int8", ", packing: high_first", r"nibbles is for F4 or U8 or I32 or U32, not for I8\[64,64\]"),
        ("int8", ", offset: 8", "offset 8 is for U8, not for I8"),
        ("int4", ", offset: 128", "offset 128 is for I8, not for U8"),
        ("int4", ", dtype: F4", None),
        ("fp8", ", dtype: F8_E5M2", "the same bytes are other numbers"),
        ("int8", ", split: 48", "cannot be split into runs of 48"),
        ("int4", ", reciprocal: true", "reciprocal is for F32"),
    ],
)
def test_what_makes_no_sense_of_a_scheme_is_refused(scheme, codes, said, convention, save, tmp_path):
    """Each was written, or dropped, without a word."""
    mine = convention(scheme, codes=codes, scale="")
    if said is None:  # a view of bytes as what they hold is one
        written(values(64, 64), scheme, mine, save, tmp_path, {})
        return
    with pytest.raises(PlanError, match=rf"w\.weight: .*{said}.*; choose"):
        written(values(64, 64), scheme, mine, save, tmp_path, {})
    assert not (tmp_path / "o.safetensors").exists()


def test_zero_points_of_more_than_four_bits_are_refused(convention, save, tmp_path):
    """Their upper bits went into the next row's."""
    mine = convention("int8", codes="", scale="", zero_point=", layout: packed_rows")
    with pytest.raises(DataError, match=r"w\.weight: its zero_point holds .*, rows_int32 holds -8 to 7"):
        written(values(64, 64) + 3, "int8", mine, save, tmp_path, {}, symmetric=False)
    assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize("squeeze", [True, False])
def test_a_last_axis_of_one_is_left_out_if_wanted(squeeze, convention, save, tmp_path):
    mine = convention("int8", codes="", scale=f", squeeze: {str(squeeze).lower()}")
    stored, own = written(values(37, 64), "int8", mine, save, tmp_path, WAYS[1], granularity="channel")
    assert list(stored["w.weight.scale"].shape) == ([37] if squeeze else [37, 1])
    np.testing.assert_array_equal(as_bytes(stored["w.weight.scale"]), as_bytes(own["scale"]))
    mine = convention("int8", codes="", scale=", squeeze: true")
    stored, _ = written(
        values(37, 64), "int8", mine, save, tmp_path, WAYS[1], granularity="group", group_size=32
    )
    assert list(stored["w.weight.scale"].shape) == [37, 2]


def test_stacks_have_no_swizzled_scales(convention, save, tmp_path):
    mine = convention("mxfp8", codes="", scale=", layout: swizzled")
    with pytest.raises(PlanError, match=r"w\.weight: the swizzled layout .* not those of 3-D stacks"):
        written(values(64, 64).reshape(2, 32, 64), "mxfp8", mine, save, tmp_path, {})
    assert not (tmp_path / "o.safetensors").exists()


def test_options_that_a_consumer_does_not_read_are_refused(save, tmp_path):
    flow = tc.open(save({"w.weight": values(64, 64)})) | tc.quantize("int8", symmetric=False)
    with pytest.raises(PlanError, match=r"w\.weight: lightx2v does not read int8 with symmetric=false"):
        flow.plan(tc.write(tmp_path / "o.safetensors", convention="lightx2v"))


ROUND = [
    ("mxfp8", (300, 160), {"scale": ", dtype: U8, layout: swizzled"}, {}),
    ("nvfp4", (288, 160), {"codes": ", dtype: U8, packing: high_first"}, {}),
    ("nvfp4", (288, 160), {"global_scale": ", reciprocal: true"}, {}),
    ("int8", (37, 64), {"codes": ", dtype: U8, offset: 128"}, {"granularity": "channel"}),
    ("int4", (45, 256), {"codes": ", dtype: I32, offset: 8"}, {"group_size": 128}),
    (
        "int4", (45, 256), {"zero_point": ", dtype: I32, layout: packed_rows"},
        {"symmetric": False, "group_size": 128},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "shape", "rules", "options"), ROUND)
def test_canonical_takes_off_what_spell_put_on(scheme, shape, rules, options, convention, save, tmp_path):
    roles = ["codes", "scale"]
    roles += ["global_scale"] if scheme == "nvfp4" else ["zero_point"] if "symmetric" in options else []
    mine = convention(scheme, **{role: rules.get(role, "") for role in roles})
    stored, own = written(values(*shape), scheme, mine, save, tmp_path, WAYS[1], **options)
    plan = tc.open(tmp_path / "o.safetensors")
    specs = {role: plan[f"w.weight.{role}"].spec for role in roles}
    rule = catalog.convention(mine)
    names = Names({f"w.weight.{role}": spec for role, spec in specs.items()})
    ((reading,),) = readings(names, rule, Declared()).values()
    assert reading.scheme.name == scheme
    assert reading.spec.shape == shape
    parts = {part.role: part for part in reading.scheme.parts(reading.spec)}
    for role in roles:
        carrier = specs[role].dtype.carrier
        raw = as_bytes(stored[f"w.weight.{role}"]).view(carrier)
        if not specs[role].dtype.packed:
            raw = raw.reshape(specs[role].shape)
        back = canonical(raw, role, reading.rules[role], parts[role])
        np.testing.assert_array_equal(as_bytes(back), as_bytes(own[role]), err_msg=role)


def test_parts_are_read_only_where_their_shapes_fit():
    rule = catalog.convention("lightx2v")
    from transcode.core.dtypes import DTYPES
    from transcode.core.spec import Spec

    fits = {"w.weight": Spec(DTYPES["I8"], (4, 64)), "w.weight_scale": Spec(DTYPES["F32"], (4, 1))}
    ((reading,),) = readings(Names(fits), rule, Declared()).values()
    assert (reading.scheme.name, reading.spec.shape) == ("int8", (4, 64))
    other = {**fits, "w.weight_scale": Spec(DTYPES["F32"], (5, 1))}
    assert not readings(Names(other), rule, Declared())


def test_a_part_without_a_place_is_refused(convention, save, tmp_path):
    mine = convention("int8", codes="", scale="")
    with pytest.raises(RecipeError, match=r"mine1 has no place for the zero_point of int8"):
        written(values(4, 64), "int8", mine, save, tmp_path, {}, symmetric=False)
