"""The scale of a whole tensor is a positive number wherever it is read."""

from __future__ import annotations

import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc
from tests.files import raw
from transcode.errors import DataError

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    "convention", ["modelopt", "compressed_tensors", "comfyui", "lightx2v", "torchao", "neutral"]
)
def test_a_scale_of_a_whole_tensor_that_scales_nothing(convention, tmp_path):
    plain = np.random.default_rng(0).standard_normal((128, 64)).astype(ml_dtypes.bfloat16)
    save_file({NAME: plain}, tmp_path / "plain.safetensors")
    folder = tmp_path / "q"
    tc.open(tmp_path / "plain.safetensors") | tc.quantize("nvfp4") | tc.write(folder, convention=convention)
    (path,) = folder.glob("*.safetensors")
    (scale,) = (one for one, (dtype, shape, _) in raw(folder).items() if dtype == "F32" and len(shape) < 2)
    right = raw(folder)[scale][2]
    content = path.read_bytes()
    at = content.rindex(right)
    other = "neutral" if convention != "neutral" else "comfyui"
    ways = (([tc.quantize("mxfp8")], "neutral"), ([tc.dequantize("BF16")], "plain"), ([], other))
    out = tmp_path / "o.safetensors"
    for number in (float("inf"), float("nan"), 0.0, -1.0):
        path.write_bytes(content[:at] + struct.pack("<f", number) + content[at + 4 :])
        for steps, target in ways:
            flow = tc.open(folder)
            for step in steps:
                flow |= step
            with pytest.raises(DataError, match=f"{scale}: is the scale of a whole tensor, and {number}"):
                flow | tc.write(out, convention=target)
            assert not out.exists()
    flow = tc.open(folder) | tc.dequantize("F32", on_nonfinite="keep")
    assert np.abs(flow[NAME].numpy()).max() > 100  # what is scaled by -1 alone
