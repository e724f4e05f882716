"""Planning without the search for cycles: facts are many, refer to each other in one direction and stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]


@contextmanager
def uncollected() -> Iterator[None]:
    """Within it nothing is looked for that refers to itself; what nobody refers to goes at once, as always.

    Each search goes through all facts that there are, finds nothing, and is repeated as they grow. It is of
    the whole process: another thread goes without it as long, or begins it again.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
