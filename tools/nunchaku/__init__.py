"""The command lines of DeepCompressor's nunchaku backend, as translations to transcode.

    python -m tools.nunchaku.convert --quant-path DIR --output-root DIR --model-name flux.1-dev [...]
    python -m tools.nunchaku.convert_enhanced --safetensors-path FILE --config-yaml YAML [--model-path DIR]
    python -m tools.nunchaku.validate_metadata FILE [--verbose] [--compare FILE2]

The functions that scripts import from there are here too, with the signatures and results that they had.
"""

import sys

# While `python -m` looks for a module, whose import by its package it warns of, this stands there.
if sys.argv[:1] != ["-m"]:
    from .convert_enhanced import (
        enhance_safetensors_with_config_metadata,
        load_config_json,
        prepare_metadata_from_config,
    )
    from .validate_metadata import load_safetensors_metadata, validate_metadata

__all__ = [
    "enhance_safetensors_with_config_metadata",
    "load_config_json",
    "load_safetensors_metadata",
    "prepare_metadata_from_config",
    "validate_metadata",
]
