"""Writing objects: what a place must be able to do, and which one a URL is in.

An object is sent in parts and appears when it is placed, whole or not at all. Where parts go in any order
each is sent as soon as it is there; where a store takes them in one order only, later ones wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Protocol

from ...core.paths import Url, unsigned
from ...errors import PlanError
from .address import Address, is_remote, parse

__all__ = ["SCHEMES", "Target", "Upload", "refuse", "target"]

SCHEMES = ("s3", "gs", "az", "hf", "memory")
"""Those of URLs that are written."""


class Upload(Protocol):
    """One object on its way."""

    def send(self, number: int, data: bytearray) -> None:
        """Send a part; the first one is 0.

        Raises:
            TranscodeError: it cannot be sent.
        """

    def place(self) -> None:
        """All parts were sent: have the object appear.

        Raises:
            TranscodeError: it cannot.
        """

    def drop(self) -> None:
        """Nothing of it shall stay. It may be called after anything, again, and raises nothing."""


class Target(Protocol):
    """A prefix of a place.

    Attributes:
        ordered: whether the parts of an object must be sent in their order.
        copies: how often a part is in memory while it is sent.
    """

    ordered: bool
    copies: int

    def part(self, size: int) -> int:
        """Bytes of the parts of an object of so many bytes; the last one may be smaller."""

    def existing(self) -> set[str]:
        """The names under the prefix, as far as they are in no folder below it.

        Raises:
            TranscodeError: they cannot be listed.
        """

    def unfinished(self) -> int:
        """How many objects under the prefix somebody began to send and neither placed nor dropped, as far as
        the place tells; of who was killed, or of who is at it.
        """

    def begin(self, name: str, size: int) -> Upload:
        """Begin an object of so many bytes."""

    def put(self, name: str, content: bytes) -> None:
        """Place a small object, behind all that was placed before."""

    def commit(self) -> None:
        """Have all that was placed appear, where that is another step."""


def target(url: str, folder: bool) -> Target:
    """The place that a URL names.

    Args:
        folder: whether it is a prefix; else it is an object, and the place is what that lies in.

    Raises:
        PlanError: nothing is written there.
        FormatError: it is no such URL, or a package is missing.
    """
    address = refuse(url)
    return _KINDS[address.scheme](address if folder else address.above)


def refuse(url: str) -> Address:
    """The address of a URL to which something can be written.

    Raises:
        PlanError, FormatError: as of :func:`target`.
    """
    if not is_remote(url) or (address := parse(url)).scheme not in SCHEMES:
        raise PlanError(
            "is a URL of a kind that is not written",
            file=Url(unsigned(url)),
            hint="s3://, gs://, az:// and hf:// are; or write to a local path, and upload what appears there",
        )
    return address


def _bucket(prefix: Address) -> Target:
    from .streams import Streams

    return Streams(prefix)


def _s3(prefix: Address) -> Target:
    if find_spec("boto3") is None:  # then parts go in their order
        return _bucket(prefix)
    from .multipart import Multipart

    return Multipart(prefix)


def _hub(prefix: Address) -> Target:
    from .commits import Commits

    return Commits(prefix)


_KINDS: Mapping[str, Callable[[Address], Target]] = {
    "s3": _s3,
    "gs": _bucket,
    "az": _bucket,
    "memory": _bucket,
    "hf": _hub,
}
