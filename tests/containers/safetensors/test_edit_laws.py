"""Any sequence of edits leaves the tensors alone and the metadata equal to a plain dict."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from safetensors import safe_open

from transcode.containers.edit import edit
from transcode.io import insert_range

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "__metadata__", "format", '{"a": [1]}', "\x00", "é" * 3000, "x" * 9000, "🦀"]),
)
KEYS = st.one_of(st.sampled_from(["format", "a", "b", "ключ"]), TEXTS)
DATA = bytes(range(251)) * 17


class Edits(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "m.safetensors"
        self.can_insert = insert_range.can_insert

    def teardown(self) -> None:
        insert_range.can_insert = self.can_insert
        shutil.rmtree(self.folder)

    @initialize(metadata=st.dictionaries(KEYS, TEXTS, max_size=3), insert=st.booleans())
    def begin(self, metadata: dict[str, str], insert: bool) -> None:
        if not insert:  # the way of file systems that cannot, too
            insert_range.can_insert = lambda folder: False
        table: dict[str, object] = {"__metadata__": metadata} if metadata else {}
        half = len(DATA) // 2
        table["t"] = {"dtype": "U8", "shape": [half], "data_offsets": [0, half]}
        table["u"] = {"dtype": "I8", "shape": [len(DATA) - half, 1], "data_offsets": [half, len(DATA)]}
        text = json.dumps(table).encode()
        self.path.write_bytes(struct.pack("<Q", len(text)) + text + DATA)
        self.model = dict(metadata)
        self.previous: dict[str, str] | None = None

    def apply(self, wanted: dict[str, str]) -> None:
        done = edit.edit(self.path, lambda now: wanted)
        assert dict(done.before) == self.model
        if done.way != "unchanged":
            self.previous = self.model
        self.model = wanted

    @rule(values=st.dictionaries(KEYS, TEXTS, min_size=1, max_size=3))
    def set(self, values: dict[str, str]) -> None:
        self.apply({**self.model, **values})

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        gone = data.draw(st.sets(st.sampled_from(sorted(self.model)), max_size=2)) if self.model else set()
        self.apply({key: value for key, value in self.model.items() if key not in gone})

    @rule(new=KEYS, data=st.data())
    def rename(self, new: str, data: st.DataObject) -> None:
        if self.model:
            old = data.draw(st.sampled_from(sorted(self.model)))
            self.apply(
                {
                    new if key == old else key: value
                    for key, value in self.model.items()
                    if key != new or key == old
                }
            )

    @rule()
    def clear(self) -> None:
        self.apply({})

    @rule()
    def restore(self) -> None:
        if self.previous is not None:
            edit.restore(self.path)
            self.model, self.previous = self.previous, self.model

    @invariant()
    def as_the_reference_reader_sees_it(self) -> None:
        with safe_open(self.path, "np") as file:
            assert (file.metadata() or {}) == self.model
            assert list(file.metadata() or {}) is not None
            assert set(file.keys()) == {"t", "u"}
        assert self.path.read_bytes().endswith(DATA)
        raw = self.path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        assert raw[8 + length :] == DATA
        assert list(json.loads(raw[8 : 8 + length]).get("__metadata__", {})) == list(self.model)
        assert {entry.name for entry in self.folder.iterdir()} <= {
            "m.safetensors", "m.safetensors.header-backup",
        }  # fmt: skip


Edits.TestCase.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
TestEdits = Edits.TestCase
