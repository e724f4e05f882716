"""What llama.cpp answers of a GGUF file, in a process of its own: a fault of it ends the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["answer"]


def answer(code: str, file: Path, tokens: Sequence[int]) -> Any:
    """Run a program with a file and tokens as arguments; what it prints as JSON behind ``ANSWER``."""
    run = subprocess.run(
        [sys.executable, "-c", code, str(file), json.dumps(tokens)],
        capture_output=True, text=True, env=os.environ, check=False,
    )  # fmt: skip
    lines = [line for line in run.stdout.splitlines() if line.startswith("ANSWER ")]
    assert lines, run.stderr[-1500:]
    return json.loads(lines[0].removeprefix("ANSWER "))
