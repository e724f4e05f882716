"""A folder of two models that take turns is opened as both."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from transcode.containers.twins import open_models
from transcode.errors import FormatError


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": np.full(2, value, np.float32)}, path)


def twins(path):
    source = open_models(path)
    return [(twin.noise, twin.name, float(twin.source.tensors[0].numpy()[0])) for twin in source.twins]


def test_in_folders_with_what_serves_them_beside(tmp_path):
    save(tmp_path / "low_noise_model" / "model.safetensors", 2)
    save(tmp_path / "high_noise_model" / "model.safetensors", 1)
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"-")
    assert twins(tmp_path) == [("high", "high_noise_model", 1), ("low", "low_noise_model", 2)]
    source = open_models(tmp_path)
    assert [tensor.name for tensor in source.tensors] == ["high_noise_model/a", "low_noise_model/a"]
    assert source.notes[1] == "does not read Wan2.1_VAE.pth beside them"
    assert not open_models(tmp_path / "low_noise_model").twins


def test_as_files_where_no_other_is_meant(tmp_path):
    for number, name in enumerate(("wan_high_noise_fp8", "wan_low_noise_fp8", "umt5_xxl")):
        save(tmp_path / f"{name}.safetensors", number)
    assert twins(tmp_path) == [("high", "wan_high_noise_fp8", 0), ("low", "wan_low_noise_fp8", 1)]
    save(tmp_path / "flux.safetensors", 3)
    with pytest.raises(FormatError, match="point SRC at one of them"):
        open_models(tmp_path)
