"""Kill a run while it moves its files into a folder that is in use. Run as a program, by ``test_commit.py``.

``python committing.py FOLDER MODE`` prints JSON: what was found after a kill at the entry of each system call
of ``commit`` (MODE ``calls``), or after each call of them failed with an I/O error (MODE ``errors``).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from attacks.engine import Injection, fork, kill_at
from attacks.engine import failing as error_of
from safetensors.numpy import load_file, save_file

import transcode as tc
from transcode.containers.source import open_source
from transcode.errors import TranscodeError
from transcode.execution import staging
from transcode.execution.execute import execute

NAMES = [f"blocks.{number}.weight" for number in range(4)]
CALLS = ("open", "stat", "fsync", "replace", "unlink", "write", "pwrite", "listdir")
INDEX = "model.safetensors.index.json"


def source(folder: Path, value: int) -> Path:
    folder.mkdir()
    save_file({name: np.full((8, 8), value, np.float32) for name in NAMES}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"value": value}))
    return folder


def staged(folder: Path, value: int) -> staging.Staging:
    """A run that has done all but its commit."""
    flow = tc.open(folder / f"source-{value}")
    write = tc.write(folder / "out", max_tensors=1, force=True, workers=1)
    plan = write.plan(flow)
    write.check(plan)
    run = staging.Staging(plan).__enter__()
    execute(plan, run)
    return run


def commit(run: staging.Staging) -> None:
    try:
        run.commit()
    finally:
        run.__exit__(None, None, None)


def values(out: Path) -> set[int]:
    """Of all tensors that a loader finds that knows nothing of us: by the index, else none."""
    if not (out / INDEX).exists() or not (out / "config.json").exists():
        return set()
    listed = json.loads((out / INDEX).read_text())["weight_map"]
    assert sorted(listed) == NAMES
    found = {int(load_file(out / file)[name].max()) for name, file in listed.items()}
    return found | {json.loads((out / "config.json").read_text())["value"]}


def judge(out: Path, seen: Counter[str]) -> None:
    before = values(out)
    assert len(before) < 2, f"a valid index over a mixture: {before}"
    seen["no index for a loader that knows nothing of us"] += not before
    with open_source(out) as found:  # what every command does
        assert len(found.tensors) == len(NAMES)
        after = {int(tensor.numpy().max()) for tensor in found.tensors}
    assert len(after) == 1, f"a mixture: {after}"
    assert values(out) == after, (values(out), after)
    seen["old" if after == {1} else "new"] += 1


def main(folder: Path, mode: str) -> None:
    source(folder / "source-1", 1)
    source(folder / "source-2", 2)
    out = folder / "out"
    commit(staged(folder, 1))
    shutil.copytree(out, folder / "old")
    seen: Counter[str] = Counter()
    number = 1
    while True:
        shutil.rmtree(out)
        shutil.copytree(folder / "old", out)
        if mode == "calls":
            more = kill_at(number, commit, prepare=lambda: staged(folder, 2))
        else:
            more = failing(number, folder)
        judge(out, seen)
        if not more:
            break
        number += 1
    assert values(out) == {2}
    seen["trials"] = number - 1
    # Whatever a run left behind before it was decided, the next one clears.
    commit(staged(folder, 2))
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    print(json.dumps(seen))


def failing(number: int, folder: Path) -> bool:
    """Commit in a child with the N-th call of the file system answering EIO. False if there were fewer."""

    def action() -> None:
        run = staged(folder, 2)
        injection = Injection(folder, number, error_of(errno.EIO), CALLS)
        injection.install()
        try:
            commit(run)
        except TranscodeError as error:
            os._exit(3 if "Input/output error" in str(error) else 1)
        os._exit(0 if injection.seen < number else 3)

    _, status = os.waitpid(fork(action), 0)
    assert os.WIFEXITED(status), status
    assert os.WEXITSTATUS(status) in (0, 3), status
    return os.WEXITSTATUS(status) == 3


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
