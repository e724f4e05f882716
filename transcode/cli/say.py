"""What is printed for people: names and values from files show as text and cannot steer the terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TextIO

import click

__all__ = ["echo", "echo_json", "echo_raw", "echo_text", "harmless", "harmless_json", "notice", "one_line"]

_CONTROLS = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f"  # C0 but for tab and newline, DEL, C1
    "\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069"  # changes of direction
    "\\xad\\u180e\\u200b\\u2028\\u2029\\u2060-\\u2064\\ufeff\\ufff9-\\ufffb"  # of no width, ends of lines
    "\\U000e0000-\\U000e007f"  # tags, which nobody sees
    "\\ud800-\\udfff]"  # halves of pairs, which no encoding can write
)


def harmless(text: str) -> str:
    """The text with control characters, invisible ones and changes of direction spelled as escapes.

    Newlines and tabs stay: a message of our own may have some.
    """
    return _CONTROLS.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """As :func:`harmless`, with newlines and tabs spelled too."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def harmless_json(text: str) -> str:
    """JSON with the same characters as its escapes: they stand in strings only, and it means the same."""
    return _CONTROLS.sub(lambda match: json.dumps(match[0])[1:-1], text)


def echo(text: object = "", *, err: bool = False, bold: bool = False) -> None:
    """Print a line for people; the only way in which they are told what a file or a caller says."""
    shown = one_line(str(text))
    stream = sys.stderr if err else sys.stdout
    _print((click.style(shown, bold=True) if bold and _styled(stream) else shown) + "\n", err=err)


def _styled(stream: TextIO) -> bool:
    """Whether bold letters are shown and wanted, see https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def echo_text(text: str) -> None:
    """Print a text of several lines, which ends its last one."""
    _print(harmless(text))


def echo_json(value: object) -> None:
    """Print JSON for scripts."""
    _print(harmless_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def echo_raw(text: str) -> None:
    """Print a value as it is for programs, and harmless on a terminal."""
    _print(harmless(text) if sys.stdout.isatty() else text)


def _print(text: str, *, err: bool = False) -> None:
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        click.echo(text, nl=False, err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        error.filename = f"standard {'error' if err else 'output'}"
        raise


def notice(text: str) -> None:
    """Say something on standard error."""
    echo(f"transcode: {text}", err=True)
