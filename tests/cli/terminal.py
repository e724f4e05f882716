"""A terminal of its own for a command: keys are pressed, and what is shown is read."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CTRL_C = b"\x03"


@dataclass(frozen=True)
class Session:
    """What was seen: the exit code (minus a signal), the text, and whether the terminal is as before."""

    code: int
    text: str
    restored: bool

    @property
    def lines(self) -> list[str]:
        """What the command said in lines of its own, without the echo of the key."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text)
        said = [line.replace("^C", "").strip() for line in plain.replace("\r", "\n").split("\n")]
        return [line for line in said if line.startswith("transcode:")]


def maps(path: Path) -> Callable[[int, bytes], bool]:
    """Whether the process, or one that it started, has mapped or opened a file."""

    def check(pid: int, shown: bytes) -> bool:
        return any(str(path) in text for one in (pid, *_children(pid)) for text in _held(one))

    return check


def shows(text: bytes) -> Callable[[int, bytes], bool]:
    """Whether a text was shown."""
    return lambda pid, shown: text in shown


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _held(pid: int) -> list[str]:
    held = []
    try:
        held.append(Path(f"/proc/{pid}/maps").read_text())
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            held.append(str(entry.readlink()))
    except OSError:
        pass
    return held


def session(
    arguments: list[str], when: Callable[[int, bytes], bool], *, presses: int = 1, after: float = 0.0
) -> Session:
    """Run ``transcode`` (or ``bash``) on a terminal of 80 columns, and press Ctrl-C once something holds."""
    import pty
    import termios

    command = arguments if arguments[0] == "bash" else [sys.executable, "-m", "transcode", *arguments]
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever this process was started with
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"})
    before = termios.tcgetattr(terminal)
    shown, pressed, limit = b"", 0, time.monotonic() + 60
    due = None
    try:
        while True:
            assert time.monotonic() < limit, shown.decode("utf-8", "replace")
            if due is None and when(pid, shown):
                due = time.monotonic() + after
            if due is not None and pressed < presses and time.monotonic() >= due:
                os.write(terminal, CTRL_C)
                pressed += 1
                due = time.monotonic() + 0.03
            if select.select([terminal], [], [], 0.005)[0]:
                try:
                    read = os.read(terminal, 65536)
                except OSError:
                    break
                if not read:
                    break
                shown += read
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        restored = termios.tcgetattr(terminal) == before if shown or pressed else False
        os.close(terminal)
    text = shown.decode("utf-8", "replace")
    hidden, visible = text.rfind("\x1b[?25l"), text.rfind("\x1b[?25h")
    return Session(os.waitstatus_to_exitcode(status), text, restored and visible >= hidden)
