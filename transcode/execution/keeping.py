"""Making what a run has done durable while it goes on, and noting it in the journal."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from ..errors import TranscodeError
from ..io import system
from ..io.directory import Directory
from . import journal

__all__ = ["Keeping"]


class Keeping:
    """The journal of a run, and what it must sync before a line of it is true. Thread-safe.

    Args:
        hidden: the folder of the run, where the journal is.
        staged: the folder of the files that are written.
        names: of those files, as they are numbered.
        fd: of the journal, which is closed at the end.
        ledger: what is done.
    """

    def __init__(
        self, hidden: Directory, staged: Directory, names: Sequence[str], fd: int, ledger: journal.Ledger
    ) -> None:
        self.ledger = ledger
        self._hidden = hidden
        self._staged = staged
        self._names = names
        self._fd = fd
        self._touched = set(range(len(names)))  # headers are written
        self._lock = threading.Lock()
        self._failed: OSError | None = None

    def touch(self, file: int) -> None:
        """A file, by its number, has been written to."""
        with self._lock:
            self._touched.add(file)

    def keep(self) -> bool:
        """Make durable what is done by now, and note it; for a thread of its own, now and then.

        Returns:
            Whether anything is noted, now or before.
        """
        spans, findings = self.ledger.take()
        if spans and self._failed is None:
            try:
                self._sync()
                journal.extend(self._fd, spans, findings)
                self.ledger.noted = True
            except OSError as error:
                self._failed = error  # the system tells once that bytes are lost: no later sync would
        return self.ledger.noted

    def _sync(self) -> None:
        with self._lock:
            touched, self._touched = self._touched, set()
        for file in touched:
            fd = self._staged.open(self._names[file], os.O_RDWR)
            try:
                system.sync(fd)
            finally:
                os.close(fd)
        if not self.ledger.noted:
            self._staged.sync()
            self._hidden.sync()

    def consume(self, inputs: Collection[int]) -> None:
        """Note that inputs are not needed any more; durable on return. Raises OSError."""
        journal.consume(self._fd, inputs)
        self.ledger.consumed.update(inputs)

    def check(self, path: Path) -> None:
        """Raise TranscodeError where a sync has told that bytes are lost."""
        if self._failed is not None:
            raise TranscodeError(f"writing failed: {self._failed.strerror}", file=path) from self._failed

    def close(self) -> None:
        """Let go of the journal."""
        os.close(self._fd)
