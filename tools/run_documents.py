"""Run every command, Python block and recipe of README.md and docs/, in a temporary folder for each page.

    python tools/run_documents.py                  # all pages: ends with 1 and says what is not as it stands
    python tools/run_documents.py docs/use/vllm.md
    python tools/run_documents.py --update         # write what commands print now into the pages

Blocks of a page run in their order and in one folder, as a reader would type them:

* ``sh``: lines of commands, none of which may fail.
* ``console``: commands after ``$ ``, and below each what it prints, which is compared. A line ``...``
  stands for any lines. Times, rates and checksums may differ.
* ``python``: is run; names live on in the page's next block.
* ``yaml``: a recipe, which is read.
* any other language, ``text`` for one, is not looked at: for servers and GPUs that a test has not.

A Chinese page (``page.zh.md``) holds the same blocks, which ``tests/test_documents.py`` compares, so it is
not run by itself; ``--update`` writes into it what the English one says.

Comments on a line of their own say the rest, of the next block: ``<!-- with: NAME=KIND, ... -->`` lets the
folder hold what ``document_files.py`` knows by that kind (``hf:ORG/NAME=KIND`` the hub's cache, which is the
page's own), ``<!-- file: NAME -->`` writes the block to a file, ``<!-- exit: 2 -->`` is the exit code of its
last command, ``<!-- shown -->`` says that it is not run.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Block", "Trouble", "blocks", "carried", "originals", "pages", "run_page", "translation"]

ROOT = Path(__file__).parents[1]
WIDTH = "100"

_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_COMMENT = re.compile(r"^ *<!-- (\w+)(?:: (.*?))? -->$")
_VARYING = (
    (re.compile(r"\b\d+(\.\d+)? (ms|s)\b"), "# s"),
    (re.compile(r"\b\d+(\.\d+)? ([kMGT]?i?B)/s"), "# B/s"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "#"),
)
_IDLE = re.compile(r".*compiling kernels.*\n?")


class Trouble(Exception):
    """A page does not hold what it says; the text names page and line."""


@dataclass
class Block:
    """A fenced block.

    Attributes:
        line: of its opening fence, from 1.
        notes: of the comments before it.
    """

    language: str
    line: int
    lines: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


def pages() -> list[Path]:
    """README and every page of docs, in all languages."""
    return [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def originals() -> list[Path]:
    """The pages that are run: those in English."""
    return [page for page in pages() if not page.name.endswith(".zh.md")]


def translation(page: Path) -> Path:
    """Where the Chinese of an English page stands."""
    return page.with_name(f"{page.stem}.zh.md")


def carried(original: str, translated: str) -> str:
    """A translated page that shows what the commands of the original page are said to print.

    Raises:
        ValueError: the pages have not the same number of blocks.
    """
    lines = translated.splitlines()
    for new, old in reversed(list(zip(blocks(original), blocks(translated), strict=True))):
        if new.language == "console":
            lines[old.line : old.line + len(old.lines)] = new.lines
    return "\n".join(lines) + "\n"


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    notes: dict[str, str] = {}
    block: Block | None = None
    indent = ""
    for number, line in enumerate(text.splitlines(), 1):
        if block is not None:
            if line.strip() == "```":
                found.append(block)
                block = None
            else:
                block.lines.append(line.removeprefix(indent))
        elif fence := _FENCE.match(line):
            indent = fence[1]
            block, notes = Block(fence[2], number, notes=notes), {}
        elif comment := _COMMENT.match(line):
            notes[comment[1]] = comment[2] or ""
    return found


@dataclass(frozen=True)
class _Command:
    text: str
    first: int
    """Index of its first line in the block."""
    printed: list[str]
    """What the page says that it prints."""


def _commands(block: Block) -> Iterator[_Command]:
    """The commands of a block, lines that go on joined."""
    console = block.language == "console"
    index = 0
    while index < len(block.lines):
        line, first = block.lines[index], index
        index += 1
        if console and not line.startswith("$ "):
            raise ValueError("the first line of a console block is no command")
        text = line.removeprefix("$ ") if console else line
        while text.endswith("\\") and index < len(block.lines):
            text = text[:-1] + block.lines[index].strip()
            index += 1
        printed: list[str] = []
        while console and index < len(block.lines) and not block.lines[index].startswith("$ "):
            printed.append(block.lines[index])
            index += 1
        if text.strip() and not text.lstrip().startswith("#"):
            yield _Command(text, first, printed)


class _Page:
    """A page that is being run."""

    def __init__(self, path: Path, folder: Path, *, update: bool) -> None:
        self.path = path
        self.folder = folder
        self.update = update
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.text = path.read_text(encoding="utf-8")

    def run(self) -> None:
        changes: list[tuple[int, int, list[str]]] = []
        for block in blocks(self.text):
            try:
                changes += self._block(block)
            except Trouble:
                raise
            except Exception as error:
                raise self._trouble(block, f"{type(error).__name__}: {error}") from error
        if changes:
            lines = self.text.splitlines()
            for start, stop, new in reversed(changes):
                lines[start:stop] = new
            updated = "\n".join(lines) + "\n"
            self.path.write_text(updated, encoding="utf-8")
            if (chinese := translation(self.path)).exists():
                chinese.write_text(carried(updated, chinese.read_text(encoding="utf-8")), encoding="utf-8")

    def _trouble(self, block: Block, what: str, index: int = -1) -> Trouble:
        return Trouble(f"{self.path.relative_to(ROOT)}:{block.line + 1 + index}: {what}")

    def _block(self, block: Block) -> list[tuple[int, int, list[str]]]:
        from document_files import KINDS, in_hub_cache

        for entry in filter(None, (entry.strip() for entry in block.notes.get("with", "").split(","))):
            name, _, kind = entry.partition("=")
            if kind not in KINDS:
                raise self._trouble(block, f"no kind {kind!r} of files, only {', '.join(KINDS)}")
            path = in_hub_cache(name) if name.startswith("hf:") else self.folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                KINDS[kind](path)
        if (own := block.notes.get("file")) is not None:
            (self.folder / own).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / own).write_text(block.text, encoding="utf-8")
        if "shown" in block.notes:
            return []
        if block.language in ("sh", "bash", "console"):
            return self._shell(block)
        if block.language == "python":
            exec(compile(block.text, str(self.path), "exec"), self.names)
        elif block.language in ("yaml", "yml"):
            from transcode import recipe

            recipe.parse(block.text, file=str(self.path.name))
        return []

    def _shell(self, block: Block) -> list[tuple[int, int, list[str]]]:
        changes = []
        commands = list(_commands(block))
        for command in commands:
            expected = int(block.notes.get("exit", "0")) if command is commands[-1] else 0
            code, output = _run(command.text, self.folder)
            if code != expected:
                what = f"`{command.text}` ends with {code}, not {expected}:\n{output}"
                raise self._trouble(block, what, command.first)
            if block.language == "sh" or block.language == "bash":
                continue
            printed = [line.rstrip() for line in _IDLE.sub("", output).splitlines()]
            while printed and not printed[-1]:
                printed.pop()
            if _alike(command.printed, printed):
                continue
            if not self.update:
                differing = "\n".join(
                    difflib.unified_diff(command.printed, printed, "page", "now", lineterm="")
                )
                raise self._trouble(
                    block, f"`{command.text}` prints something else\n{differing}", command.first
                )
            stop = block.line + _end(block, command)
            changes.append((stop - len(command.printed), stop, _shortened(command.printed, printed)))
        return changes


def _end(block: Block, command: _Command) -> int:
    """Index, in the block, behind the last line that a command prints."""
    index = command.first + 1
    while block.lines[index - 1].endswith("\\"):
        index += 1
    return index + len(command.printed)


def _alike(page: list[str], now: list[str]) -> bool:
    """Whether a command prints what a page says."""
    pattern = "".join(r"(?:.*\n)*" if line == "..." else re.escape(_steady(line)) + r"\n" for line in page)
    return re.fullmatch(pattern, "".join(f"{_steady(line)}\n" for line in now)) is not None


def _steady(line: str) -> str:
    """A line without what differs from run to run; how wide a column is then, too."""
    for pattern, stands_for in _VARYING:
        line = pattern.sub(stands_for, line)
    return re.sub(r"  +", "  ", line)


def _shortened(page: list[str], now: list[str]) -> list[str]:
    """What is printed now, left out where the page leaves something out."""
    if "..." not in page:
        return now
    head = page.index("...")
    tail = len(page) - 1 - page[::-1].index("...")
    return [*now[:head], "...", *now[len(now) - (len(page) - tail - 1) :]]


def _run(text: str, folder: Path) -> tuple[int, str]:
    """Exit code and output of one command. ``transcode`` runs in this process, what needs a shell in bash."""
    words = shlex.split(text, comments=True)
    if words[0] == "make":
        return _known_target(words)
    if words[:2] == ["pip", "install"]:
        return _known_extra(words)
    pipeline, target = _pipeline(text)
    if pipeline:
        return _transcode(pipeline, target)
    shims = folder.parent / "bin"
    shims.mkdir(exist_ok=True)
    for name, module in (("transcode", ["-m", "transcode"]), ("python", [])):
        script = shims / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *module])} "$@"\n')
        script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment["COLUMNS"] = WIDTH
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", text], cwd=folder, env=environment, timeout=300, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout


def _pipeline(text: str) -> tuple[list[list[str]], str | None]:
    """Arguments of each ``transcode`` of a line, and the file that takes what the last one prints.

    None where anything in it is another program's, or asks for more of a shell than pipes.
    """
    reader = shlex.shlex(text, posix=True, punctuation_chars="|<>&;()")
    reader.whitespace_split = True
    words = list(reader)
    target = None
    if len(words) > 2 and words[-2] == ">":
        target, words = words[-1], words[:-2]
    commands = [list(group) for bar, group in itertools.groupby(words, "|".__eq__) if not bar]
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", text.partition(" #")[0])
    known = all(command[0] == "transcode" for command in commands)
    if (
        not known
        or set(words) & {">", "<", ">>", "&&", "||", "&", ";", "(", ")"}
        or re.search(r"[*?$`]", unquoted)
    ):
        return [], None
    return [command[1:] for command in commands], target


def _transcode(pipeline: list[list[str]], target: str | None) -> tuple[int, str]:
    """Run the commands in this process, each on what the one before has printed; returns as :func:`_run`."""
    said, passed, code = "", b"", 0
    for number, arguments in enumerate(pipeline):
        last = number == len(pipeline) - 1 and target is None
        out, both = _stream(), _stream()
        stdin = sys.stdin
        sys.stdin = _stream(passed)
        try:
            with contextlib.redirect_stdout(both if last else out), contextlib.redirect_stderr(both):
                code = max(code, _exit_code(arguments))
        finally:
            sys.stdin = stdin
        passed = _bytes(out)
        said += _bytes(both).decode()
    if target is not None:
        Path(target).write_bytes(passed)
    return code, said


def _exit_code(arguments: list[str]) -> int:
    from transcode.cli import main

    try:
        main(arguments)
    except SystemExit as exited:
        return exited.code if isinstance(exited.code, int) else int(exited.code is not None)
    return 0


def _stream(content: bytes = b"") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", write_through=True)


def _bytes(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue()


def _known_target(words: list[str]) -> tuple[int, str]:
    """Targets of make run in .ci/run; here they must be there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    unknown = [
        word for word in words[1:] if "=" not in word and not re.search(rf"^{word}:", makefile, re.MULTILINE)
    ]
    return (2, f"the Makefile has no {', '.join(unknown)}") if unknown else (0, "")


def _known_extra(words: list[str]) -> tuple[int, str]:
    """tools/check_wheel.py installs; here names and extras must be the project's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words[2:]:
        named = re.fullmatch(r"(\.|[\w-]+)(?:\[(\w+)\])?", word)
        if word.startswith("-"):
            continue
        if named is None or named[1] not in (".", project["name"]):
            return 1, f"{word} is not this project"
        if named[2] is not None and named[2] not in project["optional-dependencies"]:
            return 1, f"this project has no extra {named[2]!r}"
    return 0, ""


def run_page(path: Path, folder: Path, *, update: bool = False) -> None:
    """Run one page in a folder, whose parent may hold what the page does not see.

    Raises:
        Trouble: a command fails, prints something else, or a recipe is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    set_here = {"COLUMNS": WIDTH, "HF_HUB_CACHE": str(folder.absolute().parent / "hub")}
    before = {name: os.environ.get(name) for name in set_here}
    os.environ |= set_here
    try:
        with contextlib.chdir(folder):
            _Page(path, folder, update=update).run()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> int:
    """Run the pages of the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--update", action="store_true", help="write what commands print into the pages")
    arguments = parser.parse_args()
    failed = 0
    for page in [path.resolve() for path in arguments.pages] or originals():
        with tempfile.TemporaryDirectory() as folder:
            try:
                run_page(page, Path(folder) / "page", update=arguments.update)
            except Trouble as trouble:
                print(trouble)
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
