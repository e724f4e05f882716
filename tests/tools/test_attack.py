"""The attack tool at a small count: nothing that must not be seen is seen, and what is broken is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and looks into /proc")

BREAK = """
import sys
sys.path.insert(0, {tools!r})
import attack
{mistake}
sys.exit(attack.main({args!r}))
"""

NO_SYNC = """
from transcode.io.directory import Directory
Directory.sync = lambda self: None
"""
DEEP = """
from transcode import recipe
parse = recipe.parse
recipe.parse = lambda text: {}["performance"] if "performance" in text else parse(text)
"""
NO_REPAIR = """
import os
from transcode.containers.edit import edit, undo
real = undo.begin
undo.begin = lambda *args: (real(*args), os.unlink(undo.undo_path(args[0])))[0]
"""
LAX = """
from transcode.containers.safetensors import header
header._check_offsets = lambda entries, size, file: None
"""


def attack(folder: Path, *args: str, mistake: str = "") -> tuple[int, dict, str]:
    given = ["--json", "--jobs", "2", "--seed", "1", "--folder", str(folder), *args]
    script = BREAK.format(tools=str(ROOT / "tools"), mistake=mistake, args=given)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


@linux
def test_nothing_that_must_not_be_seen_is_seen(tmp_path: Path) -> None:
    only = (
        "kill at calls",
        "signal",
        "error at calls",
        "power cut",
        "source changes: cut, ",
        "at once",
        "sent, and ended: ",
        "hostile",
        "fuzz",
    )
    code, found, said = attack(
        tmp_path, "--count", "2", *[word for name in only for word in ("--only", name)]
    )
    assert code == 0, said
    for name, tally in found.items():
        assert tally["examples"] == [], name
        assert tally["seen"].get("trials", 0) >= 1 or tally["notes"], name
    assert found["hostile: headers"]["seen"]["trials"] == 800
    assert found["hostile: headers"]["seen"]["both read the same"] > 20
    assert found["fuzz: headers"]["seen"]["both read the same"] > 2
    assert found["fuzz: adapter configurations"]["seen"]["planned"] > 2
    assert not list(tmp_path.iterdir())


@linux
@pytest.mark.parametrize(
    ("mistake", "only", "seen"),
    [
        (NO_SYNC, "power cut: run: into a folder", "MIXED"),
        (NO_REPAIR, "kill at calls: meta: three files, growing", "WRONG"),
        (LAX, "hostile: headers", "WRONG"),
        (LAX, "fuzz: headers", "WRONG"),
        (DEEP, "fuzz: recipes", "TRACEBACK"),
    ],
)
def test_what_is_broken_is_seen(mistake: str, only: str, seen: str, tmp_path: Path) -> None:
    """A mistake is made in the code under attack, in the child."""
    code, found, said = attack(tmp_path, "--count", "12", "--only", only, mistake=mistake)
    assert code == 1
    assert found[only]["seen"].get(seen, 0) > 0, found
    assert f"{seen}: " in said
