"""``python -m deepcompressor.backend.nunchaku.convert``, as ``transcode nunchaku convert``.

An output that exists is replaced, as it was there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .command import call

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.nunchaku.convert", description=__doc__)
    parser.add_argument("--quant-path", required=True, help="folder of the quantization checkpoint")
    parser.add_argument("--output-root", default="", help="where to write; --quant-path without it")
    parser.add_argument("--model-name", help="such as flux.1-dev; the last part of --model-path without it")
    parser.add_argument("--float-point", action="store_true", help="4-bit floating point")
    parser.add_argument("--add-metadata", action="store_true", help="embed config.json")
    parser.add_argument("--config-yaml", help="the model's configuration")
    parser.add_argument("--model-path", help="folder of the model")
    given = parser.parse_args(argv)
    name = given.model_name or (Path(given.model_path).name if given.model_path else None)
    if not name:
        parser.error("--model-name or --model-path is required")
    words = ["--quant-path", given.quant_path, "--model-name", name]
    if given.output_root:
        words += ["--output-root", given.output_root]
    if given.float_point:
        words.append("--float-point")
    if given.add_metadata:
        words.append("--add-metadata")
        for flag, value in (("--config-yaml", given.config_yaml), ("--model-path", given.model_path)):
            words += [flag, value] if value else []
    return call("nunchaku", "convert", words, "--force")


if __name__ == "__main__":
    sys.exit(main())
