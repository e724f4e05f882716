"""Write the list of models with the laws of conversions that tests hold for each.

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
_ELSEWHERE = {
    "clip": "tests/stages/test_text_encoders.py",
    "decoder_llm": "tests/stages/test_language_names.py",
    "deepseek_v4": "tests/stages/test_language_names.py",
    "qwen25vl_llm": "tests/stages/test_text_encoders.py",
    "t5": "tests/stages/test_text_encoders.py",
    "wan_clip": "tests/stages/test_text_encoders.py",
    "wan_t5": "tests/stages/test_text_encoders.py",
}
"""Families that diffusers does not convert -> the tests that hold how they are."""

_ONE_SPELLING = "tests/stages/test_unconverted.py"
_CHECKOUT = "tools/check_classes.py"
_NAMES_ALONE = "tests/catalog/test_families.py"
_ALONE = {
    "ernie_image": _ONE_SPELLING,
    "hidream": _ONE_SPELLING,
    "hunyuan_image3": _CHECKOUT,
    "hunyuan_image3_vae": _NAMES_ALONE,
    "kandinsky5": _ONE_SPELLING,
    "minimax_h3_audio_vae": _ONE_SPELLING,
    "motif_video": _ONE_SPELLING,
    "qwen_image_controlnet": _ONE_SPELLING,
    "qwen_image_dit": _ONE_SPELLING,
    "sd3_controlnet": _ONE_SPELLING,
    "seedvr2": _CHECKOUT,
    "seedvr2_vae": _NAMES_ALONE,
    "self_forcing": _CHECKOUT,
    "wan_humo_dit": _CHECKOUT,
    "wan_s2v_dit": _CHECKOUT,
    "z_image_controlnet": _ONE_SPELLING,
}
"""Families of one spelling -> what makes tiny models of their classes: a test, or from a checkout a tool; or
what holds their names and shapes, which once were compared with those of the class."""

_ALWAYS, _WHOLE = "✓", "`--all`"


def table(tests: Any) -> str:
    """The lists as Markdown: models with the laws that are tested of them; families that other tests hold;
    families of one spelling, with which there is nothing to hold.

    Args:
        tests: the module of the tests.

    Raises:
        AssertionError: a family that converts stands in no list.
    """
    from transcode import catalog

    families = [catalog.family(name) for name in catalog.families()]
    tested = {tiny.family for tiny in tests.TINY.values()}
    others = [family.name for family in families if family.conversions and family.name not in tested]
    assert set(others) == _ELSEWHERE.keys(), others
    alone = [family.name for family in families if not family.conversions and not family.fallback]
    assert set(alone) == _ALONE.keys(), alone
    return "\n\n".join(
        (
            _models(tests),
            _held(others, _ELSEWHERE),
            _held(alone, _ALONE),
        )
    )


def _held(names: list[str], by: dict[str, str]) -> str:
    """A row for each family: what holds it."""
    return "\n".join(["| | |", "|---|---|", *(f"| `{one}` | `{by[one]}` |" for one in names)])


def _models(tests: Any) -> str:
    """A row for each model: who converts it alike, a pass through its class, schemes, LoRAs."""
    cells: dict[str, dict[str, str]] = {}
    (law,) = tests.test_quantized_models_convert_as_plain_ones_do.pytestmark
    for parameter in law.args[1]:
        name, spelled = parameter.values
        cells.setdefault(name, {})[spelled] = _WHOLE if parameter.marks else _ALWAYS
    (law,) = tests.test_quantized_sdxl_converts_as_a_plain_one_does.pytestmark
    cells["sdxl"] = dict.fromkeys(law.args[1], _ALWAYS)
    columns = sorted({spelled for row in cells.values() for spelled in row})
    lines = [f"| | | = | → | {' | '.join(columns)} | LoRA |", "|---" * (len(columns) + 5) + "|"]
    for name, tiny in sorted(tests.TINY.items()):
        row = cells.get(name, {})
        of_lora = (_ALWAYS if _ALWAYS in row.values() else _WHOLE) if row else ""
        held = ["-" if tests.kept(tiny) else row.get(spelled, "") for spelled in columns]
        first = [name, f"`{tiny.family}`", f"`{tiny.converter.split(' ')[0]}`", _ALWAYS]
        lines.append(f"| {' | '.join([*first, *held, of_lora])} |")
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
