"""Trying again: with pauses that grow, as long as the server asks for, and from where a stream broke off."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from ...core.paths import unsigned
from ...errors import FormatError
from .store import Changed, Facts, Fault, Store

__all__ = ["FIRST", "LONGEST", "TRIES", "fetch", "patiently"]

TRIES = 8
"""Attempts without a byte of progress before it is given up."""

FIRST = 0.5
"""Seconds of the first pause, about; each further one is twice as long."""

LONGEST = 60.0
"""Seconds of the longest pause. A server that asks for a longer one is asked no more."""

T = TypeVar("T")


class _Patience:
    """How often something failed since it last got on."""

    def __init__(self, url: str, ended: threading.Event | None = None) -> None:
        self._url = url
        self._ended = ended or threading.Event()
        self._failed = 0

    def refresh(self) -> None:
        """Something came."""
        self._failed = 0

    def wait(self, fault: Fault) -> None:
        """Pause before the next attempt. Raises FormatError if that would be too much."""
        self._failed += 1
        if self._failed >= TRIES:
            raise FormatError(
                f"cannot be read: {unsigned(str(fault))}, {TRIES} times",
                file=self._url,
                hint="try again later",
            ) from None
        # Spread, so that many readers that were sent away do not come back at one time.
        pause = FIRST * 2 ** (self._failed - 1) * random.uniform(0.5, 1)
        if fault.wait is not None and fault.wait > LONGEST:
            raise FormatError(
                f"cannot be read: {unsigned(str(fault))}",
                file=self._url,
                hint=f"it asks to wait {fault.wait:.0f} seconds: try again then",
            )
        if self._ended.wait(min(max(pause, fault.wait or 0), LONGEST)):
            raise FormatError("reading was given up", file=self._url)


def patiently(url: str, attempt: Callable[[], T]) -> T:
    """What an attempt gives, at last.

    Args:
        url: name for errors.

    Raises:
        FormatError: it failed too often, or in a way that no other attempt would help against.
    """
    patience = _Patience(url)
    while True:
        try:
            return attempt()
        except Fault as fault:
            patience.wait(fault)


def fetch(
    store: Store,
    key: str,
    begin: int,
    end: int,
    facts: Facts,
    into: memoryview,
    url: str,
    ended: threading.Event | None = None,
) -> None:
    """Bytes ``begin`` to ``end`` of an object into memory. A stream that breaks off is taken up there.

    Args:
        ended: set when nobody waits for them any more.

    Raises:
        FormatError: it failed too often, or the object is another by now.
    """
    at = begin
    patience = _Patience(url, ended)
    while at < end:
        if ended is not None and ended.is_set():
            raise FormatError("reading was given up", file=url)
        try:
            with closing(store.stream(key, at, end, facts)) as stream:
                for piece in stream:
                    if len(piece) > end - at:
                        raise Fault("it sends more than it was asked for")
                    into[at - begin : at - begin + len(piece)] = piece
                    at += len(piece)
                    patience.refresh()
            if at < end:
                raise Fault(f"the stream broke off at byte {at}")
        except Fault as fault:
            patience.wait(fault)
        except Changed as change:
            raise changed(url, change) from None


def changed(url: str, change: Changed) -> FormatError:
    """The error of an object that is another than that of which the header was read."""
    return FormatError(f"was changed since its header was read: {change}", file=url, hint="start again")
