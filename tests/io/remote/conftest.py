"""No test waits, and none has what another one read."""

from __future__ import annotations

import pytest

from transcode.io.remote import bytes as remote_bytes
from transcode.io.remote import folder, patience, places


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(patience, "FIRST", 0.001)
    for module, name in ((remote_bytes, "_HEADS"), (folder, "_OPENED"), (places, "_STORES")):
        monkeypatch.setattr(module, name, {})
