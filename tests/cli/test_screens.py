"""What people see is as it is kept; ``python tools/make_screens.py`` writes what is meant to change."""

from __future__ import annotations

import make_screens
import pytest


@pytest.fixture(scope="module")
def screens() -> dict[str, str]:
    return make_screens.screens()


def names() -> list[str]:
    every = [
        f"{name}.{width}.txt" for name in ("plan", "run", "inspect", "diff", "errors") for width in (80, 120)
    ]
    return [*every, "help.80.txt"]


@pytest.mark.parametrize("name", names())
def test_screens_are_as_kept(name, screens):
    assert screens[name] == (make_screens.SCREENS / name).read_text("utf-8")


@pytest.mark.parametrize("name", names())
def test_no_line_is_wider_than_the_terminal(name, screens):
    """But for commands, and for errors and warnings, which are one line each for scripts and for search."""
    width = int(name.split(".")[1])
    kept = (line for line in screens[name].splitlines() if not line.startswith(("$ ", "transcode: ")))
    assert [line for line in kept if len(line) > width] == []


def test_nothing_else_is_kept(screens):
    assert {path.name for path in make_screens.SCREENS.iterdir()} == screens.keys() == set(names())
