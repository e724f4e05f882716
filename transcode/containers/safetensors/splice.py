"""Replacing ``__metadata__`` inside the JSON of a header, and leaving every other byte as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from .header import NotText

__all__ = ["checked", "splice", "stringify"]

_KEY = "__metadata__"
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def splice(text: str, metadata: Mapping[str, str]) -> str:
    """The header's JSON with other metadata, in the place where it stood, or first where there was none.

    Entries are not rendered anew: fields that only their maker knows, spelling and order survive. Empty
    metadata is taken out altogether, because loaders treat an empty object as metadata that lacks ``format``.

    Args:
        text: a valid header (see :func:`transcode.containers.safetensors.header.parse`), without padding.
        metadata: in the order in which it shall be written.
    """
    value = json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":"))
    opening = text.index("{") + 1
    first = at = _skip(text, opening)
    before = opening  # the end of the member before this one
    while text[at] != "}":
        key, end = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, end) + 1)
        _, end = _DECODER.raw_decode(text, start)
        following = _skip(text, end)
        last = text[following] == "}"
        if key == _KEY:
            if metadata:
                return text[:start] + value + text[end:]
            return text[:before] + text[end:] if last else text[:at] + text[_skip(text, following + 1) :]
        if last:
            break
        before, at = end, _skip(text, following + 1)
    if not metadata:
        return text
    comma = "" if text[first] == "}" else ","
    return f'{text[:opening]}"{_KEY}":{value}{comma}{text[opening:]}'


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def stringify(value: object) -> str:
    """The string that stands for a JSON value in metadata.

    Strings stay, objects and arrays become JSON with default separators, everything else is ``str`` of it
    (``True``, ``None``, ``1.5``): the rule of the metadata that published quantized files carry.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return str(value)


def checked(metadata: Mapping[str, str]) -> dict[str, str]:
    """A copy of metadata that a header can hold.

    Raises:
        ValueError: a key or a value is no string, or no text that UTF-8 can write.
    """
    for key, value in metadata.items():
        for what, part in (("key", key), (f"value of {key!r}", value)):
            if isinstance(part, NotText):
                raise ValueError(
                    f"the {what} is {part:.60}, not a string, and no loader takes the file:"
                    f" set {key!r} to a text or delete it in the same command, or clear all"
                )
            if not isinstance(part, str):
                raise ValueError(f"the {what} is {part!r}, not a string")
            try:
                part.encode()
            except UnicodeEncodeError:
                raise ValueError(f"the {what} is {part!r:.80}, which is not UTF-8 text") from None
    return dict(metadata)
