"""Pairs without the ranks that add nothing."""

import numpy as np
from safetensors.numpy import save_file

import transcode as tc
from transcode.stages.lora.ranks import of_ranks, used


def roles(tmp_path, up, **more):
    """A pair; down has rows 1, 2, 3 ..."""
    down = np.repeat(np.arange(1, up.shape[1] + 1, dtype=np.float32)[:, None], 5, 1)
    save_file({"up": np.asarray(up, np.float32), "down": down, **more}, tmp_path / "pair.safetensors")
    return dict(tc.open(tmp_path / "pair.safetensors").items())


def test_columns_of_zeros_go_with_their_rows(tmp_path):
    pair = roles(tmp_path, np.array([[0, 1, 0, 2], [0, 0, -0.0, 3]]))
    assert used(pair) == [1, 3]
    less, alpha = of_ranks(pair, [1, 3], 6.0)
    assert less["up"].numpy().tolist() == [[1, 2], [0, 3]]
    assert less["down"].numpy()[:, 0].tolist() == [2, 4]
    assert alpha == 3.0


def test_what_counts_otherwise_stays(tmp_path):
    pair = roles(tmp_path, np.array([[0, 1.0, 1.0]]))
    assert of_ranks(pair, [0, 1, 2], 3.0) == (pair, 3.0)
    scaled = roles(tmp_path, np.zeros((2, 2)), scale=np.ones((2, 1), np.float32))
    assert used(scaled) == [0, 1]
