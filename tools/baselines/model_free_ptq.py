"""Drive llm-compressor's ``model_free_ptq`` (FP8_DYNAMIC, CPU) over a Wan checkpoint, to be measured against.

It runs in an environment of its own, whose torch is installed first so that it stays the CPU build:

    python -m venv llmc && llmc/bin/pip install torch==2.13.0 && llmc/bin/pip install llmcompressor
    llmc/bin/python tools/baselines/model_free_ptq.py SRC DST --workers 2

SRC is a file, or a folder of shards with its index; a file is shown to it as a model folder by a link. It
quantizes what ``transcode run --scheme fp8`` does: the matrices of attention and feed-forward in the blocks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

IGNORE = [r"re:^(?!blocks\.\d+\.(self_attn|cross_attn|ffn)\.).*", r"re:.*\.norm_\w+$"]


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("src", type=Path)
    parser.add_argument("dst", type=Path, help="folder to write")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    from llmcompressor import model_free_ptq

    with tempfile.TemporaryDirectory() as name:
        source = options.src
        if source.is_file():
            source = Path(name)
            (source / "model.safetensors").symlink_to(options.src.resolve())
            (source / "config.json").write_text("{}\n")
        model_free_ptq(
            model_stub=str(source),
            save_directory=str(options.dst),
            scheme="FP8_DYNAMIC",
            ignore=IGNORE,
            max_workers=options.workers,
            device="cpu",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
