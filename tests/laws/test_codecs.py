"""Laws of codecs: every one, under each of its legal values, on parts of many shapes.

Expected bytes come from formulas written here, on torch and numpy, code by code.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.numerics.test_nunchaku_layouts import (
    lowrank_by_formula,
    micro_by_formula,
    scale_by_formula,
    w4x4_by_formula,
    w4x16_by_formula,
)
from transcode.codecs import chain
from transcode.codecs.less_one import LessOne
from transcode.codecs.marlin import Marlin, MarlinScales
from transcode.codecs.nibbles import Nibbles
from transcode.codecs.numbers import Powers, Reciprocal
from transcode.codecs.rows_int32 import RowsInt32
from transcode.codecs.shapes import View
from transcode.codecs.swizzle import Swizzle
from transcode.codecs.table import CODECS, from_config
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Piece
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.errors import DataError, PlanError, RecipeError

Bytes = np.ndarray


def spec(dtype: str, *shape: int) -> Spec:
    return Spec(DTYPES[dtype], shape)


def every() -> list[Any]:
    """Each codec of the table under all of its legal values, where these are few, or some."""
    made = []
    for name, kind in CODECS.items():
        for values in product(*(legal.cases for legal in kind.options.values())):
            made.append(from_config({"codec": name, **dict(zip(kind.options, values, strict=True))}))
    return made


EVERY = every()
PARTS = [
    spec("U8", 2, 4), spec("U8", 6, 8), spec("U8", 130, 12), spec("U8", 257, 16), spec("U8", 3, 2, 32),
    spec("U8", 1, 1), spec("U8", 16, 600), spec("U8", 0, 4),
    spec("I8", 1, 3), spec("I8", 8, 1), spec("I8", 21, 5), spec("I8", 2, 3, 4), spec("I8"),
    spec("F4", 2, 8), spec("F4", 34, 32), spec("F4", 10, 2), spec("F4", 2, 6, 32),
    spec("F6_E2M3", 3, 16), spec("F8_E4M3", 129, 9), spec("F8_E5M2", 1, 4), spec("F8_E8M0", 300, 5),
    spec("F32"), spec("F32", 1), spec("F32", 7, 1), spec("F32", 5, 3), spec("F32", 2, 3, 16),
    spec("U8", 64, 264), spec("BF16", 64, 3), spec("U8", 128, 64), spec("BF16", 128, 16), spec("BF16", 256),
    spec("F8_E4M3", 128, 8),
    spec("BF16", 4, 6), spec("I32", 5, 4), spec("I32", 8), spec("I64", 2),
]  # fmt: skip


def content(part: Spec) -> Bytes:
    """Bytes of a part that any codec for its dtype can hold: small I8, F32 that are powers of two."""
    random = np.random.default_rng(part.numel + list(DTYPES).index(part.dtype.name))
    if part.dtype.name == "I8":
        return random.integers(-8, 8, part.numel, np.int8).view(np.uint8)
    if part.dtype.name == "I32":  # no number of 0, which less_one cannot hold
        return random.integers(1, 16, part.nbytes * 2).reshape(-1, 2).astype(np.uint8) @ np.uint8([1, 16])
    if part.dtype.name == "F32":
        return np.exp2(random.integers(-126, 127, part.numel).astype(np.float32)).view(np.uint8)
    return random.integers(0, 256, part.nbytes, np.uint8)


def codes4(raw: Bytes) -> np.ndarray:
    """4-bit codes of bytes, one by one, the low one first."""
    return np.stack([raw % 16, raw // 16], 1).reshape(-1)


def bytes4(codes: np.ndarray) -> Bytes:
    pairs = codes.reshape(-1, 2).astype(int)
    return (pairs[:, 0] + 16 * pairs[:, 1]).astype(np.uint8)


def tiled(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    """cuBLAS documentation, "1D block scaling factors layout"."""
    rows, columns = part.shape
    across = -(-columns // 4)
    out = np.zeros(-(-rows // 128) * across * 512, np.uint8)
    for m in range(rows):
        for k in range(columns):
            at = ((m // 128) * across + k // 4) * 512 + (m % 32) * 16 + (m % 128) // 32 * 4 + k % 4
            out[at] = raw[m * columns + k]
    return out


def in_words(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    """Word (i, j) is the sum of (x[8 i + r, j] + 8) * 16**r."""
    rows, columns = part.shape
    numbers = raw.view(np.int8).reshape(rows, columns).astype(int)
    words = np.zeros((-(-rows // 8), columns), np.uint32)
    for n in range(rows):
        for j in range(columns):
            words[n // 8, j] += np.uint32((numbers[n, j] + 8) * 16 ** (n % 8))
    return words.reshape(-1).view(np.uint8)


def raised(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    if codec.by == 128:
        return ((raw.view(np.int8).astype(int) + 128) % 256).astype(np.uint8)
    codes = codes4(raw).astype(int)
    signed = codes - 16 * (codes > 7)
    return bytes4(signed + 8)


def reordered(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    """AutoAWQ: nibble i of a word holds column order[i] of its eight."""
    order = [1, 0] if codec.order == "high_first" else [0, 2, 4, 6, 1, 3, 5, 7]
    codes = codes4(raw).reshape(-1, len(order))
    return bytes4(np.stack([codes[:, column] for column in order], 1))


def exchanged(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    if codec.of == "nibbles" or part.dtype.name == "F4":
        codes = torch.from_numpy(codes4(raw)).reshape(part.shape[0], part.row_bits // 4)
        return bytes4(codes.t().contiguous().numpy().reshape(-1))
    size = part.dtype.itemsize
    elements = torch.from_numpy(raw.copy()).reshape(*part.shape, size)
    return elements.transpose(0, 1).contiguous().numpy().reshape(-1)


def in_fragments(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    """Where code (n, k) goes, by the fragments of PTX's mma.m16n8k16: tile, thread, register."""
    rows, columns = part.shape[0], part.shape[1] * 2
    n, k = np.divmod(np.arange(rows * columns), columns)
    thread = 4 * (n % 8) + k % 8 // 2
    register = 4 * (n % 16 // 8) + 2 * (k % 16 // 8) + k % 2
    nibble = register // 2 + 4 * (register % 2)  # those of even columns first
    at = k // 16 * rows * 16 + n // 64 * 1024 + thread * 32 + n % 64 // 16 * 8 + nibble
    out = np.empty(rows * columns, np.uint8)
    out[at] = codes4(raw)
    return bytes4(out)


def in_eighths(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    """Row n of each group at 64 (n / 64) + 8 (n % 8) + n % 64 / 8."""
    values = raw.reshape(*part.shape, part.dtype.itemsize)
    out = np.empty((part.shape[1], part.shape[0], part.dtype.itemsize), np.uint8)
    for n in range(part.shape[0]):
        out[:, n // 64 * 64 + n % 8 * 8 + n % 64 // 8] = values[n]
    return out.reshape(-1)


def one_over(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    return torch.from_numpy(raw.copy().view(np.float32)).reciprocal().numpy().view(np.uint8)


def lessened(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    return bytes4(codes4(raw).astype(int) - 1)


def exponent(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    return raw.view(np.float32).astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)


def in_strips(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    """``BitPack`` of hqq, on the matrix of groups that its quantizer makes of a tensor; ``pack_weights`` of
    quanto where the first run is lowest.
    """
    bits = codec.bits
    stream = np.unpackbits(raw, bitorder="little").reshape(-1, bits)
    codes = torch.from_numpy(stream.astype(np.int64) @ 2 ** np.arange(bits))
    size = codec.group or part.shape[-1] * 8 // bits
    groups = codes.reshape((-1, size) if codec.axis else (size, -1))
    per = 10 if bits == 3 else 8 // bits
    step = -(-len(groups) // per)
    padded = torch.nn.functional.pad(groups, (0, 0, 0, step * per - len(groups)))
    places = range(per) if codec.first == "low" else reversed(range(per))
    packed = sum(padded[n * step : (n + 1) * step] << bits * place for n, place in enumerate(places))
    return packed.numpy().astype(np.int32 if bits == 3 else np.uint8).reshape(-1).view(np.uint8)


def same(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    return raw


@cache
def _in_warps(of: str, raw: bytes, part: Spec) -> Bytes:
    array = np.frombuffer(raw, part.dtype.carrier).reshape(part.shape)
    nibbles = (
        np.stack((array & 15, array >> 4), -1).reshape(part.rows, -1) if of in ("codes", "fours") else array
    )
    match of:
        case "codes":
            out = w4x4_by_formula(nibbles)
        case "fours":
            out = w4x16_by_formula(nibbles)
        case "up" | "down":
            out = lowrank_by_formula(array if of == "up" else array.T, of == "down")
        case "micro_scales":
            out = micro_by_formula(array)
        case _:
            out = scale_by_formula(array.reshape(part.shape[0], -1))
    return out.reshape(-1).view(np.uint8)


def in_warps(codec: Any, raw: Bytes, part: Spec) -> Bytes:
    return _in_warps(codec.of, raw.tobytes(), part)


WANTED: dict[str, Callable[[Any, Bytes, Spec], Bytes]] = {
    "view": same, "split": same, "fold": same, "squeeze": same, "reshape": same, "offset": raised,
    "nibbles": reordered, "transposed": exchanged, "swizzle_128x4": tiled, "rows_int32": in_words,
    "reciprocal": one_over, "strips": in_strips,
    "powers": exponent, "less_one": lessened, "flat": same, "text": same,
    "unsqueeze": same, "in_groups": same, "marlin": in_fragments, "marlin_scales": in_eighths,
    "warps": in_warps,
}  # fmt: skip


def wanted_shape(codec: Any, part: Spec) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape as stored, written out once more."""
    name, shape = part.dtype.name, part.shape
    match codec.name:
        case "view":
            last = () if not shape else (shape[-1] * part.dtype.bits // DTYPES[codec.dtype].bits,)
            return codec.dtype, (*shape[:-1], *last)
        case "split":
            return name, (*shape[:-1], shape[-1] // codec.size, codec.size)
        case "fold":
            return name, (shape[0] // codec.by, shape[1] * codec.by)
        case "squeeze":
            return name, shape[:-1] if shape[-1:] == (1,) else shape
        case "marlin":
            return "I32", (shape[1] // 8, 2 * shape[0])
        case "marlin_scales":
            return name, (shape[1], shape[0])
        case "warps" if codec.of in ("codes", "fours"):
            return {"codes": ("I8", shape), "fours": ("I32", (shape[0] // 4, shape[1]))}[codec.of]
        case "warps":
            return name, shape[::-1] if codec.of in ("scales", "micro_scales", "down") else shape
        case "unsqueeze":
            return name, shape if shape[-1] == 1 else (*shape, 1)
        case "reshape":
            return name, shape or tuple(codec.shape)
        case "flat":
            n = math.prod(shape)
            return name, (n,) if codec.axes == 1 else (n, 1)
        case "transposed":
            if codec.of == "nibbles" and name == "U8":
                return name, (shape[1] * 2, shape[0] // 2)
            return name, (shape[1], shape[0])
        case "swizzle_128x4":
            return name, (-(-shape[0] // 128) * 128, -(-shape[1] // 4) * 4)
        case "rows_int32":
            return "I32", (-(-shape[0] // 8), shape[1])
        case "powers":
            return "F8_E8M0", shape
        case "strips":
            count, per = math.prod(shape) * 8 // codec.bits, 10 if codec.bits == 3 else 8 // codec.bits
            size = codec.group or shape[-1] * 8 // codec.bits
            rows = count // size if codec.axis else size
            return "I32" if codec.bits == 3 else "U8", (-(-rows // per), count // rows)
    return name, shape


def holds(codecs: tuple[Any, ...], part: Spec) -> bool:
    try:
        chain.stored(codecs, part)
    except PlanError:
        return False
    return True


def carried(raw: Bytes, part: Spec) -> np.ndarray:
    """Whole rows as pieces have them: in the carrier dtype, sub-byte dtypes as bytes."""
    array = raw.view(part.dtype.carrier)
    return array if part.dtype.packed else array.reshape(-1, part.columns) if part.columns else array


def encoded(codecs: tuple[Any, ...], raw: Bytes, part: Spec, step: int) -> Bytes:
    """All tiles of so many rows, each put where it says; every byte must be written just once."""
    out = np.zeros(chain.stored(codecs, part).nbytes, np.uint8)
    times = np.zeros(out.shape, int)
    scratch = Scratch()
    for start in range(0, max(part.rows, 1), step):
        stop = min(start + step, max(part.rows, 1))
        begin, end = part.row_offset(start), part.row_offset(stop)
        piece = Piece("codes", begin, carried(raw[begin:end], part))
        scratch.reset()
        piece = chain.encode(piece, chain.steps(codecs, part), scratch)
        data = np.ascontiguousarray(piece.data).reshape(-1).view(np.uint8)
        out[piece.offset : piece.offset + data.size] = data
        times[piece.offset : piece.offset + data.size] += 1
    assert (times == 1).all()
    return out


def parts_of(codec: Any) -> list[Spec]:
    """The parts that a codec can hold, and does something to."""
    idle = codec.dtype if isinstance(codec, View) else None
    return [part for part in PARTS if part.dtype.name != idle and holds((codec,), part)]


def on_every_part(law: Callable[[Any, Any, Spec], None]) -> Callable[[Any, Any], None]:
    def run(self: Any, codec: Any) -> None:
        for part in parts_of(codec):
            law(self, codec, part)

    return run


def test_each_codec_of_the_table_has_a_formula_and_a_part():
    assert WANTED.keys() == CODECS.keys()
    assert [codec for codec in EVERY if not parts_of(codec)] == []


@pytest.mark.parametrize("codec", EVERY, ids=repr)
class TestOne:
    @on_every_part
    def test_facts_are_those_of_the_bytes(self, codec: Any, part: Spec) -> None:
        stored = codec.spec(part)
        assert (stored.dtype.name, stored.shape) == wanted_shape(codec, part)
        assert stored.nbytes == WANTED[codec.name](codec, content(part), part).size

    @on_every_part
    def test_bytes_are_those_of_the_formula_in_any_tiles(self, codec: Any, part: Spec) -> None:
        raw = content(part)
        wanted = WANTED[codec.name](codec, raw, part)
        unit = np.lcm(codec.rows(part), part.grain)
        for grains in (1, 2, 3, part.rows + 1):
            np.testing.assert_array_equal(encoded((codec,), raw, part, int(unit * grains)), wanted)
        assert codec.moves or (wanted is raw and not chain.steps((codec,), part))

    @on_every_part
    def test_what_is_decoded_is_what_was_encoded(self, codec: Any, part: Spec) -> None:
        raw = content(part)
        stored = codec.spec(part)
        array = WANTED[codec.name](codec, raw, part).copy().view(stored.dtype.carrier)
        array = array if stored.dtype.packed else array.reshape(stored.shape)
        back = chain.decode(array, (codec,), part)
        assert back.dtype == np.dtype(part.dtype.carrier)
        np.testing.assert_array_equal(np.ascontiguousarray(back).reshape(-1).view(np.uint8), raw)

    @on_every_part
    def test_whole_rows_are_decoded_by_themselves(self, codec: Any, part: Spec) -> None:
        if codec.rows(part) > 1 or part.rows < 3 or part.grain > 1 or codec.name == "transposed":
            return
        stored, raw = codec.spec(part), content(part)
        size, into = stored.nbytes // part.rows, part.nbytes // part.rows
        row = WANTED[codec.name](codec, raw, part)[size : 3 * size].copy().view(stored.dtype.carrier)
        back = chain.decode(row.reshape(2, -1), (codec,), part)
        np.testing.assert_array_equal(back.reshape(-1).view(np.uint8), raw[into : 3 * into])

    @on_every_part
    def test_other_sizes_are_refused(self, codec: Any, part: Spec) -> None:
        nbytes = codec.spec(part).nbytes
        step = codec.spec(part).dtype.itemsize
        for wrong in (nbytes + step, 3 * nbytes + 8 * step, 8):
            if codec.loose and wrong < nbytes:
                continue
            if wrong != nbytes and (wrong > nbytes or codec.rows(part) > 1) and part.numel:
                with pytest.raises(DataError, match=f"{wrong} bytes are not "):
                    chain.decode(np.zeros(wrong, np.uint8), (codec,), part)

    @on_every_part
    def test_facts_come_back(self, codec: Any, part: Spec) -> None:
        stored = codec.spec(part)
        before = chain.logical((codec,), stored, part.dtype)
        tells_nothing = codec.name in ("swizzle_128x4", "rows_int32", "flat", "strips")
        if tells_nothing or getattr(codec, "of", "") == "vector":  # codes are no vector
            assert before is None
        elif codec.folds:  # three axes are those of files of others
            *outer, last = part.shape or (1,)
            assert before == (part if len(outer) < 2 else Spec(part.dtype, (*outer[:-1], outer[-1] * last)))
        elif codec.name in ("squeeze", "reshape"):
            assert before is not None
            assert codec.spec(before) == stored
        else:
            assert before == part


@pytest.mark.parametrize("codec", EVERY, ids=repr)
class TestValues:
    def test_pickled_and_as_json_it_is_the_same(self, codec: Any) -> None:
        assert pickle.loads(pickle.dumps(codec)) == codec
        assert from_config(json.loads(json.dumps(codec.config()))) == codec
        assert hash(codec) == hash(from_config(codec.config()))
        assert codec.config()["codec"] == codec.name
        assert eval(repr(codec), {kind.__name__: kind for kind in CODECS.values()}) == codec

    def test_what_is_planned_with_it_is_a_value(self, codec: Any) -> None:
        for part in parts_of(codec):
            steps = chain.steps((codec,), part)
            assert pickle.loads(pickle.dumps(steps)) == steps

    def test_it_stands_alone(self, codec: Any) -> None:
        chain.combined((codec,))


def test_codecs_differ_by_their_options():
    assert len(set(EVERY)) == len(EVERY)


@pytest.mark.parametrize(
    "config",
    [
        {"codec": "offset", "by": 7}, {"codec": "offset", "by": True}, {"codec": "offset", "by": 8.0},
        {"codec": "offset"}, {"codec": "offset", "to": 8}, {"codec": "shift"}, {"codec": ["offset"]}, {},
        {"codec": "nibbles", "order": "low_first"}, {"codec": "split", "size": 0}, {"codec": "fold", "by": 0},
        {"codec": "view", "dtype": 8}, {"codec": "split", "size": True}, {"codec": "reshape", "shape": [2]},
        {"codec": "transposed", "of": 8},
        {"codec": "reshape", "shape": [-1, -1]}, {"codec": "reshape", "shape": [[1]]},
        {"codec": "view", "dtype": "FP8"}, {"codec": "reciprocal", "of": 1},
    ],
    ids=str,
)  # fmt: skip
def test_illegal_values_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"codec|cannot be"):
        from_config(config)


SOME = [codec for codec in EVERY if codec.name != "view" or codec.dtype in ("U8", "I32", "F8_E8M0")]


@pytest.mark.parametrize("first", SOME, ids=repr)
def test_two_do_one_after_the_other(first: Any) -> None:
    """Bytes of a chain are one formula after the other, in any tiles; or it is refused, never one alone."""
    done = 0
    for second, part in product(SOME, PARTS):
        if not holds((first, second), part):
            assert not (holds((first,), part) and holds((second,), first.spec(part)))
            continue
        raw = content(part)
        between = WANTED[first.name](first, raw, part)
        unit = chain.together((first, second), part, part.rows, part.grain)
        if second.name == "rows_int32" and np.abs(between.view(np.int8) + 0.5).max(initial=0) > 7.5:
            with pytest.raises(DataError, match="holds -8 to 7"):
                encoded((first, second), raw, part, max(part.rows, 1))
            continue
        if second.name == "less_one" and not codes4(between).all():
            with pytest.raises(DataError, match="a number of 0"):
                encoded((first, second), raw, part, max(part.rows, 1))
            continue
        wanted = WANTED[second.name](second, between, first.spec(part))
        for grains in (1, 2):
            np.testing.assert_array_equal(encoded((first, second), raw, part, unit * grains), wanted)
        stored = second.spec(first.spec(part))
        array = wanted.copy().view(stored.dtype.carrier)
        back = chain.decode(
            array.reshape(stored.shape if not stored.dtype.packed else -1), (first, second), part
        )
        np.testing.assert_array_equal(np.ascontiguousarray(back).reshape(-1).view(np.uint8), raw)
        before = chain.logical((first, second), stored, part.dtype)
        folds = first.folds or second.folds
        if before is not None and not folds and holds((first, second), before):
            assert chain.stored((first, second), before) == stored
        done += 1
    assert done


REFUSED = [
    (Swizzle(), spec("F32", 8, 4), "swizzle_128x4 is for .*, not for F32"),
    (Swizzle(), spec("F8_E8M0", 2, 8, 4), "swizzled layout holds the scales of a matrix, not .* 3-D stacks"),
    (Swizzle(), spec("U8", 8), r"not those of the shape \[8\]"),
    (RowsInt32(), spec("U8", 8, 4), "is for I8"),
    (RowsInt32(), spec("I8", 2, 8, 4), "packed_rows layout"),
    (Nibbles("high_first"), spec("I8", 8, 4), "is for F4"),
    (Nibbles("high_first"), spec("F4", 8, 3), "do not fill units of 8 bits"),
    (Nibbles("awq"), spec("U8", 8, 6), "do not fill units of 32 bits"),
    (Reciprocal(), spec("BF16", 1), "is for F32"),
    (LessOne(), spec("U8", 4, 4), "is for I32"),
    (Powers(), spec("BF16", 4, 4), "is for F32"),
    (View("I32"), spec("U8", 8, 6), "rows do not fill whole elements"),
    (View("U8"), spec("F32"), None),
    (View("F16"), spec("BF16", 4, 4), "the same bytes are other numbers"),
    (View("F32"), spec("BF16", 4, 4), "the same bytes are other numbers"),
]


@pytest.mark.parametrize(("codec", "part", "said"), REFUSED, ids=str)
def test_parts_that_it_cannot_hold(codec: Any, part: Spec, said: str | None) -> None:
    with pytest.raises(PlanError, match=said or "whole elements"):
        codec.spec(part)


OTHERS = [
    ({"codec": "offset", "by": 8}, spec("I8", 4, 4)), ({"codec": "offset", "by": 8}, spec("F4", 4, 4)),
    ({"codec": "offset", "by": 128}, spec("U8", 4, 4)), ({"codec": "transposed"}, spec("F6_E2M3", 4, 4)),
    ({"codec": "transposed"}, spec("U8", 4)), ({"codec": "transposed"}, spec("F4", 3, 4)),
    ({"codec": "transposed", "of": "nibbles"}, spec("U8", 3, 4)),
    ({"codec": "split", "size": 3}, spec("U8", 4, 4)), ({"codec": "fold", "by": 4}, spec("U8", 6, 4)),
    ({"codec": "fold", "by": 2}, spec("U8", 4, 2, 4)),
    ({"codec": "strips", "group": 64}, spec("U8", 3, 8)), ({"codec": "strips"}, spec("U8", 3, 32)),
    ({"codec": "strips", "bits": 1}, spec("U8", 4, 8)), ({"codec": "strips"}, spec("F4", 4, 64)),
    ({"codec": "transposed", "of": "nibbles"}, spec("I8", 4, 4)), ({"codec": "split", "size": 1}, spec("U8")),
    ({"codec": "transposed", "of": "elements"}, spec("U8", 2, 4, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("config", "part"), OTHERS, ids=str)
def test_more_parts_that_it_cannot_hold(config: dict[str, Any], part: Spec) -> None:
    with pytest.raises(PlanError):
        from_config(config).spec(part)


F32 = spec("F32", 3, 1)


@pytest.mark.parametrize(
    ("codec", "part", "values", "said"),
    [
        (Reciprocal(), F32, [1, 0, 1], "holds 0.0"), (Reciprocal(), F32, [1, np.inf, 1], "holds inf"),
        (Reciprocal(), F32, [1, 1, 1e-40], "holds 9.99"), (Reciprocal(), F32, [np.nan, 1, 1], "holds nan"),
        (Powers(), F32, [1, 2, 3], "holds 3.0"), (Powers(), F32, [0, 2, 1], "holds 0.0"),
        (Powers(), F32, [1, -2, 1], "holds -2.0"), (Powers(), F32, [2**-128, 1, 1], "no power of two that"),
        (Powers(), F32, [1, 1, np.inf], "holds inf"), (RowsInt32(), spec("I8", 3, 1), [0, 8, 7], "0 to 8"),
        (RowsInt32(), spec("I8", 3, 1), [-9, 0, 7], "-9 to 7"),
    ],
)  # fmt: skip
def test_values_that_it_cannot_hold(codec: Any, part: Spec, values: list[float], said: str) -> None:
    data = np.array(values, part.dtype.carrier).reshape(part.shape)
    with pytest.raises(DataError, match=said):
        chain.encode(Piece("scale", 0, data), chain.steps((codec,), part), Scratch())


def test_every_exponent():
    """All codes of E8M0 against ml_dtypes, and back."""
    codes = np.arange(256, dtype=np.uint8)
    part = spec("F32", 256, 1)
    values = chain.decode(codes, (Powers(),), part)
    np.testing.assert_array_equal(values[:, 0], codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32))
    assert np.isnan(values[255, 0])
    assert encoded((Powers(),), values.reshape(-1).view(np.uint8), part, 7).tolist() == codes.tolist()


def test_reciprocals_come_back_within_a_rounding():
    assert [codec.name for codec in EVERY if not codec.exact] == ["reciprocal"]
    numbers = np.random.default_rng(0).uniform(1e-3, 1e6, 1000).astype(np.float32)
    part = spec("F32", 1000, 1)
    back = chain.decode(
        encoded((Reciprocal(),), numbers.view(np.uint8), part, 9).view(np.float32), (Reciprocal(),), part
    )
    assert (np.abs(back[:, 0] - numbers) <= np.spacing(numbers)).all()


def test_rows_of_words_are_those_of_compressed_tensors():
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    part = spec("I8", 21, 5)
    numbers = torch.from_numpy(content(part).view(np.int8).reshape(21, 5).copy())
    words = helpers.pack_to_int32(numbers, 4, packed_dim=0)
    # It leaves what is missing in the last word as it comes: zeros.
    ours = encoded((RowsInt32(),), content(part), part, 8).view(np.int32).reshape(3, 5)
    np.testing.assert_array_equal(ours, words.numpy())


def test_units_of_parts_with_fewer_rows_than_the_tensor():
    """A scale has one row to 128 of the tensor: a tile of eight rows of it is one of 1024 of the tensor."""
    part = spec("I8", 40, 2)
    assert chain.together((RowsInt32(),), part, 40, 3) == 24
    assert chain.together((RowsInt32(),), part, 5000, 128) == 1024
    assert chain.together((View("U8"),), part, 5000, 128) == 128
    whole = from_config({"codec": "transposed"})
    assert chain.together((whole,), part, 40, 1) == 40
    assert chain.together((whole,), part, 5000, 128) >= 5000
    assert chain.together((RowsInt32(), whole), part, 40, 1) >= 40
    assert not chain.apart((whole,), part)
    assert chain.apart((View("U8"),), part)


def test_marlin_packs_as_its_own_code() -> None:
    """Digests of what ``Layer.pack`` of IST-DASLab/marlin makes of a weight with these codes and scales."""
    k, n = np.ogrid[:256, :256]
    codes = ((k * 7 + n * 13 + k * n // 5) % 16).T.astype(np.uint8)
    scales = ((np.arange(512).reshape(256, 2) % 61 + 1) / 64).astype(np.float16)
    for codec, array, dtype, digest in (
        (Marlin(), codes[:, ::2] | codes[:, 1::2] << 4, "U8", "97074474ce8737cd405393e6695ecc7e"),
        (MarlinScales(), scales, "F16", "1891627fa5844a4a4f38aac8de276726"),
    ):
        part = spec(dtype, *array.shape)
        stored = codec.encode(Piece("codes", 0, array), part, Scratch()).data
        assert sha256(stored.tobytes()).hexdigest()[:32] == digest
