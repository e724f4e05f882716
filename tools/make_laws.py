"""Write the list of models whose quantized conversion is held to that of the plain one, by scheme.

    python tools/make_laws.py    # write docs/guide/quantized*.md

It is read from the parameters of the tests in ``tests/stages/test_structure.py``; needs diffusers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

__all__ = ["main", "page", "table"]

ROOT = Path(__file__).parents[1]
PAGES = ("quantized.md", "quantized.zh.md")
"""In docs/guide: the table stands between two marks."""

_MARKS = "<!-- laws -->\n", "<!-- end of laws -->\n"
_ALWAYS, _WHOLE = "✓", "`--all`"


def table(tests: Any) -> str:
    """The list as Markdown: a row for each model, a column for each scheme and convention.

    Args:
        tests: the module of the tests.
    """
    cells: dict[str, dict[str, str]] = {}
    (law,) = tests.test_quantized_models_convert_as_plain_ones_do.pytestmark
    for parameter in law.args[1]:
        name, spelled = parameter.values
        cells.setdefault(name, {})[spelled] = _WHOLE if parameter.marks else _ALWAYS
    (law,) = tests.test_quantized_sdxl_converts_as_a_plain_one_does.pytestmark
    cells["sdxl"] = dict.fromkeys(law.args[1], _ALWAYS)
    columns = sorted({spelled for row in cells.values() for spelled in row})
    lines = [f"| | | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for name, row in sorted(cells.items()):
        held = " | ".join(row.get(spelled, "") for spelled in columns)
        lines.append(f"| {name} | `{tests.TINY[name].family}` | {held} |")
    return "\n".join(lines)


def page(text: str, rows: str) -> str:
    """A page with the table put in."""
    before, _, rest = text.partition(_MARKS[0])
    _, _, after = rest.partition(_MARKS[1])
    return f"{before}{_MARKS[0]}\n{rows}\n\n{_MARKS[1]}{after}"


def main() -> int:
    """See the module."""
    sys.path.insert(0, str(ROOT))
    from tests.stages import test_structure

    for name in PAGES:
        path = ROOT / "docs" / "guide" / name
        path.write_text(page(path.read_text("utf-8"), table(test_structure)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
