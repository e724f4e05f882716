"""Digests of files whose bytes pass by: as hashlib has them of the whole."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc
from transcode.execution.flowing import Flowing


@pytest.mark.parametrize("piece", [7, 1000, 1 << 20])
def test_pieces_of_any_length(piece, tmp_path):
    tensors = {"a": np.arange(7, dtype=np.int8), "none": np.zeros(0, np.float32), "b": np.arange(50.0)}
    save_file(tensors, tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    plan = (tc.open(tmp_path / "in.safetensors") | tc.write(out)).plan
    content, flowing = out.read_bytes(), Flowing(plan.files[0])
    for begin in range(0, len(content), piece):
        flowing.take(bytearray(content[begin : begin + piece]))
    assert flowing.file == sha256(content).hexdigest()
    assert flowing.tensors == {name: sha256(array.tobytes()).hexdigest() for name, array in tensors.items()}
