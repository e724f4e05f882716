"""Saying which command of transcode means the same, and running it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from transcode.cli import main

__all__ = ["call"]


def call(*args: str | Sequence[str]) -> int:
    """Print a command of transcode and run it. Returns the exit code; lists among the words are flattened."""
    words = [word for arg in args for word in ([arg] if isinstance(arg, str) else arg)]
    print(f"transcode {shlex.join(words)}", flush=True)
    try:
        main(words)
    except SystemExit as exited:
        return exited.code if isinstance(exited.code, int) else 0
    return 0
