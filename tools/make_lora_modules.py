"""Write the modules that models of each family have, by which files of LoRAs are recognised.

    python tools/make_lora_modules.py    # write formats/lora/modules.yaml

It is read from ``fixtures/families``: names of published models, and those of Diffusers' classes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

from transcode import catalog

__all__ = ["main", "text"]

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "formats/lora/modules.yaml"

_OTHERS = re.compile(
    r"_vae|dc_ae|autoencoder|llm|vocoder|connectors|duration_head|deepseek|motion_adapter|_controlnet$|^wan_(clip|t5)$"
)
"""Families that LoRAs of image and video models are not for, or that keep dots in names."""
_HEAD = """\
# Modules of the families' models, in each spelling, without what stands before them: by them a LoRA's file is
# known, and names whose dots are underscores. {i} is a number. Made by tools/make_lora_modules.py.
lora: modules
families:
"""
_WIDTH = 120


def text() -> str:
    """The file."""
    known: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in sorted((ROOT / "fixtures/families").glob("*.json")):
        tensors = json.loads(path.read_text()).get("tensors")
        if tensors is None:
            continue
        names = [re.sub(r"\{(\d+).*?\}", r"\1", one) for name in tensors for one in _apart(name)]
        family = catalog.detect(names)
        if family is None or family.fallback or _OTHERS.search(family.name):
            continue
        for name in names:
            module = name.removeprefix(family.prefix).rpartition(".")[0]
            # A number at the end is that of a layer among others of a block: it tells models apart.
            known[family.name, family.spelling].add(re.sub(r"(?<![^.])\d+(?=\.)", "{i}", module))
    lines: list[str] = []
    for (name, spelling), modules in sorted(known.items()):
        if not lines or f"  {name}:" not in lines:
            lines.append(f"  {name}:")
        lines += [f"    {spelling}:", *_tree(modules - {""})]
    return _HEAD + "\n".join(lines) + "\n"


def _apart(name: str) -> list[str]:
    """A folded name, with each of the numbers that its module may end with."""
    folded = re.fullmatch(r"(.*\.)\{([\d.,]+)\}(\.[^.]+)", name)
    if folded is None:
        return [name]
    numbers: list[int] = []
    for some in folded[2].split(","):
        first, _, last = some.partition("..")
        numbers += range(int(first), int(last or first) + 1)
    return [f"{folded[1]}{number}{folded[3]}" for number in numbers]


def _tree(modules: set[str]) -> list[str]:
    """Lines: what some begin with, and with what each goes on."""
    below: dict[str, list[str]] = defaultdict(list)
    for module in sorted(modules):
        head, _, leaf = module.rpartition(".")
        if leaf in ("{i}",) or re.fullmatch(r"\d+", leaf):
            head, _, more = head.rpartition(".")
            leaf = f"{more}.{leaf}"
        below[head].append(leaf)
    lines = []
    for head, leaves in below.items():
        line = f"      {json.dumps(head)}: ["
        for number, leaf in enumerate(leaves):
            entry = json.dumps(leaf) if "{" in leaf else leaf
            entry += "" if number == len(leaves) - 1 else ", "
            if len(line) + len(entry) >= _WIDTH:
                lines.append(line.rstrip())
                line = "        "
            line += entry
        lines.append(f"{line}]")
    return lines


def main() -> None:
    """Write it."""
    TARGET.write_text(text())


if __name__ == "__main__":
    main()
