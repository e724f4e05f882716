"""Small files that a run puts beside the weights: checksums, and a statement of how all was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ..containers.source import open_source
from ..core.performance import Performance
from ..errors import PlanError, TranscodeError
from ..plan.plan import Plan
from ..voice import called
from . import attest, checksums
from .pace import Pace
from .staging import Staging

if TYPE_CHECKING:
    from .sending import Sending

__all__ = ["Following", "following", "names", "refuse_stale", "refuse_unread"]

_MOST_THREADS = 4
"""That hash beside the workers: a thread hashes about as fast as a worker converts."""


def names(plan: Plan, performance: Performance) -> list[str]:
    """What the files beside are called."""
    asked = ((performance.checksums, checksums.beside(plan)), (performance.attest, attest.beside(plan)))
    return [name for wanted, name in asked if wanted]


def refuse_unread(plan: Plan, performance: Performance) -> None:
    """Refuse a statement of sources whose digests it would lack.

    Raises:
        PlanError: with what to do.
    """
    elsewhere = next((one.url for one in plan.inputs if one.path is None), None)
    if performance.attest and elsewhere is not None:
        raise PlanError(
            f"is not on this machine: {called('attest')} states the digests of sources, and would fetch it"
            " all once more",
            file=elsewhere,
            hint="leave it out, or download the source first",
        )


def refuse_stale(plan: Plan, performance: Performance) -> None:
    """Refuse to leave such a file beside what it would not tell the truth of any more.

    Raises:
        PlanError: with the path and what to do.
    """
    folder = plan.destination if plan.folder else plan.destination.parent
    flags = {checksums.beside(plan): "checksums", attest.beside(plan): "attest"}
    for name, option in flags.items():
        if name not in names(plan, performance) and (folder / name).exists():
            raise PlanError(
                f"tells of what was written here before, and would be false of {plan.destination.name}",
                file=folder / name,
                hint=f"remove it, or write it anew with {called(option)}",
            )


class Following:
    """The digests of what a run writes; see :class:`.checksums.Hashing`."""

    def __init__(self, plan: Plan, staging: Staging, performance: Performance, pace: Pace) -> None:
        self._plan = plan
        self._staging = staging
        sources = [one.path for one in plan.inputs if one.path is not None] if performance.attest else []
        threads = min(performance.threads, _MOST_THREADS)
        self.hashing = checksums.Hashing(plan, staging.open_file, sources, threads, pace)

    def place(self, performance: Performance) -> checksums.Digests:
        """Hash what is left, and add the files that were asked for to the output.

        Raises:
            TranscodeError: a file could not be read back.
        """
        try:
            digests = self.hashing.finish()
            sides = {
                side.name: checksums.of_file(self._staging.staged(side.name))
                for side in self._plan.side_files
            }
        except OSError as error:
            raise TranscodeError(
                f"what was written cannot be read back: {error.strerror or error}",
                file=self._plan.destination,
            ) from error
        digests = replace(digests, files={**digests.files, **sides})
        ours = names(self._plan, performance)
        if performance.checksums:
            self._staging.add(checksums.beside(self._plan), checksums.text(digests).encode())
        if performance.attest:
            with open_source(self._staging.staged(self._plan.files[0].name)) as output:
                metadata = dict(output.metadata)
            self._staging.add(
                attest.beside(self._plan), attest.statement(self._plan, digests, metadata, ours)
            )
        return digests


@contextmanager
def following(
    plan: Plan, staging: Staging | Sending, performance: Performance, pace: Pace
) -> Iterator[Following | None]:
    """Hash what is written while it is, where that is asked for."""
    if not names(plan, performance) or not isinstance(staging, Staging):
        yield None
        return
    follower = Following(plan, staging, performance, pace)
    staging.on_written = follower.hashing.wrote
    try:
        yield follower
    finally:
        staging.on_written = None
        follower.hashing.stop()
