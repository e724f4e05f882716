"""Codes that were rounded at random: neighbours only, right on average, the same in any tiles."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.schemes.test_recode import decoded, gathered
from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.schemes import make
from transcode.schemes.dither import can_dither, dithered, key_of
from transcode.schemes.packed import apart

KINDS = [
    ("int8", {}), ("int8", {"granularity": "tensor"}), ("int8", {"symmetric": False}),
    ("int8", {"granularity": "group", "group_size": 32}), ("int4", {"group_size": 32}),
    ("int4", {"group_size": 32, "symmetric": False}), ("fp8", {}), ("fp8", {"granularity": "block"}),
    ("fp8", {"format": "e5m2", "granularity": "tensor"}), ("mxfp4", {}), ("mxfp6", {}), ("mxfp8", {}),
    ("nvfp4", {}), ("q8_0", {}), ("q4_0", {}), ("ggml_mxfp4", {}), ("ggml_nvfp4", {}),
    ("ggml_nvfp4", {"scaled": True}),
]  # fmt: skip
SPEC = Spec(DTYPES["BF16"], (256, 128))


def encoded(scheme, rows, spec, tile, key):
    stats = scheme.observe(rows, spec.dtype) if scheme.observes else None
    pieces = []
    for start in range(0, spec.rows, tile):
        own = rows[start : start + tile]
        made = list(scheme.encode(own, spec, start, stats, scratch := Scratch()))
        if key is not None:
            values = own.view(ml_dtypes.bfloat16).astype(np.float32)
            made = dithered(scheme, spec, own, values, start, stats, made, key, scratch)
        pieces += [type(one)(one.role, one.offset, one.data.copy()) for one in made]
    return gathered(scheme, spec, pieces)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_neighbours_under_the_same_scales(kind):
    scheme = make(kind[0], **kind[1])
    assert can_dither(scheme, SPEC)
    grid = scheme.grid(SPEC)
    floats = np.random.default_rng(0).standard_normal(SPEC.shape).astype(ml_dtypes.bfloat16)
    rows = floats.view(np.uint16)
    nearest = encoded(scheme, rows, SPEC, 256, None)
    mean = np.zeros(SPEC.shape)
    rounds = 64
    for seed in range(rounds):
        parts = encoded(scheme, rows, SPEC, 256, key_of(seed, "w"))
        assert all(np.array_equal(parts[role], nearest[role]) for role in parts if role != "codes")
        assert not np.array_equal(parts["codes"], nearest["codes"])
        if grid.stored:
            among, as_they_were = (apart(one["codes"], SPEC.rows, grid)[1] for one in (parts, nearest))
            np.testing.assert_array_equal(among, as_they_were)
        mean += decoded(scheme, parts, SPEC) / rounds
        if seed == 0:
            again = encoded(scheme, rows, SPEC, 128, key_of(seed, "w"))
            assert all(np.array_equal(parts[role], again[role]) for role in parts)
    values, near = floats.astype(np.float64), decoded(scheme, nearest, SPEC)
    # where the range ends both saturate; elsewhere the mean comes closer than the nearest code is
    assert np.abs(mean - values).mean() < 0.5 * np.abs(near - values).mean()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_a_value_of_the_codes_stays(kind):
    scheme = make(kind[0], **kind[1])
    rows = np.zeros(SPEC.shape, ml_dtypes.bfloat16).view(np.uint16)
    nearest = encoded(scheme, rows, SPEC, 256, None)
    parts = encoded(scheme, rows, SPEC, 256, key_of(1, "w"))
    assert np.array_equal(decoded(scheme, parts, SPEC), decoded(scheme, nearest, SPEC))


def test_names_and_seeds_differ():
    assert len({key_of(seed, name) for seed in (0, 1) for name in "ab"}) == 4
    assert not can_dither(make("w4a8"), SPEC)
