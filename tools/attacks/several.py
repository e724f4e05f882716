"""Several files on one command line of ``meta``: each is the old one or the new one, in their order."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

from .engine import Attack, Injection, Tally, command, dying, spread
from .scenarios import LONG, facts, save

__all__ = ["ATTACKS"]

_FILES = 3


def _killed(value: str) -> Attack:
    """SIGKILL before every call that concerns the files."""

    def attack(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        place = root / "place"
        place.mkdir()
        files = [place / f"{number}.safetensors" for number in range(_FILES)]
        kept = [root / f"source-{number}" / "model.safetensors" for number in range(_FILES)]
        for number, source in enumerate(kept):
            save(source.parent, 50 * number)
        args = ["meta", "set", *map(str, files), f"a={value}"]

        def reset() -> None:
            for entry in place.iterdir():
                entry.unlink()
            for source, file in zip(kept, files, strict=True):
                shutil.copy(source, file)

        def play(number: int) -> tuple[int | None, int]:
            """How a command that is killed at a call ended, and how many calls it had made."""
            reset()
            told = root / "calls"

            def install() -> None:
                injection = Injection(place, number, dying(signal.SIGKILL))
                injection.install()
                leave = os._exit

                def leaving(code: int) -> None:
                    told.write_text(str(injection.seen))
                    leave(code)

                os._exit = leaving  # type: ignore[assignment]

            outcome = command(args, install=install)
            if (wrong := outcome.fault()) is not None:
                tally.add(wrong[0], f"killed at call {number}: {wrong[1]}")
            return outcome.code, int(told.read_text()) if outcome.code == 0 else 0

        reset()
        old = [facts(file) for file in files]
        code, calls = play(0)
        assert code == 0
        new = [facts(file) for file in files]
        assert all(before != after for before, after in zip(old, new, strict=True))
        for number in spread(calls, count, dice.randrange(calls)):
            if time.monotonic() > until:
                break
            play(number)
            tally.add("trials")
            where = f"meta set of {_FILES} files killed at call {number}"
            states = ""
            for file, before, after in zip(files, old, new, strict=True):
                looked = command(["inspect", str(file)])  # finishes or undoes what was begun, as any command
                if looked.code != 0 or looked.fault() is not None:
                    tally.add("WRONG", f"{where}: then inspect: {looked.code} {looked.text[-300:]}")
                try:
                    now = facts(file)
                except (ValueError, KeyError) as error:
                    tally.add("WRONG", f"{where}: {file.name} is broken: {error}")
                    return
                states += "n" if now == after else "o" if now == before else "?"
            if "?" in states or "on" in states:
                tally.add("MIXED", f"{where}: {states}")
            tally.add(f"{states.count('n')} of {_FILES} new")

    return attack


ATTACKS: dict[str, Attack] = {
    "overwriting": _killed("n"),
    "growing": _killed(LONG),
}
