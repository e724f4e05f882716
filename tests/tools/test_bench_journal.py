"""The figures of the journal's cost are of real conversions."""

from __future__ import annotations

import json

import bench_journal


def test_it_compares_with_a_run_that_notes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["bench", "--json", "--rounds", "1", "--size", "33MB", "--folder", str(tmp_path)]
    )
    monkeypatch.setattr("transcode.execution.working._INTERVAL", 3.0)  # is put back
    bench_journal.main()
    table = json.loads(capsys.readouterr().out)
    assert table.keys() == {"journal", "often", "none"}
    assert all(row["cpu"] > 0 and row["clock"] > 0 for row in table.values())
    assert table["none"]["share_cpu"] == 0
    assert not list(tmp_path.iterdir())
