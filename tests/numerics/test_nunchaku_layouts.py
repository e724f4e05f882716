"""Packings against the published index formulas, written out as slow loops, and against their inverses."""

import numpy as np
import pytest

from transcode.numerics import nunchaku_layouts as layouts

rng = np.random.default_rng(20260822)


def codes(n: int, k: int) -> np.ndarray:
    return rng.integers(0, 16, (n, k), dtype=np.uint8)


def distinct(*shape: int) -> np.ndarray:
    """16-bit elements that all differ, as far as 16 bits go."""
    return (rng.permutation(int(np.prod(shape))) % 65536).astype(np.uint16).reshape(shape)


def w4x4_by_formula(q: np.ndarray) -> np.ndarray:
    rows, columns = q.shape
    tiles = columns // 64
    words = [0] * (rows * columns // 8)
    for n in range(rows):
        for k in range(columns):
            w = ((((n // 128) * tiles + k // 64) * 8 + (n % 128) // 16) * 8 + n % 8) * 4 + (k % 32) // 8
            w = w * 4 + ((n % 16) // 8) * 2 + (k % 64) // 32
            words[w] |= int(q[n, k]) << (4 * (k % 8))
    return np.array(words, "<u4").view(np.int8).reshape(rows, columns // 2)


def scale_by_formula(s: np.ndarray) -> np.ndarray:
    rows, groups = s.shape
    flat = np.zeros(rows * groups, s.dtype)
    for n in range(rows):
        for g in range(groups):
            off = ((n // 128) * groups + g) * 128 + ((n % 128) // 16) * 16
            flat[off + ((n % 8) // 2) * 4 + ((n % 16) // 8) * 2 + n % 2] = s[n, g]
    return flat.reshape(groups, rows)


def micro_by_formula(s: np.ndarray) -> np.ndarray:
    rows, groups = s.shape
    tiles = groups // 4
    flat = np.zeros(rows * groups, s.dtype)
    for n in range(rows):
        for g in range(groups):
            off = ((n // 128) * tiles + g // 4) * 32 + (n % 8) * 4 + (n % 32) // 8
            flat[(off * 4 + (n % 128) // 32) * 4 + g % 4] = s[n, g]
    return flat.reshape(groups, rows)


def lowrank_by_formula(f: np.ndarray, down: bool) -> np.ndarray:
    channels, rank = f.shape
    flat = np.zeros(channels * rank, f.dtype)
    for c in range(channels):
        for r in range(rank):
            i, j = (r % 16, c % 16) if down else (c % 16, r % 16)
            off = ((c // 16) * (rank // 16) + r // 16) * 256 + ((i % 8) * 4 + (j % 8) // 2) * 8
            flat[off + (i // 8) * 4 + (j // 8) * 2 + j % 2] = f[c, r]
    return flat.reshape(channels, rank)


def w4x16_by_formula(u: np.ndarray) -> np.ndarray:
    rows, columns = u.shape
    words = [0] * (rows * columns // 4)
    for n in range(rows):
        for k in range(columns):
            w = ((n // 4) * (columns // 64) + k // 64) * 64 + (n % 4) * 16 + ((k % 64) // 32) * 8 + k % 8
            words[w] |= int(u[n, k]) << (4 * ((k % 32) // 8))
    return np.array(words, "<u2").view("<i4").reshape(rows // 4, columns // 2)


@pytest.mark.parametrize(("n", "k"), [(128, 64), (128, 192), (384, 128)])
def test_w4x4(n: int, k: int) -> None:
    q = codes(n, k)
    packed = layouts.pack_w4x4(q)
    assert packed.dtype == np.int8
    assert np.array_equal(packed, w4x4_by_formula(q))
    assert np.array_equal(layouts.unpack_w4x4(packed), q)


@pytest.mark.parametrize(("n", "groups"), [(128, 1), (128, 6), (384, 4)])
def test_scale(n: int, groups: int) -> None:
    s = distinct(n, groups)
    packed = layouts.pack_scale(s)
    assert np.array_equal(packed, scale_by_formula(s))
    assert np.array_equal(layouts.unpack_scale(packed), s)


def test_store_order_that_the_kernel_documents() -> None:
    """Lane 0 holds channels 0, 1, 8, 9; lane 1 holds 2, 3, 10, 11; lane 31 holds 118, 119, 126, 127."""
    packed = layouts.pack_vector(np.arange(128, dtype=np.uint16))
    assert packed[:8].tolist() == [0, 1, 8, 9, 2, 3, 10, 11]
    assert packed[-4:].tolist() == [118, 119, 126, 127]
    micro = layouts.pack_micro_scale(np.repeat(np.arange(128, dtype=np.uint8)[:, None], 4, axis=1)).reshape(
        -1
    )
    assert micro[::4][:8].tolist() == [0, 32, 64, 96, 8, 40, 72, 104]
    assert micro[::4][-4:].tolist() == [31, 63, 95, 127]


def test_vector() -> None:
    v = distinct(256)
    assert np.array_equal(layouts.pack_vector(v), scale_by_formula(v[:, None]).reshape(-1))
    assert np.array_equal(layouts.unpack_vector(layouts.pack_vector(v)), v)


@pytest.mark.parametrize(("n", "groups"), [(128, 4), (128, 12), (384, 8)])
def test_micro_scale(n: int, groups: int) -> None:
    s = rng.integers(0, 256, (n, groups), dtype=np.uint8)
    packed = layouts.pack_micro_scale(s)
    assert np.array_equal(packed, micro_by_formula(s))
    assert np.array_equal(layouts.unpack_micro_scale(packed), s)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(("channels", "rank"), [(16, 16), (128, 32), (256, 48)])
def test_lowrank(channels: int, rank: int, down: bool) -> None:
    f = distinct(channels, rank)
    packed = layouts.pack_lowrank(f, down=down)
    assert np.array_equal(packed, lowrank_by_formula(f, down))
    assert np.array_equal(layouts.unpack_lowrank(packed, down=down), f)


def test_lowrank_of_a_transposed_factor() -> None:
    f = distinct(32, 128)
    assert np.array_equal(layouts.pack_lowrank(f.T, down=True), lowrank_by_formula(f.T, True))


@pytest.mark.parametrize(("n", "k"), [(4, 64), (12, 128), (24, 192)])
def test_w4x16(n: int, k: int) -> None:
    u = codes(n, k)
    packed = layouts.pack_w4x16(u)
    assert packed.dtype == np.int32
    assert packed.shape == (n // 4, k // 2)
    assert np.array_equal(packed, w4x16_by_formula(u))
    assert np.array_equal(layouts.unpack_w4x16(packed), u)


@pytest.mark.parametrize("splits", [1, 3, 6])
def test_interleave(splits: int) -> None:
    rows = distinct(12 * splits, 3)
    made = layouts.interleave(rows, splits)
    for channel in range(12):
        for split in range(splits):
            assert np.array_equal(made[channel * splits + split], rows[split * 12 + channel])
    assert np.array_equal(layouts.deinterleave(made, splits), rows)


def test_blocks_of_rows_are_packed_independently() -> None:
    """What lets a weight be packed some rows at a time."""
    q, s, m, f, u = codes(256, 128), distinct(256, 2), codes(256, 8), distinct(256, 32), codes(24, 64)
    for pack, whole, block in (
        (layouts.pack_w4x4, q, 128),
        (layouts.pack_scale, s, 128),
        (layouts.pack_micro_scale, m, 128),
        (lambda rows: layouts.pack_lowrank(rows, down=False), f, 128),
        (layouts.pack_w4x16, u, 4),
    ):
        pieces = [pack(whole[at : at + block]).reshape(-1) for at in range(0, len(whole), block)]
        assert np.array_equal(np.concatenate(pieces), pack(whole).reshape(-1))
