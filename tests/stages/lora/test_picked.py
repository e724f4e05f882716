"""Some of a small matrix."""

import numpy as np
from safetensors.numpy import save_file

import transcode as tc
from transcode.stages.lora.picked import Cut, Some, picked


def test_it_is_what_numpy_picks(tmp_path):
    values = np.arange(30, dtype=np.float32).reshape(5, 6)
    save_file({"a": values}, tmp_path / "a.safetensors")
    tensor = dict(tc.open(tmp_path / "a.safetensors").items())["a"]
    assert (
        picked(tensor, rows=Cut(1, 4), columns=Cut(0, None, 2)).numpy().tolist() == values[1:4, ::2].tolist()
    )
    some = picked(tensor, rows=Some((4, 0)), columns=Some((5, 1, 2)), turned=True)
    assert some.numpy().tolist() == values[[4, 0]][:, [5, 1, 2]].T.tolist()
    assert some.spec.shape == (3, 2)
