"""Attack transcode with everything that may befall it, and print what was seen.

    python tools/attack.py                        # all, some minutes
    python tools/attack.py --count 0 --jobs 16    # every call of every command
    python tools/attack.py --only headers --count 500000 --seed 7

Each attack is made in children, in folders of its own. The exit code is 1 if anything was seen that
``docs/reliability.md`` says does not happen: an output that is neither the old nor the new one, a wrong
exit code, a traceback, death by a signal of the machine's, memory over the budget. The table, and
``--json``, say how often what was seen; the same seed makes the same attacks, apart from moments of time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from attacks import (  # noqa: E402
    corpora,
    faults,
    fuzz,
    mounts,
    parting,
    remote,
    resuming,
    several,
    sources,
    together,
    uploads,
    writelog,
)  # fmt: skip
from attacks.engine import BAD, Attack, Tally  # noqa: E402
from attacks.scenarios import SCENARIOS, Scenario, Stage, save  # noqa: E402


@dataclass(frozen=True)
class Unit:
    """One line of the table.

    Attributes:
        name: ``attack: what is attacked``.
        share: trials for each of ``--count``.
    """

    name: str
    run: Attack
    share: float = 1


def _staged(attack: Callable[[Stage, random.Random, int, float, Tally], None], scenario: Scenario) -> Attack:
    def run(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        attack(Stage(root, scenario), dice, count, until, tally)

    return run


def _traced(what: str) -> Attack:
    def run(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        faults.real_calls(root, what, "calls", tally)

    return run


def units() -> list[Unit]:
    """All attacks."""
    found: list[Unit] = []
    for kind, attack, share in (
        ("kill at calls", faults.kill_calls, 1),
        ("kill at any time", faults.kill_random, 1),
        ("signal", faults.signals, 1),
        ("error at calls", faults.errors, 1),
        ("torn write", faults.torn, 1),
    ):
        found += [
            Unit(f"{kind}: {scenario.name}", _staged(attack, scenario), share) for scenario in SCENARIOS
        ]
    for what in ("overwrite", "insert", "copy", "commit"):
        found.append(Unit(f"kill at system calls: {what}", _traced(what)))
    for name, whole in several.ATTACKS.items():
        found.append(Unit(f"kill at calls: meta: three files, {name}", whole))
    found += [Unit(f"killed and resumed: {name}", attack) for name, attack in resuming.ATTACKS.items()]
    found += [Unit(f"parts: {name}", attack) for name, attack in parting.ATTACKS.items()]
    for scenario in SCENARIOS:
        found.append(Unit(f"power cut: {scenario.name}", writelog.attack(scenario), 20))
    found += [Unit(f"source changes: {name}", attack) for name, attack in sources.ATTACKS.items()]
    found += [Unit(f"elsewhere: {name}", attack, 20) for name, attack in remote.ATTACKS.items()]
    found += [Unit(f"sent, and ended: {name}", attack, 0.5) for name, attack in uploads.ATTACKS.items()]
    found += [Unit(f"at once: {name}", attack, 0.5) for name, attack in together.ATTACKS.items()]
    found += [Unit(f"hostile: {name}", attack, share) for name, (attack, share) in corpora.ATTACKS.items()]
    found += [Unit(f"fuzz: {name}", whole, 20) for name, whole in fuzz.ATTACKS.items()]
    found += [Unit(f"file system: {name}", attack) for name, attack in mounts.ATTACKS.items()]
    return found


def one(unit: Unit, seed: int, count: int, seconds: float, folder: Path) -> Tally:
    """Make one attack; what goes wrong with the tool itself is WRONG as well."""
    tally = Tally()
    root = folder / f"{zlib.crc32(unit.name.encode()):08x}"
    root.mkdir()
    dice = random.Random(f"{seed} {unit.name}")
    trials = 0 if count == 0 else max(round(count * unit.share), 1)
    try:
        unit.run(root, dice, trials, time.monotonic() + seconds, tally)
    except Exception:
        tally.add("WRONG", f"{unit.name}: the attack ended: {traceback.format_exc()[-1500:]}")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return tally


def attack(
    chosen: list[Unit], *, seed: int, count: int, jobs: int, seconds: float, folder: Path
) -> dict[str, Tally]:
    """Make attacks, several at a time; what was seen by the name of each."""
    _warm(folder)
    waiting = list(chosen)
    running: dict[int, tuple[Unit, Path]] = {}
    found: dict[str, Tally] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            unit = waiting.pop(0)
            told = folder / f"told-{zlib.crc32(unit.name.encode()):08x}"
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    told.write_text(json.dumps(one(unit, seed, count, seconds, folder).to_json()))
                    status = 0
                finally:
                    os._exit(status)
            running[pid] = unit, told
        pid, status = os.wait()
        if pid not in running:
            continue
        unit, told = running.pop(pid)
        tally = Tally()
        if status == 0:
            raw = json.loads(told.read_text())
            tally.seen.update(raw["seen"])
            tally.examples, tally.notes = raw["examples"], raw["notes"]
        else:
            tally.add("SIGNAL DEATH", f"{unit.name}: the process of the attack died: status {status}")
        found[unit.name] = tally
        print(line(unit.name, tally), file=sys.stderr, flush=True)
    return {unit.name: found[unit.name] for unit in chosen}


def _warm(folder: Path) -> None:
    """Load what commands load, once and without a thread, so that children are forked in milliseconds."""
    import numba  # noqa: F401
    import numpy  # noqa: F401

    for name in ("api", "cli.inspect", "cli.meta", "cli.run", "numerics.convert", "numerics.integer"):
        import_module(f"transcode.{name}")
    from transcode import cli

    save(folder / "warm", 1)
    args = ["run", str(folder / "warm"), str(folder / "warm.safetensors"), "--scheme", "int8"]
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told), suppress(SystemExit):
        cli.main([*args, "--force"])  # here, so that children find the kernels loaded


def line(name: str, tally: Tally) -> str:
    """One line of the table."""
    seen = dict(tally.seen)
    trials = seen.pop("trials", 0)
    bad = sum(seen.get(kind, 0) for kind in BAD)
    rest = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.items()))
    return f"| {name} | {trials} | {bad} | {'; '.join([rest, *tally.notes]).strip('; ')} |"


def main(argv: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count", type=int, default=50, help="trials of each attack; 0: every call (default: 50)"
    )
    parser.add_argument(
        "--only", action="append", default=[], help="attacks whose name holds this; repeatable"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=3600, help="most time for one attack")
    parser.add_argument("--folder", type=Path, help="where to work; a folder of its own by default")
    parser.add_argument("--json", action="store_true", help="print what was seen as JSON")
    parser.add_argument("--list", action="store_true", help="print the names of the attacks")
    given = parser.parse_args(argv)
    chosen = [unit for unit in units() if not given.only or any(part in unit.name for part in given.only)]
    if not chosen:
        parser.error(f"no attack is named like {given.only}")
    if given.list:
        print("\n".join(unit.name for unit in chosen))
        return 0
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="attack-") as folder:
        found = attack(
            chosen,
            seed=given.seed,
            count=given.count,
            jobs=given.jobs,
            seconds=given.seconds,
            folder=Path(folder),
        )
    if given.json:
        print(json.dumps({name: tally.to_json() for name, tally in found.items()}, indent=1))
    else:
        print("| attack | trials | wrong | seen |\n|---|---|---|---|")
        for name, tally in found.items():
            print(line(name, tally))
    examples = [example for tally in found.values() for example in tally.examples]
    for example in examples:
        print(example, file=sys.stderr)
    return 1 if examples else 0


if __name__ == "__main__":
    sys.exit(main())
