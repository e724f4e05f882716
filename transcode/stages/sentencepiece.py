"""A SentencePiece model, as far as a vocabulary needs it.

The file is a protocol buffer, ``ModelProto`` of ``sentencepiece_model.proto``: field 1, repeated, is a piece,
whose field 1 is its text, 2 its score, float32, and 3 its type; field 2 is how it was trained, whose field 3
says of what kind it is; field 3 is how text is normed before it is cut: its field 2 is a table of what stands
for what, 3 whether a blank goes before a text and 4 whether blanks in excess go, both true unless said.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import FormatError

__all__ = ["BPE", "UNIGRAM", "Model", "Piece", "parse_model", "read_model"]

UNIGRAM, BPE = 1, 2
"""Of ``TrainerSpec.ModelType``; a file without the field is unigram."""

_MOST = 64 << 20  # bytes; the largest published one has 5 MB


class Piece(NamedTuple):
    """One token: its text, its score, and what kind it is (``llama_token_type`` has the same numbers)."""

    text: str
    score: float = 0.0
    kind: int = 1


class Model(NamedTuple):
    """All pieces in the order of their numbers, of what kind the model is, and how text is normed before."""

    pieces: list[Piece]
    kind: int = UNIGRAM
    prefix: bool = True
    trims: bool = True
    table: bytes = b""


def read_model(path: Path) -> Model:
    """What a file holds.

    Raises:
        FormatError: it is no such file.
    """
    if path.stat().st_size > _MOST:
        raise FormatError("is too large for a SentencePiece model", file=path)
    return parse_model(path.read_bytes(), path)


def parse_model(raw: bytes, path: Path) -> Model:
    """What the bytes of a file are.

    Raises:
        FormatError: none of such a file.
    """
    model = Model([])
    try:
        for field, value in _fields(raw):
            if field == 1 and isinstance(value, bytes):
                model.pieces.append(_piece(value))
            elif field == 2 and isinstance(value, bytes):
                kind = dict(_fields(value)).get(3)
                model = model._replace(kind=kind if isinstance(kind, int) else UNIGRAM)
            elif field == 3 and isinstance(value, bytes):
                said = dict(_fields(value))
                table = said.get(2, b"")
                model = model._replace(
                    prefix=bool(said.get(3, True)),
                    trims=bool(said.get(4, True)),
                    table=table if isinstance(table, bytes) else b"",
                )
    except (ValueError, IndexError, struct.error):
        raise FormatError("is no SentencePiece model", file=path) from None
    if not model.pieces:
        raise FormatError("is a SentencePiece model without pieces", file=path)
    return model


def _piece(raw: bytes) -> Piece:
    piece = Piece("")
    for field, value in _fields(raw):
        if field == 1 and isinstance(value, bytes):
            piece = piece._replace(text=value.decode("utf-8"))
        elif field == 2 and isinstance(value, bytes):
            piece = piece._replace(score=struct.unpack("<f", value)[0])
        elif field == 3 and isinstance(value, int):
            piece = piece._replace(kind=value)
    return piece


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message: a whole number, or bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        if key & 7 == 0:
            number, at = _varint(raw, at)
            yield key >> 3, number
            continue
        size = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 2:
            size, at = _varint(raw, at)
        if size is None or at + size > len(raw):
            raise ValueError("no field")
        yield key >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = raw[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if not byte & 128:
            return number, at
        if shift > 63:
            raise ValueError("no number")
