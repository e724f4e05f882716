"""Codes and scales of every pair of schemes that can be recoded: what is decoded stays what it was."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.schemes import make
from transcode.schemes.grid import EXACT, NOTHING
from transcode.schemes.recode import recoding

KINDS = [
    ("mxfp4", {}), ("mxfp6", {}), ("mxfp6", {"format": "e3m2"}), ("mxfp8", {}), ("mxfp8", {"format": "e5m2"}),
    ("nvfp4", {}), ("int4", {"group_size": 32}), ("int4", {"group_size": 128}),
    ("int4", {"group_size": 64, "symmetric": False}), ("int8", {}), ("int8", {"granularity": "tensor"}),
    ("int8", {"granularity": "group", "group_size": 32}), ("int8", {"symmetric": False}), ("fp8", {}),
    ("int8", {"granularity": "group", "group_size": 32, "symmetric": False}),
    ("fp8", {"granularity": "tensor"}), ("fp8", {"granularity": "block"}),
    ("fp8", {"granularity": "block", "scale_dtype": "F8_E8M0"}),
    ("fp8", {"granularity": "block", "block": (1, 64), "scale_dtype": "F8_E8M0"}),
    ("fp8", {"granularity": "block", "block": (1, 32)}), ("fp8", {"format": "e5m2"}),
]  # fmt: skip
SHAPES = [(260, 384), (3, 140, 256)]


def values(shape, spread=1.0):
    rng = np.random.default_rng(len(shape))
    sizes = np.exp(spread * rng.standard_normal((*shape[:-1], 1)))
    return (rng.standard_normal(shape) * sizes).astype(np.float32).reshape(-1, shape[-1])


def gathered(scheme, spec, pieces):
    """Pieces put where they say they belong, which leave no byte out."""
    parts = {part.role: np.zeros(part.spec.nbytes, np.uint8) for part in scheme.parts(spec)}
    seen = {role: np.zeros(one.size, int) for role, one in parts.items()}
    for piece in pieces:
        data = np.ascontiguousarray(piece.data).reshape(-1).view(np.uint8).copy()
        parts[piece.role][piece.offset : piece.offset + data.size] = data
        seen[piece.role][piece.offset : piece.offset + data.size] += 1
    assert all((one >= 1).all() for one in seen.values())
    return {part.role: parts[part.role].view(part.spec.dtype.carrier) for part in scheme.parts(spec)}


def encoded(scheme, rows, spec):
    stats = scheme.observe(rows, spec.dtype) if scheme.observes else None
    return gathered(scheme, spec, scheme.encode(rows, spec, 0, stats, Scratch()))


def decoded(scheme, parts, spec):
    out = np.empty((spec.rows, spec.columns), np.float32)
    scheme.decode({**parts, "codes": parts["codes"].reshape(spec.rows, -1)}, spec, 0, spec.rows, out)
    return out


def recoded(way, parts, tile):
    """The parts, and the share of cells in which no value changes."""
    powers = way.source.grid(way.given).scales == "power"
    top = int(way.exponents(parts).max()) if powers else 0
    pieces, states = [], []
    for start in range(0, way.spec.rows, tile):
        stop = min(start + tile, way.spec.rows)
        codes = parts["codes"].reshape(way.spec.rows, -1)[start:stop]
        made, worst = way.rows(codes, parts, start, stop, top, Scratch())
        pieces += [type(one)(one.role, one.offset, one.data.copy()) for one in made]
        states.append(worst)
    return gathered(way.target, way.spec, pieces), np.concatenate(states)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("old", KINDS, ids=str)
def test_every_pair(old, shape):
    spec = Spec(DTYPES["F32"], shape)
    source = make(old[0], **old[1])
    if source.refuses(spec) is not None:
        pytest.skip("the scheme does not take the shape")
    parts = encoded(source, values(shape), spec)
    before = decoded(source, parts, spec)
    for name, options in KINDS:
        target = make(name, **options)
        if (name, options) == old or target.refuses(spec) is not None:
            continue
        way = recoding(source, spec, target, spec, daring=True)
        if way is None:
            continue
        out, states = recoded(way, parts, spec.rows)
        after = decoded(target, out, spec)
        assert (states == EXACT).all() == np.array_equal(after, before), (name, options)
        assert not way.certain or (states == EXACT).all(), (name, options)
        if shape[0] == 260 and target.grain(spec) in (1, 128) and source.grain(spec) in (1, 128):
            again, same = recoded(way, parts, 128)
            assert all(np.array_equal(out[role], again[role]) for role in out)
            assert np.array_equal(same, states)


def test_many_pairs_can():
    spec = Spec(DTYPES["BF16"], (256, 512))
    made = [make(name, **options) for name, options in KINDS]
    can = [recoding(one, spec, other, spec) for one in made for other in made if one != other]
    assert sum(way is not None for way in can) >= 40
    assert sum(way is not None and way.certain for way in can) >= 20


def test_no_rounding_is_promised_where_there_would_be_one():
    spec = Spec(DTYPES["BF16"], (256, 512))

    def way(old, new, daring=False, **options):
        return recoding(make(*old[:1], **old[1]), spec, make(new, **options), spec, daring=daring)

    assert way(("int8", {}), "fp8") is None
    assert way(("fp8", {}), "int8") is None
    assert way(("nvfp4", {}), "mxfp4") is None
    assert way(("mxfp8", {}), "mxfp4") is None
    assert way(("fp8", {"granularity": "block"}), "fp8") is None  # scales of any value under one of a row
    assert way(("fp8", {"granularity": "block", "scale_dtype": "F8_E8M0"}), "fp8") is not None
    assert way(("int4", {"symmetric": False}), "int8", granularity="group") is None
    assert way(("mxfp4", {}), "int8") is None
    assert way(("mxfp4", {}), "int8", daring=True) is not None
    # scales in float32 do not fit into those of 16 bits, powers of two do
    assert way(("fp8", {"scale_dtype": "F32", "granularity": "tensor"}), "fp8", scale_dtype="BF16") is None
    assert way(("fp8", {"scale_dtype": "F32", "granularity": "tensor"}), "fp8", scale_dtype="F32").certain
    assert way(("mxfp4", {}), "fp8", granularity="block", block=(1, 32), scale_dtype="BF16").certain
    assert way(("mxfp4", {}), "fp8", granularity="block", block=(1, 32), scale_dtype="F16") is None


def test_mxfp4_as_nvfp4_by_a_formula_of_its_own():
    """The same nibbles; each scale twice, in E4M3, over ``2**(top - 8)``."""
    spec = Spec(DTYPES["BF16"], (4, 128))
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (4, 64), np.uint8)
    scales = rng.integers(100, 117, (4, 4), np.uint8)
    scales[2, 1] = 117
    way = recoding(make("mxfp4"), spec, make("nvfp4"), spec)
    out, states = recoded(way, {"codes": codes, "scale": scales}, 4)
    assert (states == EXACT).all()
    assert np.array_equal(out["codes"].reshape(4, 64), codes)
    assert out["global_scale"] == np.float32(2.0 ** -(117 - 127 - 8))
    wanted = np.repeat(2.0 ** (scales.astype(float) - 127 - (117 - 127 - 8)), 2, axis=1)
    assert np.array_equal(out["scale"].view(ml_dtypes.float8_e4m3fn).astype(float).reshape(4, 8), wanted)


def test_blocks_out_of_range_are_rounded_and_counted():
    """Under 2**-17 of the largest scale E4M3 ends: what is rounded there is told."""
    spec = Spec(DTYPES["BF16"], (2, 64))
    codes = np.full((2, 32), 0x71, np.uint8)  # 0.5 and 6
    scales = np.array([[127, 110], [109, 100]], np.uint8)
    way = recoding(make("mxfp4"), spec, make("nvfp4"), spec)
    assert not way.certain
    assert way.wants_top
    out, states = recoded(way, {"codes": codes, "scale": scales}, 2)
    assert states.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    after = decoded(make("nvfp4"), out, spec)
    assert after[0, 32:34].tolist() == [0.5 * 2.0**-17, 6 * 2.0**-17]
    assert after[1, :2].tolist() == [0, 3 * 2.0**-17]  # halves of the smallest step go to the even code


def test_what_is_no_number_is_told():
    spec = Spec(DTYPES["BF16"], (1, 32))
    way = recoding(make("mxfp8"), spec, make("fp8", granularity="block", block=(1, 32)), spec)
    codes = np.zeros((1, 32), np.uint8)
    codes[0, 3] = 0x7F
    _, states = recoded(way, {"codes": codes, "scale": np.array([[127]], np.uint8)}, 1)
    assert states.max() == NOTHING
    with pytest.raises(ValueError, match="NaN"):
        way.exponents({"scale": np.array([[255]], np.uint8)})
