"""The figures of the journal's cost are of real conversions."""

from __future__ import annotations

import json

import bench_journal

from transcode.execution import journal, working


def test_what_is_done_for_the_journal_is_counted(tmp_path, capsys, monkeypatch):
    words = ["bench", "--json", "--rounds", "1", "--size", "67MB", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    before = working._INTERVAL, journal.extend
    bench_journal.main()
    table = json.loads(capsys.readouterr().out)
    assert table.keys() == {"journal", "often", "none"}
    assert all(row["cpu"] > row["noting"] > 0 for row in table.values())
    head = len(journal._line({"format": journal._HEAD, "plan": 64 * "0"}))
    assert all(row["bytes"] >= head for row in table.values())
    assert all(0 < row["share"] <= row["share_synced"] < 1 for row in table.values())
    assert (working._INTERVAL, journal.extend) == before
    assert not list(tmp_path.iterdir())
