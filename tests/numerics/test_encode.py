"""What the schemes of blocks call: a search and the encoding as one step, into the caller's arrays alone."""

from __future__ import annotations

import numpy as np
import pytest

from transcode.core.scratch import Scratch
from transcode.numerics import backend, encode
from transcode.numerics.lanes import STORED
from transcode.numerics.minifloat import FORMATS

F = np.float32
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], F)


def bits_of(values):
    bits = np.ascontiguousarray(values, F).reshape(-1).view(np.uint32)
    bits.setflags(write=False)
    return bits


def guarded(size, dtype=np.uint8):
    """An array within a longer one, to see that nothing beside it is written."""
    whole = np.full(size + 128, 77, dtype)
    return whole, whole[64 : 64 + size]


def beside(whole):
    return (whole[:64] == 77).all() and (whole[-64:] == 77).all()


def nibbles(codes):
    """Low nibble first: signs and magnitudes of E2M1."""
    both = np.stack([codes & 15, codes >> 4], -1).reshape(-1)
    return np.where(both >> 3, -1, 1) * E2M1[both & 7]


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("kind", ["e2m1", "e3m2", "e2m3", "e4m3fn", "e5m2"])
@pytest.mark.parametrize("blocks", [1, 64, 65, 200])
def test_mx_fills_its_arrays_and_nothing_beside_them(best, kind, blocks):
    form = FORMATS[kind]
    values = np.random.default_rng(0).standard_normal(blocks * 32).astype(F)
    whole_codes, codes = guarded(blocks * 4 * form.bits)
    whole_scales, scales = guarded(blocks)
    assert encode.mx(bits_of(values), form, "rceil", best, codes, scales, Scratch())
    assert beside(whole_codes)
    assert beside(whole_scales)
    stream = np.unpackbits(codes, bitorder="little").reshape(-1, form.bits).astype(int)
    found = form.values()[stream @ (1 << np.arange(form.bits))]
    found = found * np.repeat(np.exp2(scales.astype(F) - 127), 32)
    noise = np.linalg.norm(found - values) / np.linalg.norm(values)
    assert noise < 2.0 ** -(form.nmant + 1) * 0.7


def test_mx_searches_only_when_it_is_told():
    values = np.random.default_rng(1).standard_t(4, 3200).astype(F)
    found = []
    for best in (False, True):
        codes, scales = np.empty(1600, np.uint8), np.empty(100, np.uint8)
        assert encode.mx(bits_of(values), FORMATS["e2m1"], "rceil", best, codes, scales, Scratch())
        out = nibbles(codes) * np.repeat(np.exp2(scales.astype(np.float64) - 127), 32)
        found.append((out, scales))
    errors = [((out - values) ** 2).reshape(-1, 32).sum(1) for out, _ in found]
    assert (errors[1] <= errors[0] * (1 + 1e-6)).all()
    assert (found[0][1] != found[1][1]).any()


@pytest.mark.parametrize("search", [None, (-1, 0), (4, 6)])
@pytest.mark.parametrize("blocks", [1, 128, 129, 400])
def test_nv_fills_its_arrays_and_nothing_beside_them(search, blocks):
    values = np.random.default_rng(2).standard_normal(blocks * 16).astype(F)
    shared = np.abs(values).max() / F(2688)
    whole_codes, codes = guarded(blocks * 8)
    whole_scales, scales = guarded(blocks)
    assert encode.nv(bits_of(values), shared, search, codes, scales, Scratch())
    assert beside(whole_codes)
    assert beside(whole_scales)
    unit = FORMATS["e4m3fn"].values()[scales] * shared
    noise = np.linalg.norm(nibbles(codes) * np.repeat(unit, 16) - values) / np.linalg.norm(values)
    assert 0.05 < noise < 0.12


DIVISORS = np.array([7, 8, 8.75], F)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_integers_symmetric_and_with_zeros(size):
    values = np.random.default_rng(3).standard_normal((90, size)).astype(F) + F(0.3)
    for kept in (None, np.full((90, 1), 99, np.int8)):
        whole_codes, codes = guarded(90 * size // 2)
        scales = np.full((90, 1), np.nan, F)
        groups = bits_of(values).reshape(90, size)
        groups.setflags(write=False)
        assert encode.integers(groups, STORED["F32"], DIVISORS, codes, scales, kept, Scratch())
        assert beside(whole_codes)
        both = np.stack([codes & 15, codes >> 4], -1).reshape(90, size).astype(np.int8)
        numbers = (both ^ 8) - 8  # two's complement
        zero = 0 if kept is None else kept.astype(F)
        out = (numbers - zero) * scales
        # No error is more than half a step, but where the clamp of the zero point or of the top adds one; a
        # scale that lets the largest values give way is taken only where that has less error on the whole.
        assert (np.abs(out - values) <= scales * (1.001 if kept is not None else 1.76)).all()
        if kept is None:
            plain = np.abs(values).max(1, keepdims=True) / F(7)
            without = ((np.rint(values / plain) * plain - values) ** 2).sum(1)
            assert (((out - values) ** 2).sum(1) <= without * 1.0001).all()
        assert np.median(np.abs(out - values) / scales) < 0.3
        if kept is not None:
            assert len(np.unique(kept)) > 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("search", [False, True])
def test_what_is_not_finite_is_told(bad, search):
    values = np.ones(3200, F)
    values[1777] = bad
    bits = bits_of(values)
    codes, scales = np.empty(3200, np.uint8), np.empty(200, np.uint8)
    assert not encode.mx(bits, FORMATS["e4m3fn"], "rceil", search, codes, scales[:100], Scratch())
    assert not encode.nv(bits, F(1), (4, 6) if search else None, codes[:1600], scales, Scratch())
    groups = bits.reshape(-1, 64)
    groups.setflags(write=False)
    found = np.empty((50, 1), F)
    assert not encode.integers(groups, STORED["F32"], DIVISORS, codes[:1600], found, None, Scratch())
    zeros = np.empty((50, 1), np.int8)
    assert not encode.integers(groups, STORED["F32"], DIVISORS, codes[:1600], found, zeros, Scratch())


def test_a_thread_that_works_for_a_gpu_hands_the_whole_step_over(monkeypatch):
    """One trip there and back: neither search nor packing is left to the processor."""
    table = pytest.importorskip("transcode.numerics.gpu.table", reason="without torch there is no GPU")
    calls = []

    def call(worker, name, arguments):
        calls.append((worker, name))
        return True

    monkeypatch.setattr(table, "call", call)
    monkeypatch.setattr(backend._here, "worker", "this thread's", raising=False)
    codes, scales = np.full(64, 5, np.uint8), np.full(4, 5, np.uint8)
    assert encode.mx(bits_of(np.ones(64)), FORMATS["e2m1"], "rceil", True, codes, scales, Scratch())
    assert encode.nv(bits_of(np.ones(64)), F(1), (4, 6), codes, scales, Scratch())
    assert encode.integers(bits_of(np.ones(64)), 0, 24, codes, scales, None, Scratch())
    assert calls == [("this thread's", name) for name in ("mx", "nv", "integers")]
    assert (codes == 5).all()
