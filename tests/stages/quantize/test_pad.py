"""Matrices filled up with zeros: against NumPy, whatever is read at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import transcode as tc
from transcode.core.context import Context
from transcode.stages.quantize.pad import pad_tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (5, 16), (8, 7), (5, 7), (64, 9)])
@pytest.mark.parametrize("step", [1, 3, 64])
def test_zeros_below_and_to_the_right(dtype, rows, columns, step, save):
    values = (torch.arange(35).reshape(5, 7) + 1).to(dtype)
    tensor = pad_tensor(tc.open(save({"w": values}))["w"], rows, columns)
    assert tensor.spec.shape == (rows, columns)
    raw = values.view(torch.int16).numpy() if dtype is torch.bfloat16 else values.numpy()
    want = np.pad(raw, ((0, rows - 5), (0, columns - 7))).view(np.uint8).reshape(rows, -1)
    scratch = Context()
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        scratch.reset()
        for array in (scratch.take((rows, 2 * columns), np.uint32), scratch.take((7,), np.uint8)):
            array.fill(0xA5)  # what an earlier tile left
        scratch.reset()
        (piece,) = tensor.read(start, stop, scratch)
        got = piece.data.view(np.uint8).reshape(stop - start, -1)
        np.testing.assert_array_equal(got, want[start:stop])
        assert piece.offset == start * want.shape[1]
