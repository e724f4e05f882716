"""Objects of plain web servers: ranges by HTTP (RFC 9110, sections 13 and 14).

A server lists nothing, so of a folder the names are asked for that checkpoints have.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPMessage
from urllib.parse import quote

from ...errors import FormatError
from .address import Address, query_of
from .patience import patiently
from .store import HEAD, Changed, Facts, Fault, Listing
from .transport import Answer, authorization, request

__all__ = ["Web", "check", "pieces", "ranged", "tag_of"]

_PIECE = 256 << 10

_WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors", "adapter_model.safetensors")
_NAMES = (
    *_WEIGHTS, *(f"{name}.index.json" for name in _WEIGHTS),
    "config.json", "generation_config.json", "adapter_config.json", "model_index.json",
    "quantize_config.json", "hf_quant_config.json", "quant_config.json",
    "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
    "README.md", "LICENSE",
)  # fmt: skip
"""What is looked for in a folder that nobody lists."""

_AT_ONCE = 8


class Web:
    """The objects of one host, by their paths as they stand in URLs.

    Args:
        origin: scheme and host; the key does not matter.
    """

    def __init__(self, origin: Address) -> None:
        self._origin = origin

    def _url(self, key: str) -> tuple[Address, str]:
        address = self._origin._replace(key=key)
        return (
            address,
            f"{address.scheme}://{address.authority}/{quote(key, safe='/%:@!$&,;=+*()~')}{query_of(address)}",
        )

    def facts(self, key: str, *, head: int = HEAD) -> Facts | None:
        """See :class:`.store.Store`. The first bytes come along: one request does for most headers."""
        address, url = self._url(key)
        headers = {**authorization(address), "Range": f"bytes=0-{head - 1}"}
        with request("GET", url, headers) as answer:
            if answer.status in (404, 410):
                return None
            if answer.status == 416 and (answer.headers.get("Content-Range") or "").endswith("*/0"):
                return Facts(0, tag_of(answer.headers))
            if answer.status == 200:
                return _whole(answer, str(address))
            if answer.status != 206:
                answer.refuse(str(address))
            begin, end, size = ranged(answer.headers, str(address))
            if begin != 0 or end != min(size, head):
                raise Fault(f"asked for bytes 0 to {head}, the server sends {begin} to {end} of {size}")
            return Facts(size, tag_of(answer.headers), _exactly(answer, end))

    def listing(self, key: str) -> Listing:
        """Those of the usual names that there are."""
        prefix = f"{key.rstrip('/')}/".lstrip("/")

        def ask(name: str) -> Facts | None:
            address, _ = self._url(prefix + name)
            return patiently(str(address), lambda: self.facts(prefix + name))

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(ask, _NAMES))
        return Listing(
            {name: facts for name, facts in zip(_NAMES, answers, strict=True) if facts is not None}
        )

    def stream(self, key: str, begin: int, end: int, facts: Facts) -> Generator[bytes, None, None]:
        """See :class:`.store.Store`."""
        address, url = self._url(key)
        headers = {**authorization(address), "Range": f"bytes={begin}-{end - 1}"}
        if facts.tag.startswith('"'):
            headers["If-Match"] = facts.tag
        with request("GET", url, headers) as answer:
            check(answer, begin, end, facts, str(address))
            yield from pieces(answer)


def check(answer: Answer, begin: int, end: int, facts: Facts, url: str, *, tagged: bool = True) -> None:
    """Refuse an answer that does not hold bytes ``begin`` to ``end`` of the object that is meant.

    Args:
        tagged: whether the tag is the server's own, which each answer then repeats.

    Raises:
        Changed: it is another object.
        Fault: it may be right the next time.
        FormatError: it will not.
    """
    if answer.status == 412:
        raise Changed("its ETag is no longer what it was")
    if answer.status == 416:
        raise Changed(f"it has no bytes {begin} to {end} any more")
    if answer.status in (404, 410):
        raise Changed("it is not there any more")
    if answer.status not in (200, 206):
        answer.refuse(url)
    if tagged and (tag := tag_of(answer.headers)) != facts.tag:
        raise Changed(f"its ETag is {tag or 'none'}, was {facts.tag or 'none'}")
    if answer.status == 200:
        length = answer.headers.get("Content-Length")
        if length is not None and length.isdecimal() and int(length) != facts.size:
            raise Changed(f"it has {length} bytes, had {facts.size}")
        if (begin, end) != (0, facts.size):
            raise no_ranges(url)
        return
    sent = ranged(answer.headers, url)
    if sent[2] != facts.size:
        raise Changed(f"it has {sent[2]} bytes, had {facts.size}")
    if sent[:2] != (begin, end):
        raise Fault(f"asked for bytes {begin} to {end}, the server sends {sent[0]} to {sent[1]}")


def ranged(headers: HTTPMessage, url: str) -> tuple[int, int, int]:
    """First byte, end and size of the whole, as ``Content-Range`` tells them.

    Raises:
        Fault: it tells none.
    """
    if headers.get("Content-Encoding", "identity") != "identity":
        raise FormatError(
            f"is sent as {headers['Content-Encoding']}, which has other offsets",
            file=url,
            hint="download it first",
        )
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range") or "")
    if match is None:
        raise Fault(f"Content-Range is {headers.get('Content-Range')!r}")
    return int(match[1]), int(match[2]) + 1, int(match[3])


def pieces(answer: Answer) -> Generator[bytes, None, None]:
    """The body of an answer."""
    while piece := answer.read(_PIECE):
        yield piece


def tag_of(headers: HTTPMessage) -> str:
    """By what an answer says that an object is the same; empty if by nothing."""
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def no_ranges(url: str) -> FormatError:
    """The error of a server that has no ranges."""
    return FormatError(
        "is sent as a whole: its server has no ranges, by which tensors are read",
        file=url,
        hint="download it first",
    )


def _whole(answer: Answer, url: str) -> Facts:
    """The facts of what is sent as a whole, where that is no more than a head would have been."""
    length = answer.headers.get("Content-Length") or ""
    if answer.headers.get("Content-Encoding", "identity") != "identity" or not length.isdecimal():
        raise no_ranges(url)
    if int(length) > HEAD:
        raise no_ranges(url)
    return Facts(int(length), tag_of(answer.headers), _exactly(answer, int(length)))


def _exactly(answer: Answer, size: int) -> bytes:
    parts = []
    left = size
    while left and (piece := answer.read(left)):
        parts.append(piece)
        left -= len(piece)
    if left or answer.read(1):
        raise Fault("the stream broke off" if left else "it sends more than it was asked for")
    return b"".join(parts)
