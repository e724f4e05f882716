"""Kill a run before each of its calls that change the disk. Run as a program, by ``test_crash.py``.

``python killing_sink.py FOLDER WAY`` prints JSON. A child is forked for every trial; it dies before its N-th
call of the functions in :data:`CALLS`, for N = 1, 2, ... until a run gets to its end. WAY is ``file`` (one
that exists is replaced), ``fresh`` (a folder that is absent) or ``there`` (a folder that holds the same model
in an older version).
"""

from __future__ import annotations

import json
import shutil
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks.engine import Injection, dying, survives

import transcode as tc

CALLS = ("open", "close", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir")
TENSORS = 4


def save(path: Path, shift: int) -> None:
    """A checkpoint of some tensors of bytes, written without the code under test."""
    table, data = {}, b""
    for number in range(TENSORS):
        values = bytes((shift + number + i) % 256 for i in range(1000))
        table[f"t{number}"] = {"dtype": "U8", "shape": [1000], "data_offsets": [len(data), len(data) + 1000]}
        data += values
    text = json.dumps(table).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    (path.parent / "config.json").write_text(json.dumps({"shift": shift}))


def contents(folder: Path) -> dict[str, bytes]:
    if folder.is_file():
        return {"": folder.read_bytes()}
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def killed(number: int, folder: Path, action: Callable[[], object]) -> bool:
    """Whether an action was killed before its N-th call; False if it ended before."""

    def injected() -> None:
        Injection(folder, number, dying(signal.SIGKILL), CALLS).install()
        action()

    return not survives(injected)


def main(root: str, way: str) -> None:
    folder = Path(root)
    target = folder / ("out.safetensors" if way == "file" else "out")
    sources = [folder / name / "model.safetensors" for name in ("old", "new")]
    for shift, path in enumerate(sources):
        save(path, 100 * shift)

    def write(source: Path, to: Path) -> None:
        options: dict[str, Any] = {} if way == "file" else {"max_tensors": 1}
        tc.open(source.parent) | tc.write(to, force=True, workers=1, convention="plain", **options)

    wanted = []
    for name, source in zip(("old", "new"), sources, strict=True):
        right = folder / "right" / name / target.name
        write(source, right)
        wanted.append(contents(right))
    old, new = wanted
    assert way == "file" or (old.keys() == new.keys() and len(new) == TENSORS + 2)
    seen: Counter[str] = Counter()
    number = 0
    while True:
        number += 1
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        if way != "fresh":
            write(sources[0], target)
        done = not killed(number, folder, lambda: write(sources[1], target))
        found = contents(target) if target.exists() else {}
        if way == "there":
            state = "old" if found == old else "new" if found == new else "between"
            assert found.keys() <= old.keys()
            assert all(found[key] in (old[key], new[key]) for key in found)
            keys = {key for key in old if key.endswith(".json")}
            assert old.keys() - found.keys() <= keys, "weights were taken away"
            weights = {key: found[key] for key in old.keys() - keys}
            whole = [all(weights[key] == one[key] for key in weights) for one in (old, new)]
            # Programs that know nothing of the record trust an index and a configuration.
            assert keys - found.keys() or any(whole), "an index and a configuration over a mixture"
        else:
            before = old if way == "file" else {}
            assert found in (before, new), sorted(found)
            state = "new" if found == new else "old"
        seen[state] += 1
        left = [path for path in folder.rglob("*transcode-part*") if path.is_dir()]
        seen["remnants"] += bool(left)
        assert survives(lambda: write(sources[1], target)), "the next run failed"
        assert contents(target) == new
        strangers = [str(path) for path in folder.rglob(".*")]
        assert not strangers, strangers
        if done:
            break
    print(json.dumps({**seen, "calls": number - 1}))


if __name__ == "__main__":
    main(*sys.argv[1:])
