"""The files of DeepCompressor's folder."""

from __future__ import annotations

__all__ = ["BRANCH", "MODEL", "SCALE", "SMOOTH"]

MODEL, SCALE, SMOOTH, BRANCH = "model.pt", "scale.pt", "smooth.pt", "branch.pt"
"""What each holds is told in :mod:`.reading`; the first two are always there."""
