"""How far a run is, in words: for the command line, for Python callers, for notebooks."""

from __future__ import annotations

from ..core.text import duration, size
from .execute import Progress

__all__ = ["ONCE", "figures", "title"]

ONCE = {
    "compile": "compiling kernels (first time on this machine)",
    "resume": "going on where an interrupted run stopped",
    "unfinished": "uploads that did not end lie there, unseen and paid for: aws s3api list-multipart-uploads"
    " names them, abort-multipart-upload drops one",
    "anew": "what a killed run of this plan had done is done anew: it was not asked to resume",
    "parts": "parts of the same destination that were never joined lie beside it, as .DST.transcode-parts, or"
    " in it, as .transcode-parts: this run has no use for them; if nobody else has, remove them",
}
"""What is said in a line of its own, once, of stages that are no part of the work."""

_STAGES = {
    **ONCE,
    "rehearse": "looking whether all can be converted, before anything is deleted",
    "convert": "converting",
    "checksums": "computing checksums",
    "sync": "flushing to disk",
}

_TELLING = 1.0
"""Seconds after which the bytes that were dealt with tell how fast it goes."""


def title(now: Progress) -> str:
    """What is going on."""
    return _STAGES.get(now.stage, now.stage)


def figures(now: Progress) -> list[str]:
    """How far it is, how fast it goes, and how long it takes still; what is not known is left out."""
    share = f"{100 * now.done // now.total} %" if now.total else ""
    if now.stage not in ("convert", "rehearse"):
        return [share] if share and now.stage not in _STAGES else []
    parts = [f"{size(now.done)} of {size(now.total)}"]
    if share:
        parts.insert(0, share)
    if now.seconds >= _TELLING and now.done:
        rate = now.done / now.seconds
        parts.append(f"{size(rate)}/s")
        if now.done < now.total:
            parts.append(f"{duration(max((now.total - now.done) / rate, 1))} left")
    return parts
