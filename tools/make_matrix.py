"""Write the matrix of the documents: what every quantized source loses on its way to every scheme.

    python tools/make_matrix.py             # run it all on a small Llama, write docs/guide/matrix*.md
    python tools/make_matrix.py int8 fp8    # print the rows of these schemes

Each cell is a run: the source is made for its convention, converted to the scheme of the column (for
transcode's own names), and both are decoded to F32 and compared. A second table has the sources that the
owners of formats made (``fixtures/owners``), dense layers and experts.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import golden

__all__ = ["COLUMNS", "MARKS", "OWNERS", "cells", "main", "owned", "page", "rows"]

ROOT = Path(__file__).parents[1]
COLUMNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bf16", {}), ("int8", {}), ("int8", {"granularity": "group", "group_size": 32}),
    ("int4", {"group_size": 32}), ("int4", {"group_size": 128}), ("fp8", {}),
    ("fp8", {"granularity": "block"}), ("mxfp8", {}), ("mxfp6", {}), ("mxfp4", {}), ("nvfp4", {}),
)  # fmt: skip
"""Targets: a dtype to decode to, or a scheme with options."""

PAGES = ("matrix.md", "matrix.zh.md")
"""In docs/guide."""

MARKS = {name: (f"<!-- {name} -->\n", f"<!-- end of {name} -->\n") for name in ("matrix", "matrix of owners")}
"""Between which each table stands."""

OWNERS = ROOT / "fixtures" / "owners"


def rows(schemes: Sequence[str] = ()) -> list[tuple[str, str]]:
    """All sources: a scheme, and a convention that it is written for.

    Schemes of one program are left out as transcode's own names store them, which is the same thing again.
    """
    from transcode import catalog

    known = {name: catalog.convention(name) for name in catalog.conventions()}
    some = [name for one in known.values() if one.unwritten is None for name in one.schemes]
    return [
        (scheme, name)
        for scheme in dict.fromkeys([*golden.VARIANTS, *some])
        for name, one in known.items()
        if scheme in one.schemes
        and one.unwritten is None
        and (scheme in golden.VARIANTS or name != "neutral")
        and (not schemes or scheme in schemes)
    ]


def owned() -> list[Path]:
    """The folders that owners of formats made."""
    return sorted(OWNERS.iterdir())


def made(scheme: str, convention: str, folder: Path) -> Path:
    """The small Llama in that scheme, as that convention stores it.

    Raises:
        TranscodeError: it does not take it.
    """
    import transcode as tc

    maker = golden.Maker(folder)
    source = folder / f"{scheme}-{convention}"
    target: dict[str, Any] = {"convention": convention}
    if convention == "gguf":
        source = source.with_suffix(".gguf")
        target["metadata"] = {"general.architecture": "llama"}
    tc.open(maker.path("llama", golden.llama)) | tc.quantize(scheme) | tc.write(source, **target)
    return source


def cells(
    source: Path, folder: Path, neutral: str | None = None, columns: Sequence[tuple[str, Any]] = COLUMNS
) -> Iterator[str]:
    """What becomes of a source in each column.

    Args:
        folder: for what is made on the way.
        neutral: the scheme of a source that is stored by transcode's own names already.

    Raises:
        TranscodeError: it is not decoded.
    """
    import transcode as tc
    from transcode.errors import TranscodeError

    before = _decoded(source, folder / "before")
    for name, options in columns:
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        flow: Any = tc.open(source)
        step = tc.dequantize("BF16") if name == "bf16" else tc.quantize(name, **options)
        try:
            report = (
                flow | step | tc.write(out, convention="plain" if name == "bf16" else "neutral", workers=1)
            )
        except TranscodeError:
            yield "same" if name == neutral else "refused"  # there is nothing to do
            continue
        kinds = {event.kind for tensor in report.plan.tensors for event in tensor.fate}
        decibels = _compared(before, _decoded(out, folder / "after") if name != "bf16" else _loaded(out))
        if decibels < math.inf:
            yield f"{decibels:.1f}"
        else:
            yield "same" if kinds <= {"keep", "repack"} else "exact"


def page(text: str, table: Sequence[tuple[str, Sequence[str]]], which: str = "matrix") -> str:
    """A page with a table put in."""
    names = [f"{name}{golden.told(options)}".replace("granularity=", "") for name, options in COLUMNS]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in table]
    begin, end = MARKS[which]
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after


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
    tables = {"matrix": _run([(scheme, name, None) for scheme, name in rows(asked)])}
    if not asked:
        tables["matrix of owners"] = _run([(path.name, "", path) for path in owned()])
    for name in () if asked else PAGES:
        path = ROOT / "docs" / "guide" / name
        text = path.read_text("utf-8")
        for which, table in tables.items():
            text = page(text, table, which)
        path.write_text(text, "utf-8")


def _run(sources: Sequence[tuple[str, str, Path | None]]) -> list[tuple[str, list[str]]]:
    """Rows of a table; what cannot be made or read has none, or is refused."""
    from transcode.errors import TranscodeError

    table = []
    for scheme, convention, path in sources:
        with tempfile.TemporaryDirectory() as folder:
            name = f"{scheme}, {convention}" if path is None else told(path)
            try:
                source = made(scheme, convention, Path(folder)) if path is None else bare(path, Path(folder))
                row = list(cells(source, Path(folder), scheme if convention == "neutral" else None))
            except TranscodeError as error:
                print(f"{name}: {error}")
                row = [] if path is None else ["refused"] * len(COLUMNS)
        if row:
            table.append((name, row))
            print(name, *row, flush=True)
    return table


def told(path: Path) -> str:
    """What a folder of an owner holds, and by which release it was made."""
    by: str = json.loads((path / "decoded.json").read_text())["by"]
    return f"{path.name} {by.split()[1]}"


def bare(path: Path, folder: Path) -> Path:
    """Such a folder without what is told of it."""
    shutil.copytree(path, folder / "source", ignore=shutil.ignore_patterns("decoded.json"))
    return folder / "source"


if __name__ == "__main__":
    main()
