"""What a place with objects must be able to do, and how what goes wrong there is told."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import NamedTuple, Protocol

from ...core.records import dataclass
from ...errors import FormatError

__all__ = ["HEAD", "Changed", "Facts", "Fault", "Listing", "Store", "missing"]

HEAD = 64 << 10
"""Bytes that are asked for first, when nothing is known of an object: most headers are in them."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an object.

    Attributes:
        size: its bytes.
        tag: by what it is known to be the same: an ETag, a version, a digest, a date; empty if by none.
        head: its first bytes, if they came along.
    """

    size: int
    tag: str
    head: bytes = b""


class Listing(NamedTuple):
    """What lies in a folder, by name.

    Attributes:
        files: with their facts.
        folders: those in it.
    """

    files: Mapping[str, Facts]
    folders: tuple[str, ...] = ()


class Fault(Exception):
    """Something went wrong that may go well the next time.

    Args:
        what: in words, without a URL.
        wait: seconds that the server asks to wait; None if it does not say.
    """

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class Changed(Exception):
    """An object is not what it was. Says how that is known."""


class Store(Protocol):
    """Objects by key. Each method makes one attempt; see :mod:`.patience` for the next ones."""

    def facts(self, key: str, *, head: int = HEAD) -> Facts | None:
        """What is known of an object; None where there is none.

        Args:
            head: how many first bytes may come along, where one request gives both.

        Raises:
            Fault: try again.
            FormatError: it is of no use to try again.
        """

    def listing(self, key: str) -> Listing:
        """What lies in a folder.

        Raises:
            Fault, FormatError: as of :meth:`facts`.
        """

    def stream(self, key: str, begin: int, end: int, facts: Facts) -> Generator[bytes, None, None]:
        """Bytes ``begin`` to ``end`` of an object, as they come; fewer if the connection breaks.

        Raises:
            Fault, FormatError: as of :meth:`facts`.
            Changed: the object is another by now.
        """


def missing(package: str, extra: str, scheme: str, url: str) -> FormatError:
    """The error where the package that reads a kind of URL is not installed."""
    return FormatError(
        f"{scheme}:// is read by {package}, which is not installed",
        file=url,
        hint=f"pip install 'tensor-transcode[{extra}]'",
    )
