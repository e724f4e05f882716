"""Write the matrix of the documents: what every quantized source loses on its way to every scheme.

    python tools/make_matrix.py             # run it all on a small Llama, write docs/guide/matrix*.md
    python tools/make_matrix.py int8 fp8    # print the rows of these schemes

Each cell is a run: the source is made for its convention, converted to the scheme of the column (for
transcode's own names), and both are decoded to F32 and compared.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import golden

__all__ = ["COLUMNS", "cells", "main", "page", "rows"]

ROOT = Path(__file__).parents[1]
COLUMNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bf16", {}), ("int8", {}), ("int8", {"granularity": "group", "group_size": 32}),
    ("int4", {"group_size": 32}), ("int4", {"group_size": 128}), ("fp8", {}),
    ("fp8", {"granularity": "block"}), ("mxfp8", {}), ("mxfp6", {}), ("mxfp4", {}), ("nvfp4", {}),
)  # fmt: skip
"""Targets: a dtype to decode to, or a scheme with options."""

PAGES = ("matrix.md", "matrix.zh.md")
"""In docs/guide: the table stands between two marks."""

_MARKS = "<!-- matrix -->\n", "<!-- end of matrix -->\n"


def rows(schemes: Sequence[str] = ()) -> list[tuple[str, str]]:
    """All sources: a scheme, and a convention that it is written for."""
    from transcode import catalog

    known = {name: catalog.convention(name) for name in catalog.conventions()}
    return [
        (scheme, name)
        for scheme in golden.VARIANTS
        for name, one in known.items()
        if scheme in one.schemes and one.unwritten is None and (not schemes or scheme in schemes)
    ]


def cells(scheme: str, convention: str, folder: Path) -> Iterator[str]:
    """What becomes of a source in each column.

    Raises:
        TranscodeError: the convention does not take the small Llama in that scheme.
    """
    import transcode as tc
    from transcode.errors import TranscodeError

    maker = golden.Maker(folder)
    source = folder / f"{scheme}-{convention}"
    tc.open(maker.path("llama", golden.llama)) | tc.quantize(scheme) | tc.write(source, convention=convention)
    before = _decoded(source, folder / "before")
    for name, options in COLUMNS:
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        flow: Any = tc.open(source)
        step = tc.dequantize("BF16") if name == "bf16" else tc.quantize(name, **options)
        try:
            report = (
                flow | step | tc.write(out, convention="plain" if name == "bf16" else "neutral", workers=1)
            )
        except TranscodeError:
            yield "same" if (name, convention) == (scheme, "neutral") else "refused"  # there is nothing to do
            continue
        kinds = {event.kind for tensor in report.plan.tensors for event in tensor.fate}
        decibels = _compared(before, _decoded(out, folder / "after") if name != "bf16" else _loaded(out))
        if decibels < math.inf:
            yield f"{decibels:.1f}"
        else:
            yield "same" if kinds <= {"keep", "repack"} else "exact"


def page(text: str, table: Sequence[tuple[tuple[str, str], Sequence[str]]]) -> str:
    """A page with the table put in."""
    names = [f"{name}{golden.told(options)}".replace("granularity=", "") for name, options in COLUMNS]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {scheme}, {whose} | {' | '.join(row)} |" for (scheme, whose), row in table]
    before, _, rest = text.partition(_MARKS[0])
    _, _, after = rest.partition(_MARKS[1])
    return before + _MARKS[0] + "\n" + "\n".join(lines) + "\n\n" + _MARKS[1] + after


def _decoded(source: Path, to: Path) -> dict[str, Any]:
    import transcode as tc

    shutil.rmtree(to, ignore_errors=True)
    tc.open(source) | tc.dequantize("F32") | tc.write(to, convention="plain")
    return _loaded(to)


def _loaded(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: one for path in folder.glob("*.safetensors") for name, one in load_file(path).items()}


def _compared(before: dict[str, Any], after: dict[str, Any]) -> float:
    """Signal to noise of all matrices together, in dB; infinite where nothing differs."""
    signal = noise = 0.0
    for name in before.keys() & after.keys():
        if "proj" in name:
            one, other = before[name].double(), after[name].double()
            signal += float((one**2).sum())
            noise += float(((one - other) ** 2).sum())
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("schemes", nargs="*", help="print the rows of these schemes only")
    asked = parser.parse_args().schemes
    from transcode.errors import TranscodeError

    table = []
    for scheme, convention in rows(asked):
        with tempfile.TemporaryDirectory() as folder:
            try:
                made = list(cells(scheme, convention, Path(folder)))
            except TranscodeError as error:
                made = []
                print(f"{scheme} as {convention}: {error}")
        if made:
            table.append(((scheme, convention), made))
            print(scheme, convention, *made, flush=True)
    for name in () if asked else PAGES:
        path = ROOT / "docs" / "guide" / name
        path.write_text(page(path.read_text("utf-8"), table), "utf-8")


if __name__ == "__main__":
    main()
