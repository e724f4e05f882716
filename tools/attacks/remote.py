"""Files that lie elsewhere: what goes wrong on the way changes no byte, or ends the run with an error."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from standins.server import serving

from .engine import Attack, Tally, command
from .scenarios import facts, save

__all__ = ["ATTACKS"]

_FAULTS = ("cut", "empty", "429", "500", "503", "wrong range")
"""Faults that go away, so that a run gets to its end if there are not too many of them in a row."""

_LASTING = ("other tag", "whole", "slow")
_SCHEMES = ("int8", "nvfp4", "fp8")


def _hurried() -> None:
    """No pauses, and small requests, so that many of them are made."""
    from transcode.io.remote import ahead, patience

    patience.FIRST = 0.001
    ahead.CHUNK = 30_000
    ahead.WINDOW = 120_000


def _schedule(dice: random.Random) -> Callable[[int], str | None]:
    """What goes wrong with which request; the first ones of a run go wrong as well."""
    share = dice.choice((0.02, 0.1, 0.3, 0.6))
    kinds = dice.sample(_FAULTS, dice.randint(1, len(_FAULTS)))
    if dice.random() < 0.15:
        kinds.append(dice.choice(_LASTING))
    chosen: dict[int, str | None] = {}

    def fault(number: int) -> str | None:
        if number not in chosen:
            chosen[number] = dice.choice(kinds) if dice.random() < share else None
        return chosen[number]

    return fault


def _reading(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """Runs from a web server with random schedules of faults: the same bytes, or an error and nothing."""
    save(root / "source", 3, rows=64, columns=256)
    content = (root / "source" / "model.safetensors").read_bytes()
    right = {}
    for scheme in _SCHEMES:
        out = root / f"{scheme}.safetensors"
        assert command(["run", str(root / "source"), str(out), "--scheme", scheme]).code == 0
        right[scheme] = facts(out)
    out = root / "out.safetensors"
    for _ in range(count or 50):
        if time.monotonic() > until:
            break
        scheme = dice.choice(_SCHEMES)
        out.unlink(missing_ok=True)
        with serving({"/m.safetensors": content}, fault=_schedule(dice)) as site:
            url = f"{site.url}/m.safetensors?signature=s3cret"
            outcome = command(
                ["run", url, str(out), "--scheme", scheme, "-w", str(dice.randint(1, 3)), "--tile", "64KiB"],
                install=_hurried,
            )
        tally.add("trials")
        if "s3cret" in outcome.text:
            tally.add("WRONG", f"a signature is shown: {outcome.text[-300:]}")
        if (wrong := outcome.fault()) is not None:
            tally.add(wrong[0], f"{scheme}: {wrong[1]}")
        elif outcome.code == 0:
            tally.add("same bytes" if facts(out) == right[scheme] else "MIXED", scheme)
        elif outcome.code == 2 and not out.exists() and "m.safetensors" in outcome.text:
            tally.add("refused")
        else:
            tally.add("WRONG", f"{scheme}: exit {outcome.code}: {outcome.text[-300:]}")
        if list(root.glob(".*transcode-part*")):
            tally.add("LEFTOVER", scheme)


def _changing(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """The object is replaced at some request: what is written is wholly of the one or nothing at all."""
    save(root / "source", 3, rows=64, columns=256)
    save(root / "other", 7, rows=64, columns=256)
    contents = [(root / name / "model.safetensors").read_bytes() for name in ("source", "other")]
    out = root / "out.safetensors"
    right = []
    for name in ("source", "other"):
        assert command(["run", str(root / name), str(out), "--scheme", "int8", "--force"]).code == 0
        right.append(facts(out))
    for _ in range(count or 50):
        if time.monotonic() > until:
            break
        out.unlink(missing_ok=True)
        files = {"/m.safetensors": contents[0]}
        moment = dice.randint(0, 12)

        def replace(number: int, files: dict[str, bytes] = files, moment: int = moment) -> str | None:
            if number >= moment:
                files["/m.safetensors"] = contents[1]
            return None

        with serving(files, fault=replace) as site:
            outcome = command(
                ["run", f"{site.url}/m.safetensors", str(out), "--scheme", "int8"], install=_hurried
            )
        tally.add("trials")
        if (wrong := outcome.fault()) is not None:
            tally.add(wrong[0], wrong[1])
        elif outcome.code == 0:
            tally.add("whole" if facts(out) in right else "MIXED", f"replaced at request {moment}")
        elif outcome.code == 2 and "was changed" in outcome.text and not out.exists():
            tally.add("refused")
        else:
            tally.add("WRONG", f"at request {moment}: exit {outcome.code}: {outcome.text[-300:]}")


ATTACKS: Mapping[str, Attack] = {"faults of a server": _reading, "an object that is replaced": _changing}
