"""What is written for Diffusers' BFL quantizer is decoded by it to the same values, and back."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import PlanError

bfl = pytest.importorskip("diffusers.quantizers.bfl.utils", reason="needs diffusers 0.42")
from diffusers.quantizers.bfl import BFLQuantizer  # noqa: E402

STEM = "double_blocks.0.img_attn.proj"
NAME = f"{STEM}.weight"


def weight() -> torch.Tensor:
    return torch.randn(64, 128, generator=torch.Generator().manual_seed(3)).bfloat16()


def source(folder, tensors):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


def theirs(path) -> torch.Tensor:
    """As its loader takes the tensors of a file, decoded in float32."""
    bundled = BFLQuantizer.maybe_update_state_dict(None, load_file(path))
    assert bundled.keys() == {NAME}
    return bfl._dequantize_weight(bundled[NAME])


def ours(path, out) -> torch.Tensor:
    tc.open(path) | tc.dequantize("F32") | tc.write(out)
    (file,) = out.glob("*.safetensors")
    return load_file(file)[NAME]


def test_rows_of_fp8_are_decoded_alike(tmp_path):
    path = source(tmp_path / "m", {NAME: weight()})
    tc.open(path) | tc.quantize("fp8") | tc.write(tmp_path / "q", convention="bfl")
    (written,) = (tmp_path / "q").glob("*.safetensors")
    parts = load_file(written)
    assert {name: (one.dtype, tuple(one.shape)) for name, one in parts.items()} == {
        NAME: (torch.float8_e4m3fn, (64, 128)),
        f"{NAME}_scale": (torch.float32, (64,)),
    }
    decoded = ours(written, tmp_path / "d")
    assert torch.equal(decoded, theirs(written))
    codes, scales = bfl.quantize_fp8r(weight())
    own = bfl.dequantize_fp8r(codes, scales)
    error = [(one - weight().float()).norm() for one in (decoded, own)]
    assert error[0] <= error[1] * 1.001


@pytest.mark.parametrize("kind", ["fp8r", "nvfp4"])
def test_what_it_makes_is_read_and_written_back(kind, tmp_path):
    if kind == "fp8r":
        codes, scales = bfl.quantize_fp8r(weight())
        parts = {NAME: codes, f"{NAME}_scale": scales}
    else:
        codes, scales, _ = bfl.quantize_nvfp4(weight())
        parts = {
            NAME: codes,
            f"{NAME}_scale": scales,
            f"{NAME}_scale_2": torch.tensor(2.0**-11),
            f"{STEM}.input_scale": torch.tensor(2.0**-8),
        }
    path = source(tmp_path / "m", parts)
    assert torch.equal(ours(path, tmp_path / "d"), theirs(path))
    tc.open(path) | tc.write(tmp_path / "b", convention="bfl")
    (written,) = (tmp_path / "b").glob("*.safetensors")
    back = load_file(written)
    assert back.keys() == parts.keys()
    assert all(
        back[name].reshape(-1).view(torch.uint8).equal(one.reshape(-1).view(torch.uint8))
        for name, one in parts.items()
    )


def test_nvfp4_needs_scales_of_inputs(tmp_path):
    path = source(tmp_path / "m", {NAME: weight()})
    flow = tc.open(path) | tc.quantize("nvfp4")
    with pytest.raises(PlanError, match="does not read nvfp4 without its input_global_scale"):
        flow | tc.write(tmp_path / "q", convention="bfl")
    torch.save({"absmax": {NAME: torch.tensor(3.0)}}, tmp_path / "calib.pt")
    flow | tc.calibrate(tmp_path / "calib.pt") | tc.write(tmp_path / "q", convention="bfl")
    (written,) = (tmp_path / "q").glob("*.safetensors")
    # Theirs multiplies by what is stored, ours divides by its reciprocal: the last bit of float32 may differ.
    torch.testing.assert_close(ours(written, tmp_path / "d"), theirs(written), rtol=2.5e-7, atol=0)
    assert load_file(written)[f"{STEM}.input_scale"].item() == pytest.approx(3 / 2688, rel=1e-6)


def test_a_config_that_names_it_is_understood(tmp_path):
    path = source(
        tmp_path / "m", dict(zip((NAME, f"{NAME}_scale"), bfl.quantize_fp8r(weight()), strict=True))
    )
    said = {"quantization_config": {"quant_method": "bfl", "compute_dtype": "bfloat16"}}
    (path.parent / "config.json").write_text(json.dumps(said))
    tc.open(path.parent) | tc.dequantize("F32") | tc.write(tmp_path / "d")
    assert torch.equal(load_file(tmp_path / "d" / "model.safetensors")[NAME], theirs(path))
    assert "quantization_config" not in json.loads((tmp_path / "d" / "config.json").read_text())
