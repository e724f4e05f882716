"""What GPUs torch sees, and whether they work."""

from __future__ import annotations

import torch

__all__ = ["count", "free", "problem", "version"]


def count() -> int:
    """How many there are."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def version() -> str:
    """Torch's own version, which tells its build."""
    return str(torch.__version__)


def problem(name: str) -> str | None:
    """Why a GPU cannot be used, or None: found by using it."""
    try:
        # A sum, for an architecture that this build of torch has no code for fails at its first kernel.
        torch.ones(2, device=name).sum().item()
    except (RuntimeError, AssertionError) as error:  # a build without any GPU asserts
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    return None


def free() -> list[str]:
    """Those that work, the one with the most free memory first."""
    names = [name for name in (f"cuda:{index}" for index in range(count())) if problem(name) is None]
    return sorted(names, key=lambda name: -torch.cuda.mem_get_info(torch.device(name))[0])
