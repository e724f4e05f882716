"""Carrying out a plan: tiles of rows through the transforms to their offsets, on any number of workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context

from ..core.context import Abandoned, Context, Run
from ..core.quality import Loss
from ..errors import TranscodeError
from ..plan.plan import Plan
from . import journal
from .jobs import Jobs, Writer
from .pace import Pace
from .report import PartDone, Progress, Report, by_scheme

__all__ = ["PartDone", "Progress", "Report", "Writer", "by_scheme", "execute"]


def _losses(plan: Plan, run: Run) -> dict[str, tuple[str, Loss]]:
    losses = {}
    for tensor in plan.tensors:
        loss = None if tensor.measured is None else run.loss(tensor.measured).total()
        if loss is not None and tensor.scheme is not None:
            losses[tensor.name] = tensor.scheme.name, loss
    return losses


def _recoded(plan: Plan, run: Run) -> dict[str, tuple[int, int]]:
    counted = {
        tensor.name: run.tally(tensor.recoded).total()
        for tensor in plan.tensors
        if tensor.recoded is not None
    }
    return {name: blocks for name, blocks in counted.items() if blocks[1]}


def execute(
    plan: Plan,
    writer: Writer,
    *,
    workers: int = 1,
    tile_bytes: int = 8 << 20,
    surroundings: Callable[[int], AbstractContextManager[Context]] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    ledger: journal.Ledger | None = None,
    pace: Pace | None = None,
    nice: int | None = None,
    order: Sequence[int] | None = None,
    rehearses: bool = False,
) -> Report:
    """Read, convert and write all tensors of a plan.

    The number of workers and the size of tiles change nothing but time. The first error of a worker stops
    all of them and is raised here; so is KeyboardInterrupt.

    Args:
        workers: threads.
        tile_bytes: about how many source bytes a worker deals with at a time.
        surroundings: what a worker, given by its number, enters in its own thread for as long as it works;
            yields the memory that it works in.
        on_progress: called about ten times a second from the calling thread, and once at the end.
        ledger: what is done already, which is not done again; and where what is done is noted.
        pace: how fast the source may be read.
        nice: niceness of the workers.
        order: numbers of the tensors, in the order in which they are dealt with; else that of the plan.
        rehearses: see :class:`.core.context.Run`.
    """
    began = time.monotonic()
    run = Run(rehearses=rehearses)
    jobs = Jobs(plan, writer, tile_bytes, run, ledger or journal.Ledger(), order)
    ahead = jobs.ahead()
    lock = threading.Lock()
    finished = threading.Event()
    stop = threading.Event()
    errors: list[BaseException] = []
    state = {"done": jobs.resumed, "alive": workers}

    def work(number: int) -> None:
        try:
            with nullcontext(Context()) if surroundings is None else surroundings(number) as context:
                context.run = run
                if nice is not None:
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
                while not stop.is_set() and (job := jobs.next()) is not None:
                    context.reset()
                    done = job(context)
                    with lock:
                        state["done"] += done
                    if pace is not None:  # what the system copies is not read here
                        stop.wait(pace.spend(context.read[0] or done))
                        context.read[0] = 0
        except BaseException as error:
            with lock:
                errors.append(error)
            stop.set()
            for observation in list(jobs.observations):
                observation.cancel()
        finally:
            with lock:
                state["alive"] -= 1
                if state["alive"] == 0:
                    finished.set()

    threads = [
        threading.Thread(target=copy_context().run, args=(work, n), name=f"worker-{n}", daemon=True)
        for n in range(workers)
    ]

    def tell(stage: str) -> None:
        if on_progress is not None:
            on_progress(Progress(state["done"], jobs.total, stage, time.monotonic() - began))

    try:
        if ahead is not None:
            ahead.begin()
        started = _start(threads)
        with lock:
            state["alive"] -= workers - started
            if state["alive"] == 0:
                finished.set()
        while not finished.wait(0.1):
            tell("convert")
    finally:
        # Reached with an interrupt too: no thread may touch the output after this.
        stop.set()
        if ahead is not None:
            ahead.end()
        if not finished.is_set():
            for observation in list(jobs.observations):
                observation.cancel()
        _join([thread for thread in threads if thread.ident is not None])
    if errors:
        # Who waited for a look at a tensor may have noted its end before the one who failed noted why.
        raise next((error for error in errors if not isinstance(error, Abandoned)), errors[0])
    tell("convert")
    seconds = time.monotonic() - began
    losses, kept = _losses(plan, run), _recoded(plan, run)
    return Report(plan, seconds, plan.bytes_read, plan.file_bytes, losses, recoded=kept, resumed=jobs.resumed)


def _start(threads: list[threading.Thread]) -> int:
    """Start as many as the system allows; returns how many. Fewer workers change nothing but time."""
    for number, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError as error:
            if number == 0:
                raise TranscodeError(
                    f"no thread can be started: {error}", hint="raise the limit of processes (ulimit -u)"
                ) from None
            return number
    return len(threads)


def _join(threads: list[threading.Thread]) -> None:
    """Wait for threads that were told to stop, even if the user is impatient: they hold open files."""
    impatient: KeyboardInterrupt | None = None
    while any(thread.is_alive() for thread in threads):
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt as error:
            impatient = error
    if impatient is not None:
        raise impatient
