"""The program ``transcode``, and ``python -m transcode``; calm where it is interrupted while it loads."""

from __future__ import annotations

import sys

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit, see :func:`.cli.main`; 130 if it is interrupted before it runs."""
    try:
        from .cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("transcode: interrupted\n")
        _end()
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            _end()
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is done: too late
        raise


def _end() -> None:
    """Exit at once: all is cleaned up.

    Python itself ends by the signal, whatever the exit code, where KeyboardInterrupt went through an ``exec``
    of text, of which dataclasses and compilers are full; and another can disturb its end.
    """
    import os
    from contextlib import suppress

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
