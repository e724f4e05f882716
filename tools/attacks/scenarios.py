"""The commands that are attacked, and what their output may be: the old one or the new one, no mixture."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engine import Injection, Outcome, Tally, command

__all__ = ["EDITS", "RUNS", "SCENARIOS", "Scenario", "Stage", "facts", "save"]

Facts = dict[str, Any]
TENSORS = 4
LONG = "n" * 9000


@dataclass(frozen=True)
class Scenario:
    """One command.

    Attributes:
        name: for the table.
        args: of the command line; ``{src}`` and ``{dst}`` are filled in.
        dst: name of the output.
        old: whether an older version is there.
        held: keep the file open in the child, so that an edit cannot be an insertion.
    """

    name: str
    args: tuple[str, ...]
    dst: str
    old: bool = False
    held: bool = False

    @property
    def edit(self) -> bool:
        """Whether it edits what is there."""
        return self.args[0] == "meta"


_TO = ("run", "{src}", "{dst}", "-w", "1")
RUNS = (
    Scenario("run: new file", _TO, "out.safetensors"),
    Scenario("run: over a file", (*_TO, "--force"), "out.safetensors", old=True),
    Scenario("run: new folder", (*_TO, "--max-tensors", "1"), "out"),
    Scenario("run: into a folder", (*_TO, "--max-tensors", "1", "--force"), "out", old=True),
    Scenario(
        "run: int8 by block into a folder",
        (*_TO, "--scheme", "int8", "--layout", "by_block", "--force"),
        "out",
        old=True,
    ),
)
EDITS = (
    Scenario("meta: overwrite", ("meta", "set", "{dst}", "a=n"), "out.safetensors", old=True),
    Scenario("meta: insert", ("meta", "set", "{dst}", f"a={LONG}"), "out.safetensors", old=True),
    Scenario("meta: copy", ("meta", "set", "{dst}", f"a={LONG}"), "out.safetensors", old=True, held=True),
)
SCENARIOS = (*RUNS, *EDITS)


def save(folder: Path, shift: int, *, rows: int = 8, columns: int = 64) -> None:
    """A checkpoint folder of four F32 tensors ``[rows, columns]``, written without the code under test."""
    folder.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {"__metadata__": {"format": "pt", "a": "old"}}
    data = b""
    for number in range(TENSORS):
        values = struct.pack("<f", shift + number + 0.5) * (rows * columns)
        place = [len(data), len(data) + len(values)]
        name = "head.weight" if number == 3 else f"blocks.{number}.w.weight"
        table[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": place}
        data += values
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (16 - len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps({"shift": shift}))


def facts(path: Path) -> Facts:
    """What an output says, read without the code under test; raises ValueError where a file is broken."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        return {name: _file(path / name) for name in names}
    return {"": _file(path)} if path.exists() else {}


def _file(path: Path) -> Any:
    raw = path.read_bytes()
    if path.suffix == ".json":
        return json.loads(raw)
    if len(raw) < 8:
        raise ValueError(f"{path}: {len(raw)} bytes")
    (length,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + length])
    metadata = table.pop("__metadata__", {})
    data = raw[8 + length :]
    if sum(b - a for a, b in (fields["data_offsets"] for fields in table.values())) != len(data):
        raise ValueError(f"{path}: the data section does not fit")
    tensors = {}
    for name, fields in table.items():
        begin, end = fields["data_offsets"]
        tensors[name] = (fields["dtype"], fields["shape"], data[begin:end])
    return {"metadata": metadata, "tensors": tensors}


class Stage:
    """A folder in which a scenario is played again and again."""

    def __init__(self, root: Path, scenario: Scenario) -> None:
        self.scenario = scenario
        self.root = root
        self.place = root / "place"
        self.dst = self.place / scenario.dst
        self.sources = [root / "source-old", root / "source-new"]
        for shift, source in enumerate(self.sources):
            save(source, 100 * shift)
        self._kept = root / "kept"
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        self.old: Facts = {}
        if scenario.edit:
            shutil.copy(self.sources[0] / "model.safetensors", self.dst)
        elif scenario.old:
            self._expect(command(self.args(self.sources[0])))
        if scenario.old:
            self.old = facts(self.dst)
            _copy(self.dst, self._kept)
        self.calls = self.count()
        self.new = facts(self.dst)
        assert self.new
        assert self.new != self.old

    def args(self, source: Path | None = None) -> list[str]:
        """The command line."""
        src = self.sources[1] if source is None else source
        return [arg.format(src=src, dst=self.dst) for arg in self.scenario.args]

    def reset(self) -> None:
        """As it was before the command."""
        for entry in self.place.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if self._kept.exists():
            _copy(self._kept, self.dst)

    def play(self, install: Callable[[], None] | None = None, **options: Any) -> Outcome:
        """Run the command from the beginning."""
        self.reset()

        def both() -> None:
            if self.scenario.held:
                os.open(self.dst, os.O_RDONLY)
            if install is not None:
                install()

        return command(self.args(), install=both, **options)

    def count(self) -> int:
        """Calls of the whole command."""
        with open(self.root / "calls", "w+") as told:
            counter = Injection(self.place, 0, lambda name: None)

            def counting() -> None:
                counter.install()
                real = os._exit

                def leave(code: int) -> None:
                    os.pwrite(told.fileno(), str(counter.seen).encode(), 0)
                    real(code)

                os._exit = leave  # type: ignore[assignment]

            self._expect(self.play(counting))
            told.seek(0)
            return int(told.read())

    def judge(self, outcome: Outcome, tally: Tally, where: str) -> None:
        """Look at what is left: as a program that knows nothing of us, then as our own commands do."""
        wrong = outcome.fault()
        if wrong is not None:
            tally.add(wrong[0], f"{where}: {wrong[1]}")
        if self.dst.is_dir() and (told := self._believed()):
            tally.add("MIXED", f"{where}: for a loader: {told}")
        looked = command(["inspect", str(self.dst), "--json"])
        try:
            now = facts(self.dst)
        except (ValueError, KeyError) as error:
            tally.add("WRONG", f"{where}: broken after the next command: {error}; {looked.text[-500:]}")
            return
        state = "new" if now == self.new else "old" if now == self.old else ""
        if not state:
            old = sorted(name for name in now if now[name] == self.old.get(name))
            tally.add("MIXED", f"{where}: {sorted(now)}; old are {old}; {looked.text[-300:]}")
            return
        if looked.code != (0 if now else 2) or looked.fault() is not None:
            tally.add("WRONG", f"{where}: then inspect: {looked.code} {looked.text[-500:]}")
        if outcome.code == 0 and state != "new":
            tally.add("WRONG", f"{where}: exit code 0, and the output is the old one: {outcome.text}")
        tally.add("none" if not now else state)

    def rerun(self, tally: Tally, where: str) -> None:
        """The same command once more gives the new output and leaves nothing strange."""
        if self.dst.exists() and not self.scenario.old:
            return  # it would be refused, as it should
        again = command(self.args())
        try:
            now = facts(self.dst)
        except (ValueError, KeyError) as error:
            now = {"broken": str(error)}
        if again.code != 0 or now != self.new:
            tally.add("WRONG", f"{where}: the command again: {again.code} {again.text[-500:]}")
            return
        strange = [str(path) for path in self.place.rglob(".*")]
        if strange:
            tally.add("LEFTOVER", f"{where}: {strange}")
        tally.add("runs again")

    def _believed(self) -> str:
        """What a loader that goes by the index would mix up; empty if nothing."""
        index = next(self.dst.glob("*.index.json"), None)
        if index is None or not (self.dst / "config.json").exists():
            return ""
        try:
            named = {*json.loads(index.read_text())["weight_map"].values(), index.name, "config.json"}
            now = {name: _file(self.dst / name) for name in named}
        except (OSError, ValueError, KeyError) as error:
            return f"the index is there, but {error}"
        if any(all(now[name] == whole.get(name) for name in named) for whole in (self.old, self.new)):
            return ""
        return f"{sorted(name for name in named if now[name] != self.new.get(name))} are not new"

    @staticmethod
    def _expect(outcome: Outcome) -> None:
        assert outcome.code == 0, outcome


def _copy(source: Path, target: Path) -> None:
    (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
