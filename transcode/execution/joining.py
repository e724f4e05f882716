"""All parts of a plan are done: they become what an interrupted run leaves that has done everything."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..errors import PlanError, TranscodeError
from ..io.commit import FILES, JOURNAL, LOCK
from ..io.directory import Directory, claim
from ..plan import file as plan_file
from ..plan.plan import Plan
from ..voice import called
from . import journal
from .parts import PLAN, head_of, place, write_journal
from .shares import Shares
from .staging import hidden_folder, is_left, locked

__all__ = ["assemble", "load"]

_SHOWN = 10


def load(destination: Path) -> Plan:
    """The plan whose parts are there, as it was made; to be written to that destination.

    Raises:
        PlanError: there are no parts.
        FormatError: the plan is damaged, or of another version.
    """
    path = place(destination)
    if not os.path.lexists(path):
        raise PlanError("there are no parts of a run to join", file=destination)
    with claim(path, make=False) as hidden:
        head = head_of(hidden)
        plan = plan_file.load(path / PLAN)
        head.refuse_other(plan, path)
        return replace(plan, destination=destination)


def assemble(plan: Plan) -> int:
    """Make of all parts what an interrupted run leaves that has done everything: it is to be resumed.

    Safe to be cut short and done again.

    Returns:
        How many parts there were.

    Raises:
        PlanError: a part is missing; another run is at the destination.
        TranscodeError: the system refused.
    """
    path = place(plan.destination)
    try:
        with claim(path, make=False) as hidden:
            head = head_of(hidden)
            head.refuse_other(plan, path)
            shares = Shares(plan)
            ledgers = [
                _marked(hidden, plan, number, shares.part(number, head.count)) for number in head.numbers
            ]
            missing = [number for number, one in zip(head.numbers, ledgers, strict=True) if one is None]
            if missing:
                shown = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
                raise PlanError(
                    f"{len(missing)} of {head.count} parts {'is' if len(missing) == 1 else 'are'} not done:"
                    f" {shown}",
                    file=plan.destination,
                    hint=f"run the same command with {called('part', f'{missing[0]}/{head.count}')}",
                )
            known = journal.Ledger()
            for one in ledgers:
                if one is not None:
                    known.take_over(one)
            if not known.is_whole(shares.whole()):
                raise PlanError("the parts do not make the whole", file=path, hint="remove it to start anew")
            if hidden.stat(FILES) is not None:  # else somebody who came so far has died
                _hand_over(hidden, plan, known)
            elif not is_left(plan):
                raise PlanError("the files of the parts are gone", file=path, hint="remove it to start anew")
            return head.count
    except OSError as error:
        raise TranscodeError(f"{error.strerror}", file=error.filename or path) from error


def _marked(hidden: Directory, plan: Plan, number: int, share: journal.Share) -> journal.Ledger | None:
    """What the mark of a part tells; None where there is none that is whole."""
    known = journal.resumable(hidden, plan.digest, f"{number}.done")
    if known is not None and known[0].is_whole(share):
        return known[0]
    hidden.unlink(f"{number}.done")  # or the part would be taken for done when it is run again
    return None


def _hand_over(hidden: Directory, plan: Plan, known: journal.Ledger) -> None:
    """Give the files of the parts to the hidden folder of a run."""
    with claim(hidden_folder(plan)) as target, locked(target, plan):
        for name in target.names():
            if name != LOCK:
                target.remove(name)
        write_journal(target, plan.digest, JOURNAL, known)
        target.sync()
        hidden.move(FILES, target, FILES)
        target.sync()
        hidden.sync()
