"""How far a run is, for Python callers: a bar in a notebook, a line that is written over on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO

from ..core.text import duration, printable
from .execute import Progress
from .figures import figures, title

__all__ = ["in_notebook", "watching"]

_EVERY = 0.25
"""Seconds between two looks."""

_WIDTH = 79

Watch = Callable[[Progress], None]


def in_notebook() -> bool:
    """Whether what is displayed goes to a notebook: IPython is there, and its shell is a kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def watching(wanted: bool | None, also: Watch | None) -> Iterator[Watch | None]:
    """Yields what is to be called with the progress of a run.

    Args:
        wanted: show it; None: in notebooks alone, where nobody else is told.
        also: somebody else who is told.
    """
    notebook = in_notebook()
    if not (wanted or (wanted is None and also is None and notebook)):
        yield also
        return
    view: _Notebook | _Line = _Notebook() if notebook else _Line(sys.stderr)
    began = last = time.monotonic()

    def watch(now: Progress) -> None:
        nonlocal last
        if also is not None:
            also(now)
        if (moment := time.monotonic()) - last >= _EVERY:
            last = moment
            view.show(now)

    try:
        yield watch
    except BaseException:
        view.end("failed")
        raise
    view.end(f"done in {duration(time.monotonic() - began)}")


def _described(now: Progress) -> str:
    how_far = ", ".join(figures(now))
    return printable(f"{title(now)}: {how_far}" if how_far else title(now))


class _Line:
    """A line on a terminal; on what is none, only how it ended."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._over = stream.isatty()

    def show(self, now: Progress) -> None:
        if self._over:
            self._stream.write(f"\r{_described(now)[:_WIDTH]:<{_WIDTH}}")
            self._stream.flush()

    def end(self, how: str) -> None:
        self._stream.write(f"\r{how:<{_WIDTH}}\n" if self._over else f"transcode: {how}\n")
        self._stream.flush()


class _Notebook:
    """An output of a cell, which is replaced."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, now: Progress) -> None:
        value = f' value="{now.done}" max="{now.total}"' if now.total else ""
        self._put(
            f'<progress style="width:50%"{value}></progress> {_escaped(_described(now))}',
            _described(now),
        )

    def end(self, how: str) -> None:
        if self._handle is not None:  # what was too short to show anything needs no end
            self._put(_escaped(how), how)

    def _put(self, html: str, text: str) -> None:
        display = import_module("IPython.display").display
        content = {"text/html": html, "text/plain": text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def _escaped(text: str) -> str:
    from html import escape  # notebooks alone want it

    return escape(text)
