"""Pieces of SentencePiece models, of messages written out here."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from transcode.errors import FormatError
from transcode.stages.sentencepiece import BPE, UNIGRAM, Model, Piece, read_model


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, value: bytes | int | float) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def model(pieces: Sequence[Piece], kind: int = BPE, normed: bytes = field(1, b"x")) -> bytes:
    """A ModelProto as SentencePiece writes it: a type that is normal is left out."""
    raw = b""
    for text, score, of in pieces:
        raw += field(1, field(1, text.encode()) + field(2, float(score)) + (field(3, of) if of != 1 else b""))
    return raw + field(2, field(1, b"data.txt") + field(3, kind) + field(4, 300)) + field(3, normed)


PIECES = [Piece("<unk>", 0.0, 2), Piece("<s>", 0.0, 3), Piece("\u2581the", -1.5), Piece("<0x0A>", 0.0, 6)]


def test_pieces(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(model(PIECES))
    assert read_model(file) == Model(PIECES, BPE)
    said = field(2, b"\0\1") + field(3, 0) + field(4, 0)
    file.write_bytes(model(PIECES, UNIGRAM, said))
    assert read_model(file) == Model(PIECES, UNIGRAM, False, False, b"\0\1")
    if find_spec("sentencepiece") is not None:
        from sentencepiece import SentencePieceProcessor

        theirs = SentencePieceProcessor(model_file=str(file))
        assert [theirs.IdToPiece(number) for number in range(4)] == [one.text for one in PIECES]


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x0a", b"\x0a\xff\xff", b"\xff" * 12, b"\x0b", model(PIECES)[:-3], field(1, field(1, b"\xff"))],
)
def test_what_is_no_model(raw: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(raw)
    with pytest.raises(FormatError, match="SentencePiece model"):
        read_model(file)
