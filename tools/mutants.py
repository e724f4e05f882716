"""Do the tests notice a mistake? Make each mistake of a list, and run the test that must fail.

    python tools/mutants.py [--only TEXT]... [--jobs N] [--timeout SECONDS] [--list] [FILE]

FILE (``mutants.yaml`` beside this program) maps the path of a source file to a list of mutants:

    transcode/core/spec.py:
      - name: any number of rows fills whole bytes
        old: "8 // gcd(8, self.row_bits) if self.row_bits else 1"
        new: "1"
        test: tests/core/test_spec.py::test_worked_grains

``old`` is a piece of one line that occurs once in the file, ``new`` what stands there instead, ``test`` what
is handed to pytest, several arguments apart by spaces. The tree is copied to a temporary folder; nothing is
changed in place. First all the tests are run as the code is, as what fails anyway notices nothing.

Each mutant is ``killed`` (a test failed, or ran out of time), ``survived`` (all passed: a hole in the tests),
or ``stale`` (the list no longer fits: ``old`` is not there once, the test is not there, or nothing can be
imported). Exit codes: 0 all killed, 1 some survived, 2 some are stale, or wrong usage.
"""

from __future__ import annotations

import argparse
import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["LIST", "Mutant", "Outcome", "Unusable", "exit_code", "judge", "load", "main", "stale"]

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tools" / "mutants.yaml"
_TREE = ("transcode", "formats", "fixtures", "tests", "tools", "pyproject.toml", "README.md", "CHANGELOG.md")
_NO_TEST = (4, 5)
"""Exit codes of pytest: a node that is not there; nothing was selected."""


class Unusable(Exception):
    """The list, or the tree, is not what it must be; the message says how."""


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        file: path below the root.
        name: what goes wrong, in words; unique in its file.
        old, new: a piece of one line, and what stands there instead.
        test: arguments of pytest.
    """

    file: str
    name: str
    old: str
    new: str
    test: str

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: ``killed``, ``survived`` or ``stale``, after how many seconds, and why."""

    mutant: Mutant
    verdict: str
    seconds: float = 0.0
    why: str = ""


def load(path: Path = LIST) -> list[Mutant]:
    """The mutants of a list.

    Raises:
        Unusable: it is not such a list.
    """
    try:
        table = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise Unusable(f"{path}: {error}") from None
    if not isinstance(table, dict):
        raise Unusable(f"{path}: is no mapping of files to mutants")
    made: list[Mutant] = []
    for file, entries in table.items():
        for entry in entries or ():
            fields = entry if isinstance(entry, dict) else {}
            wrong = fields.keys() ^ {"name", "old", "new", "test"}
            if wrong or not all(isinstance(value, str) for value in fields.values()):
                raise Unusable(f"{path}: {file}: {entry!r}: wants name, old, new and test, all of them text")
            made.append(Mutant(str(file), **fields))
    for name, count in Counter(map(str, made)).items():
        if count > 1:
            raise Unusable(f"{path}: {name!r} is there {count} times")
    return made


def stale(mutant: Mutant, root: Path = ROOT) -> str | None:
    """Why a mutant does not fit the tree any more, or None. Runs nothing."""
    if "\n" in mutant.old or "\n" in mutant.new or not mutant.old.strip():
        return "old and new must be pieces of one line"
    if mutant.old == mutant.new:
        return "old and new are the same"
    path = root / mutant.file
    if not path.is_file():
        return f"there is no {mutant.file}"
    count = path.read_text("utf-8").count(mutant.old)
    if count != 1:
        return f"{mutant.old!r} occurs {count} times"
    for argument in shlex.split(mutant.test):
        file, _, node = argument.partition("::")
        if file.endswith(".py") and not (root / file).is_file():
            return f"there is no {file}"
        name = node.partition("[")[0].rpartition("::")[2]
        if name and f"def {name}(" not in (root / file).read_text("utf-8"):
            return f"{file} has no {name}"
    return None


class _Tree:
    """A copy of the repository in which one mutant at a time lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        skip = shutil.ignore_patterns("__pycache__", ".*")
        for name in _TREE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=skip)
            elif source.exists():
                shutil.copy2(source, folder / name)

    def test(self, arguments: Sequence[str], timeout: float, *, own_kernels: bool) -> tuple[int | None, str]:
        """pytest's exit code, None if it ran out of time, and what it printed."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {
            **os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(temporary),
        }  # fmt: skip
        environment.pop("NUMBA_CACHE_DIR", None)
        if own_kernels:  # wrong kernels stay out of the user's cache
            environment["XDG_CACHE_HOME"] = str(self.folder / "cache")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
        child = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        try:
            out, _ = child.communicate(timeout=timeout)
            return child.returncode, out
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            if child.poll() is None:
                child.kill()
                child.communicate()
            shutil.rmtree(temporary, ignore_errors=True)


def judge(mutant: Mutant, tree: _Tree, timeout: float) -> Outcome:
    """Let a mutant live in a tree for as long as its test takes."""
    path = tree.folder / mutant.file
    text = path.read_text("utf-8")
    began = time.monotonic()
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    try:
        kernels = mutant.file.startswith("transcode/numerics/")
        code, out = tree.test(shlex.split(mutant.test), timeout, own_kernels=kernels)
    finally:
        path.write_text(text, "utf-8")
        shutil.rmtree(tree.folder / "cache", ignore_errors=True)
    seconds = time.monotonic() - began
    last = next((line for line in reversed(out.splitlines()) if line.strip()), "")
    if code is None:
        return Outcome(mutant, "killed", seconds, "ran out of time")
    if code == 0:
        return Outcome(mutant, "survived", seconds, "the test passes")
    if code < 0:  # of a signal: machine code that is wrong may end all
        return Outcome(mutant, "killed", seconds, f"died of signal {-code}")
    if code in _NO_TEST:
        return Outcome(mutant, "stale", seconds, f"no such test: {last}")
    if code != 1 or "while loading conftest" in out or "rrors during collection" in out:
        return Outcome(mutant, "stale", seconds, f"nothing could be run: {last}")
    return Outcome(mutant, "killed", seconds)


def _baseline(mutants: Sequence[Mutant], tree: _Tree, timeout: float) -> None:
    """Run all tests of the list as the code is. Raises Unusable if one fails."""
    plain: list[str] = []
    chosen: list[str] = []
    for mutant in mutants:
        (chosen if " " in mutant.test else plain).append(mutant.test)
    for arguments in ([*dict.fromkeys(plain)], *map(shlex.split, dict.fromkeys(chosen))):
        if not arguments:
            continue
        code, out = tree.test(arguments, timeout * 10, own_kernels=False)
        if code != 0:
            shown = "\n".join(out.splitlines()[-8:])
            raise Unusable(f"tests fail without any mutant: {' '.join(arguments)[:300]}\n{shown}")


def _all(mutants: Sequence[Mutant], jobs: int, timeout: float, folder: Path) -> Iterator[Outcome]:
    """Outcomes as they come, from as many trees as there are jobs."""
    todo: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    for mutant in mutants:
        todo.put(mutant)
    first = _Tree(folder / "0")
    _baseline(mutants, first, timeout)

    def work(number: int) -> None:
        try:
            tree = first if number == 0 else _Tree(folder / str(number))
            while True:
                try:
                    mutant = todo.get_nowait()
                except queue.Empty:
                    return
                done.put(judge(mutant, tree, timeout))
        except BaseException as error:
            done.put(error)

    for number in range(jobs):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    for _ in mutants:
        outcome = done.get()
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome


def _parts(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A table: of each part of the house, how many were killed."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(Path(outcome.mutant.file).parts[1], []).append(outcome)
    yield f"{'part':12} {'mutants':>8} {'killed':>8} {'survived':>9} {'stale':>6}"
    for part, group in (*sorted(groups.items()), ("all", list(outcomes))):
        count = Counter(outcome.verdict for outcome in group)
        yield f"{part:12} {len(group):8} {count['killed']:8} {count['survived']:9} {count['stale']:6}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make mistakes, and see whether the tests notice.")
    parser.add_argument("file", nargs="?", type=Path, default=LIST, help="the list of mutants")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="those whose name has it")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once, each in a copy of the tree")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one; a hang is noticed too")
    parser.add_argument("--list", action="store_true", help="name them, check that they fit, run nothing")
    given = parser.parse_args(arguments)
    try:
        every = load(given.file)
        mutants = [one for one in every if not given.only or any(text in str(one) for text in given.only)]
        if not mutants:
            raise Unusable("no mutant has such a name")
        if given.jobs < 1 or given.timeout <= 0:
            raise Unusable("--jobs and --timeout must be positive")
        old = [Outcome(one, "stale", why=why) for one in mutants if (why := stale(one)) is not None]
        fresh = [one for one in mutants if one not in [outcome.mutant for outcome in old]]
        for outcome in old:
            print(f"stale     {outcome.mutant}: {outcome.why}")
        if given.list:
            for one in fresh:
                print(one)
            return 2 if old else 0
        outcomes = list(old)
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            for outcome in _all(fresh, given.jobs, given.timeout, Path(folder)) if fresh else ():
                why = f" ({outcome.why})" if outcome.why else ""
                print(f"{outcome.verdict:9} {outcome.seconds:6.1f} s  {outcome.mutant}{why}", flush=True)
                outcomes.append(outcome)
    except Unusable as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    print()
    print("\n".join(_parts(outcomes)))
    return exit_code(outcomes)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 if all were killed, 1 if some survived, 2 if some are stale."""
    verdicts = {outcome.verdict for outcome in outcomes}
    return 2 if "stale" in verdicts else 1 if "survived" in verdicts else 0


if __name__ == "__main__":
    raise SystemExit(main())
