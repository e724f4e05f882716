"""``python -m deepcompressor.backend.nunchaku.validate_metadata``, as ``transcode meta``.

A file that nunchaku could not load does not pass, where the old tool only asked for metadata of any kind.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from transcode.containers.safetensors.header import read
from transcode.errors import TranscodeError

from .command import call

__all__ = ["compare_metadata", "load_safetensors_metadata", "main", "validate_metadata"]


def load_safetensors_metadata(safetensors_path: str) -> dict[str, str]:
    """The file's metadata; empty, with a word about why, where it cannot be read."""
    try:
        return dict(read(safetensors_path).metadata)
    except (TranscodeError, OSError) as error:
        print(f"Error loading metadata from {safetensors_path}: {error}")
        return {}


def validate_metadata(safetensors_path: str, verbose: bool = False) -> bool:
    """Whether the file holds what nunchaku reads; with ``verbose`` its metadata is printed too."""
    if verbose:
        call("meta", "get", safetensors_path)
    return call("meta", "validate", safetensors_path, "--profile", "nunchaku") == 0


def compare_metadata(file1_path: str, file2_path: str) -> None:
    """Print in what the metadata of two files differs."""
    call("meta", "diff", file1_path, file2_path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.nunchaku.validate_metadata", description=__doc__)
    parser.add_argument("safetensors_path", metavar="FILE")
    parser.add_argument("--verbose", "-v", action="store_true", help="print the metadata")
    parser.add_argument(
        "--compare", default="", metavar="FILE2", help="also tell in what another file differs"
    )
    given = parser.parse_args(argv)
    passed = validate_metadata(given.safetensors_path, given.verbose)
    if given.compare:
        compare_metadata(given.safetensors_path, given.compare)
    print("Validation completed successfully!" if passed else "Validation failed!")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
