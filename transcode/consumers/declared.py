"""What record and config tell of how tensors were quantized that dtypes and shapes leave open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import record
from .evidence import CONFIG, config_keys, read_json

__all__ = ["Told", "told"]


@dataclass
class Told:
    """Options of schemes, as far as a source states them.

    A ragged last group or block leaves several sizes possible, and codes stored as bytes several formats.

    Attributes:
        schemes: names, from the record.
        formats: scheme -> formats of its codes.
        groups: columns of a group.
        blocks: rows and columns of a block.
        bits: of codes.
        symmetric: whether codes have no zero point, of each group of layers.
    """

    schemes: list[str] = field(default_factory=list)
    formats: dict[str, set[str]] = field(default_factory=dict)
    groups: set[int] = field(default_factory=set)
    blocks: set[tuple[int, int]] = field(default_factory=set)
    bits: set[int] = field(default_factory=set)
    symmetric: set[bool] = field(default_factory=set)

    @property
    def words(self) -> str:
        """What it says of codes, for errors; empty if nothing."""
        said = [f"num_bits {bits}" for bits in sorted(self.bits)]
        said += [f"symmetric {str(one).lower()}" for one in sorted(self.symmetric)]
        return f" ({CONFIG} says {', '.join(said)})" if said else ""

    def add(self, options: Mapping[str, Any], scheme: str | None = None) -> None:
        """Take in options as a recipe or a config has them."""
        if scheme is not None and isinstance(options.get("format"), str):
            self.formats.setdefault(scheme, set()).add(options["format"])
        if type(size := options.get("group_size")) is int and size > 0:
            self.groups.add(size)
        if type(bits := options.get("num_bits")) is int:
            self.bits.add(bits)
            if type(symmetric := options.get("symmetric")) is bool:
                self.symmetric.add(symmetric)
        for key in ("block", "block_structure", "weight_block_size"):
            block = options.get(key)
            if isinstance(block, list) and [type(n) for n in block] == [int, int] and min(block) > 0:
                self.blocks.add((block[0], block[1]))


def told(metadata: Mapping[str, str], side_files: Sequence[Path]) -> Told:
    """All that is stated, by the record first."""
    found = Told(record.schemes(metadata))
    for scheme, options in record.options(metadata):
        found.add(options, scheme)
    for path in side_files:
        if path.name == CONFIG:
            for holder, key in config_keys(read_json(path) or {}):
                for options in _weights(holder[key]):
                    found.add(options)
    return found


def _weights(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The options of weights: of ``fp8`` at the top, of compressed-tensors in each of its groups."""
    yield {key: config[key] for key in ("weight_block_size",) if key in config}
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            yield weights
