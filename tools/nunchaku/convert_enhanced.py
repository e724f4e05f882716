"""``python -m deepcompressor.backend.nunchaku.convert_enhanced``, as ``transcode meta embed``.

A copy of the file as it was is kept beside it once, as ``FILE.backup``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from transcode.catalog.model_config import find_config
from transcode.catalog.profiles import profile
from transcode.consumers.config.svdquant import config_metadata
from transcode.containers.safetensors.splice import stringify
from transcode.core.dtypes import DTYPES, dtype
from transcode.core.small_json import read_object
from transcode.core.spec import Spec
from transcode.errors import TranscodeError

from .command import call

__all__ = [
    "enhance_safetensors_with_config_metadata",
    "load_config_json",
    "main",
    "prepare_metadata_from_config",
]

_MODEL_CLASS = "NunchakuFluxTransformer2dModel"


def load_config_json(model_path: str) -> dict[str, Any] | None:
    """The model's config.json, or None, with a word about why.

    Args:
        model_path: folder of the model, or its name on the hub, if it is cached here. In the folder:
            ``transformer/config.json``, ``config.json``, ``transformer.config.json``.
    """
    try:
        path, looked = find_config(None, model_path, None, profile("nunchaku").pipelines)
        if path is None:
            print(f"Warning: config.json not found in {looked}")
            return None
        found = read_object(path)
    except TranscodeError as error:
        print(f"Error loading config.json: {error}")
        return None
    print(f"Successfully loaded config.json from {path}")
    return found


def prepare_metadata_from_config(
    config_data: dict[str, Any], state_dict: Mapping[str, Any] | None = None, model_class: str = _MODEL_CLASS
) -> dict[str, str]:
    """The metadata of a config.json, just as DeepCompressor's fork prepares it.

    That is without the rank in ``quantization_config``, and with an empty ``comfy_config``, which its
    consumers refuse: :func:`enhance_safetensors_with_config_metadata` embeds both as they read them.

    Args:
        config_data: content of config.json.
        state_dict: tensors by name, of torch or numpy; FP8 among them tells FP4 from INT4.
        model_class: nunchaku's class.
    """
    specs = {name: _spec(tensor) for name, tensor in (state_dict or {}).items()}
    # Whatever the tensors are called, they count as quantized.
    specs[".qweight"] = Spec(DTYPES["I8"], (1, 1))
    made = config_metadata(config_data, specs, model_class, {})
    quantization = json.loads(made["quantization_config"])
    del quantization["rank"]
    made["quantization_config"] = json.dumps(quantization, separators=(",", ":"))
    return {key: stringify(value) for key, value in made.items()}


def _spec(tensor: Any) -> Spec:
    name = str(tensor.dtype)
    # Only whether it is one of the 8-bit floats matters.
    kind = DTYPES["F8_E4M3"] if "float8" in name else dtype("float32")
    return Spec(kind, tuple(tensor.shape))


def enhance_safetensors_with_config_metadata(
    safetensors_path: str, config_yaml_path: str, model_path_override: str | None = None
) -> bool:
    """Embed config.json into a file, in place; returns whether that was done.

    Args:
        safetensors_path: the file.
        config_yaml_path: configuration whose ``pipeline.path``, else ``pipeline.name``, tells the model.
        model_path_override: folder of the model instead.
    """
    if not os.path.exists(safetensors_path):
        print(f"Error: Safetensors file not found: {safetensors_path}")
        return False
    where = (
        ["--model-path", model_path_override] if model_path_override else ["--config-yaml", config_yaml_path]
    )
    return call("meta", "embed", safetensors_path, where, "--backup", "full") == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.nunchaku.convert_enhanced", description=__doc__)
    parser.add_argument("--safetensors-path", required=True, help="the file to enhance")
    parser.add_argument("--config-yaml", required=True, help="the model's configuration")
    parser.add_argument("--model-path", help="folder of the model, instead of what the configuration says")
    given = parser.parse_args(argv)
    done = enhance_safetensors_with_config_metadata(
        given.safetensors_path, given.config_yaml, given.model_path
    )
    print("Enhancement completed successfully!" if done else "Enhancement failed!")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
