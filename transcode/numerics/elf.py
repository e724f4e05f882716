"""From an object file of the compiler to one block of memory that can be run wherever it lies.

Kernels refer to little but their own constants, so what a linker does for them is little, too: sections one
behind the other, and distances between them written into the code. What is not known before the block has its
place is listed: addresses within it, and those of functions and data outside.

Object files are ELF for x86-64 (System V ABI, AMD64 supplement, section 4.4). Whoever meets anything else is
told so, and loads the object file with the compiler's library instead.
"""

from __future__ import annotations

import struct
from dataclasses import field
from typing import NamedTuple

from ..core.records import dataclass

__all__ = ["Image", "Unlinkable", "link"]

_ALLOC, _WRITE, _TLS = 2, 1, 0x400
_PROGBITS, _SYMTAB, _RELA, _NOBITS = 1, 2, 4, 8
_UNDEFINED, _RESERVED = 0, 0xFF00
_64, _PC32, _PLT32 = 1, 2, 4
_GOT = (9, 41, 42)  # GOTPCREL, GOTPCRELX, REX_GOTPCRELX
_JUMP = bytes.fromhex("ff2500000000")  # to the address that stands behind this instruction


class Unlinkable(Exception):
    """What the object file has that is not expected of kernels."""


@dataclass(frozen=True, slots=True)
class Image:
    """Code and constants in one block.

    Attributes:
        code: the bytes; position 0 must be placed at a multiple of 64.
        entry: where the function begins.
        moved: places of 64-bit offsets within the block, which become addresses.
        outside: places of 64-bit addresses of what lies outside, by name.
    """

    code: bytes
    entry: int
    moved: list[int] = field(default_factory=list)
    outside: dict[str, list[int]] = field(default_factory=dict)


class _Section(NamedTuple):
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int


def link(data: bytes, entry: str) -> Image:
    """Link an object file whose function ``entry`` is to be called.

    Raises:
        Unlinkable: it is not one for x86-64, or has writable data or a kind of reference that is not known.
    """
    if data[:6] != b"\x7fELF\2\1" or struct.unpack_from("<HH", data, 16) != (1, 62):
        raise Unlinkable("not an object file for x86-64")
    sections = _sections(data)
    symbols = _symbols(data, sections)
    code = bytearray()
    places: dict[int, int] = {}
    for number, section in enumerate(sections):
        if not section.flags & _ALLOC or section.name == ".eh_frame":
            continue
        if section.flags & _TLS or (section.flags & _WRITE and not section.name.startswith(".data.rel.ro")):
            raise Unlinkable(f"data that is written to, in {section.name}")
        if section.kind != _PROGBITS:
            raise Unlinkable(f"section {section.name} of kind {section.kind}")
        code.extend(bytes(-len(code) % max(section.align, 1)))
        places[number] = len(code)
        code += data[section.offset : section.offset + section.size]
    image = _Linker(code, places, symbols)
    for section in sections:
        if section.kind == _RELA and section.info in places:
            for at in range(section.offset, section.offset + section.size, 24):
                offset, info, addend = struct.unpack_from("<QQq", data, at)
                image.resolve(places[section.info] + offset, info & 0xFFFFFFFF, symbols[info >> 32], addend)
    for symbol in symbols:
        if symbol.name == entry and symbol.section in places:
            return Image(bytes(code), places[symbol.section] + symbol.value, image.moved, image.outside)
    raise Unlinkable(f"no function {entry}")


def _sections(data: bytes) -> list[_Section]:
    (at,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, at + size * number) for number in range(count)]
    text = rows[names][4]
    return [
        _Section(_text(data, text + name), kind, flags, offset, length, link, info, align)
        for name, kind, flags, _, offset, length, link, info, align, _ in rows
    ]


def _symbols(data: bytes, sections: list[_Section]) -> list[_Symbol]:
    (table,) = (section for section in sections if section.kind == _SYMTAB)
    text = sections[table.link].offset
    rows = (struct.unpack_from("<IBBHQQ", data, table.offset + at) for at in range(0, table.size, 24))
    return [_Symbol(_text(data, text + name), section, value) for name, _, _, section, value, _ in rows]


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


class _Linker:
    """Writes references into the code, and behind it what they need."""

    def __init__(self, code: bytearray, places: dict[int, int], symbols: list[_Symbol]) -> None:
        self.code = code
        self.places = places
        self.moved: list[int] = []
        self.outside: dict[str, list[int]] = {}
        self._slots: dict[_Symbol, int] = {}
        self._jumps: dict[_Symbol, int] = {}

    def resolve(self, place: int, kind: int, symbol: _Symbol, addend: int) -> None:
        """Write one reference."""
        if symbol.section >= _RESERVED or (symbol.section and symbol.section not in self.places):
            raise Unlinkable(f"a reference to {symbol.name}")
        if kind == _64:
            self._address(place, symbol, addend)
            return
        if kind in _GOT:
            target = self._slot(symbol)
        elif kind not in (_PC32, _PLT32):
            raise Unlinkable(f"a relocation of kind {kind}")
        elif symbol.section == _UNDEFINED:
            if kind != _PLT32:
                raise Unlinkable(f"a distance to {symbol.name}, which lies outside")
            target = self._jump(symbol)
        else:
            target = self.places[symbol.section] + symbol.value
        struct.pack_into("<i", self.code, place, target + addend - place)

    def _address(self, place: int, symbol: _Symbol, addend: int) -> None:
        """A 64-bit address, written when the block has its place."""
        if symbol.section != _UNDEFINED:
            struct.pack_into("<q", self.code, place, self.places[symbol.section] + symbol.value + addend)
            self.moved.append(place)
        elif addend:
            raise Unlinkable(f"a place behind {symbol.name}, which lies outside")
        else:
            self.outside.setdefault(symbol.name, []).append(place)

    def _slot(self, symbol: _Symbol) -> int:
        """Where the address of a symbol stands."""
        if symbol not in self._slots:
            self.code.extend(bytes(-len(self.code) % 8))
            self._slots[symbol] = len(self.code)
            self.code.extend(bytes(8))
            self._address(self._slots[symbol], symbol, 0)
        return self._slots[symbol]

    def _jump(self, symbol: _Symbol) -> int:
        """A jump to a function outside, which may be further away than a call reaches."""
        if symbol not in self._jumps:
            self.code.extend(bytes((2 - len(self.code)) % 8))  # so that the address is aligned
            self._jumps[symbol] = len(self.code)
            self.code.extend(_JUMP + bytes(8))
            self._address(self._jumps[symbol] + len(_JUMP), symbol, 0)
        return self._jumps[symbol]
