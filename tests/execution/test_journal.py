"""What is noted of a run, and what of it is believed later."""

from __future__ import annotations

import json
import os
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.core.quality import Loss
from transcode.errors import PlanError
from transcode.execution import journal
from transcode.io.commit import JOURNAL
from transcode.io.directory import Directory

SPANS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda one: (one[0], sum(one))), max_size=12
)


@given(SPANS, st.integers(0, 80), st.integers(0, 80))
def test_ranges_are_sets_of_integers(spans, begin, end):
    ranges, held = journal.Ranges(), set()
    for low, high in spans:
        ranges.add(low, high)
        held |= set(range(low, high))
    assert {one for low, high in ranges for one in range(low, high)} == held
    told = list(ranges)
    assert all(low < high for low, high in told)
    assert all(one[1] < other[0] for one, other in pairwise(told))
    missing = list(ranges.missing(begin, end))
    assert all(low < high for low, high in missing)
    assert [one for low, high in missing for one in range(low, high)] == [
        one for one in range(begin, end) if one not in held
    ]


@given(table=st.dictionaries(st.sampled_from(["t0", "t1", "f0"]), SPANS))
def test_what_is_written_is_read(tmp_path_factory, table):
    with Directory(tmp_path_factory.mktemp("j")) as hidden:
        fd = journal.begin(hidden, "plan")
        ledger = journal.Ledger()
        for key, spans in table.items():
            for low, high in spans:
                ledger.note(key, low, high)
            journal.extend(fd, *ledger.take())
        os.close(fd)
        known, _ = journal.resumable(hidden, "plan")
        for key, spans in table.items():
            held = {one for low, high in spans for one in range(low, high)}
            missing = {one for low, high in known.missing(key, 0, 100) for one in range(low, high)}
            assert missing == set(range(100)) - held
        assert known.missing("t9", 3, 9) == [(3, 9)]
        assert known.missing("t9", 3, 3) == []


def test_a_line_that_is_cut_or_wrong_ends_it(tmp_path):
    with Directory(tmp_path) as hidden:
        fd = journal.begin(hidden, "plan")
        journal.extend(fd, [("t0", 0, 10)], journal.Findings())
        middle = os.fstat(fd).st_size
        journal.extend(fd, [("t0", 10, 20), ("t1", 5, 6)], journal.Findings())
        os.close(fd)
        whole = (tmp_path / JOURNAL).read_bytes()
        for size in range(middle, len(whole)):
            (tmp_path / JOURNAL).write_bytes(whole[:size])
            known, end = journal.resumable(hidden, "plan")
            assert known.missing("t0", 0, 20) == [(10, 20)]
            assert end == middle
        for at in range(middle, len(whole)):
            (tmp_path / JOURNAL).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            known, end = journal.resumable(hidden, "plan")
            assert (known.missing("t0", 0, 20), end) == ([(10, 20)], middle)
        fd = journal.reopen(hidden, middle)
        journal.extend(fd, [("t0", 12, 20)], journal.Findings())
        os.close(fd)
        known, _ = journal.resumable(hidden, "plan")
        assert known.missing("t0", 0, 20) == [(10, 12)]


def test_another_plan_is_refused(tmp_path):
    with Directory(tmp_path) as hidden:
        os.close(journal.begin(hidden, "plan"))
        with pytest.raises(PlanError, match=r"of another plan.*resume=True"):
            journal.resumable(hidden, "other")
        assert journal.resumable(hidden, "plan")[0].noted is False


HEAD = {"format": "transcode-journal-1", "plan": "p"}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"format": "something else", "plan": "p"}],
        [["a"]],
    ],
)
def test_no_journal(lines, tmp_path):
    write(tmp_path, lines)
    with Directory(tmp_path) as hidden:
        assert journal.resumable(hidden, "p") is None
        (tmp_path / JOURNAL).unlink()
        assert journal.resumable(hidden, "p") is None


@pytest.mark.parametrize(
    "line",
    [{}, {"done": []}, {"done": {"t0": 1}}, {"done": {"t0": [[1]]}}, {"done": {"t0": [[5, 5]]}},
     {"done": {"t0": [[-1, 5]]}}, {"done": {"t0": [["a", 5]]}}, {"done": {"t0": [[0, 5, 6]]}}],
)  # fmt: skip
def test_lines_that_tell_nothing(line, tmp_path):
    write(tmp_path, [HEAD, {"done": {"t0": [[0, 3]]}}, line, {"done": {"t0": [[3, 9]]}}])
    with Directory(tmp_path) as hidden:
        known, _ = journal.resumable(hidden, "p")
    assert known.missing("t0", 0, 9) == [(3, 9)]


def write(folder, tables):
    lines = [json.dumps(table).encode() for table in tables]
    text = b"".join(b"%08x %b\n" % (zlib.crc32(line), line) for line in lines)
    (folder / JOURNAL).write_bytes(text)


LOSSES = st.builds(
    Loss,
    st.floats(0, allow_nan=False),
    st.floats(0, allow_nan=False),
    st.none() | st.floats(0, allow_nan=False),
    st.floats(0, allow_nan=False),
)


@given(lost=st.lists(st.tuples(st.integers(0, 1 << 40), LOSSES), max_size=5))
def test_losses_are_read_to_the_last_bit(tmp_path_factory, lost):
    with Directory(tmp_path_factory.mktemp("j")) as hidden:
        fd = journal.begin(hidden, "plan")
        ledger = journal.Ledger()
        ledger.note("t3", 0, 10, lost)
        journal.extend(fd, *ledger.take())
        os.close(fd)
        known, _ = journal.resumable(hidden, "plan")
        assert known.findings.losses.get("t3", []) == lost
        assert known.is_begun("t3")
        assert not known.is_begun("t4")
