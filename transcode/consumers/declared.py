"""What record and config tell of how tensors were quantized that dtypes and shapes leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from ..core.records import dataclass
from . import record, torchao
from .config.stated import CONFIG, read_json
from .config.table import options
from .lengths import Lengths

__all__ = ["Declared", "declared"]


@dataclass
class Declared:
    """Options of schemes, as far as a source states them.

    A ragged last group or block leaves several sizes possible, and codes stored as bytes several formats.

    Attributes:
        schemes: names, from the record.
        formats: scheme -> formats of its codes.
        groups: columns of a group.
        blocks: rows and columns of a block.
        bits: of codes.
        kinds: bits of a code and columns of a group, where both are said together.
        symmetric: whether codes have no zero point, of each group of layers.
        ordered: columns may be in another order than their groups.
        lengths: shapes that no parts tell.
    """

    schemes: list[str] = field(default_factory=list)
    formats: dict[str, set[str]] = field(default_factory=dict)
    groups: set[int] = field(default_factory=set)
    blocks: set[tuple[int, int]] = field(default_factory=set)
    bits: set[int] = field(default_factory=set)
    kinds: set[tuple[int, int]] = field(default_factory=set)
    symmetric: set[bool] = field(default_factory=set)
    ordered: bool = False
    lengths: Lengths = field(default_factory=Lengths)

    @property
    def words(self) -> str:
        """What it says of codes, for errors; empty if nothing."""
        words = [f"num_bits {bits}" for bits in sorted(self.bits)]
        words += [f"symmetric {str(one).lower()}" for one in sorted(self.symmetric)]
        words += ["desc_act true"] if self.ordered else []
        return f" ({CONFIG} says {', '.join(words)})" if words else ""

    def add(self, options: Mapping[str, Any], scheme: str | None = None) -> None:
        """Take in options as a recipe or a config has them."""
        if scheme is not None and isinstance(options.get("format"), str):
            self.formats.setdefault(scheme, set()).add(options["format"])
        if type(size := options.get("group_size")) is int and size > 0:
            self.groups.add(size)
        if type(bits := options.get("num_bits")) is int:
            self.bits.add(bits)
            if type(size) is int and size > 0:
                self.kinds.add((bits, size))
            if type(symmetric := options.get("symmetric")) is bool:
                self.symmetric.add(symmetric)
        self.ordered |= options.get("desc_act") is True
        for key in ("block", "block_structure", "weight_block_size"):
            block = options.get(key)
            if isinstance(block, list) and [type(n) for n in block] == [int, int] and min(block) > 0:
                self.blocks.add((block[0], block[1]))


def declared(metadata: Mapping[str, str], side_files: Sequence[Path]) -> Declared:
    """All that is stated, by the record first."""
    facts = Declared(record.schemes(metadata))
    for scheme, chosen in record.options(metadata):
        facts.add(chosen, scheme)
    facts.symmetric |= torchao.symmetric(metadata)
    facts.groups |= torchao.groups(metadata)
    configs = [read_json(path) or {} for path in side_files if path.name == CONFIG]
    for config in configs:
        for stated in options(config):
            facts.add(stated)
    facts.lengths = Lengths(configs)
    return facts
