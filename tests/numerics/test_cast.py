"""Casts go to the nearest value: for all values of the small formats, and where rounding is delicate."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.numerics import Overflow
from transcode.numerics.cast import cast

NAMES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
TOPS = {"F32": float(np.finfo("f4").max), "F16": 65504.0, "BF16": float(ml_dtypes.finfo("bfloat16").max)}
TOPS |= {"F8_E4M3": 448.0, "F8_E5M2": 57344.0, "F64": float(np.finfo("f8").max)}


def run(values, source, to, **options):
    """Cast a 1-D array of ``source``'s numpy dtype; the result in ``to``'s."""
    rows = values.view(DTYPES[source].carrier).reshape(1, -1)
    rows.setflags(write=False)
    out = np.empty(rows.shape, DTYPES[to].carrier)
    cast(rows, DTYPES[source], DTYPES[to], out, **options)
    return out.view(DTYPES[to].numpy()).reshape(-1)


def probes(source):
    """All values of dtypes of up to 16 bits; for wider ones the neighbours of all their values and ties."""
    dtype = DTYPES[source]
    if dtype.bits <= 16:
        return np.arange(1 << dtype.bits).astype(f"u{dtype.itemsize}").view(dtype.numpy())
    kind = dtype.numpy()
    rough = []
    for small in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        width = np.dtype(small).itemsize
        with np.errstate(all="ignore"):
            every = np.arange(1 << 8 * width).astype(f"u{width}").view(small).astype(np.float64)
        every = np.unique(every[np.isfinite(every)])
        rough += [every, (every[1:] + every[:-1]) / 2, every[-1] + np.diff(every)[-1] / 2]
    with np.errstate(all="ignore"):
        middle = np.unique(np.concatenate([np.ravel(part) for part in rough])).astype(kind)
    with np.errstate(all="ignore"):
        near = [middle, np.nextafter(middle, kind.type(np.inf)), np.nextafter(middle, kind.type(-np.inf))]
    extra = np.array([np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0], kind)
    if kind == np.float64:  # what rounding to float32 on the way would spoil
        near += [
            middle * (1 + 2.0**-40),
            middle * (1 - 2.0**-40),
            np.array([1e300, -1e300, 5e-324, 2.0**-150]),
        ]
    return np.concatenate([*near, extra])


PAIRS = [pair for pair in itertools.product(NAMES, NAMES) if pair[0] != pair[1]]


def nearest(values, to):
    """Values as ``to`` holds them, infinite where too large, by search in the list of all its values.

    Not by a cast of ml_dtypes: from float64 that one rounds twice.
    """
    dtype = DTYPES[to]
    with np.errstate(all="ignore"):
        exact = values.astype(np.float64)
        if dtype.bits > 16:
            return exact, exact.astype(dtype.numpy()).astype(np.float64)
        steps = (
            np.arange(1 << (dtype.bits - 1))
            .astype(f"u{dtype.itemsize}")
            .view(dtype.numpy())
            .astype(np.float64)
        )
    steps = steps[np.isfinite(steps)]
    steps = np.append(steps, 2 * steps[-1] - steps[-2])
    middles = (steps[1:] + steps[:-1]) / 2
    size = np.abs(exact)
    code = np.searchsorted(middles, size, side="left")  # a tie goes down ...
    tie = np.isin(size, middles)
    code += tie & (code % 2 == 1)  # ... unless that is odd
    want = np.append(steps, np.nan)[np.minimum(code, len(steps) - 1)]
    want[code >= len(steps) - 1] = np.inf
    want[np.isnan(exact)] = np.nan
    return exact, np.copysign(want, exact)


@pytest.mark.parametrize(("source", "to"), PAIRS)
def test_saturating_cast_goes_to_the_nearest_value(source, to):
    values = probes(source)
    exact, want = nearest(values, to)
    bounded = np.isinf(want) & (np.isfinite(exact) | (to == "F8_E4M3"))
    want[bounded] = np.copysign(TOPS[to], exact[bounded])
    with np.errstate(invalid="ignore"):  # signalling NaN
        got = run(values, source, to, saturate=True).astype(np.float64)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


@pytest.mark.parametrize(("source", "to"), PAIRS)
def test_values_that_fit_raise_nothing_and_others_are_named(source, to):
    values = probes(source)
    exact, want = nearest(values, to)
    lost = np.isinf(want) & (np.isfinite(exact) | (to == "F8_E4M3"))
    with np.errstate(invalid="ignore"):
        fine = run(values[~lost], source, to).astype(np.float64)
    np.testing.assert_array_equal(fine, want[~lost])
    for value in values[lost][:3]:
        rows = np.zeros((3, 5), DTYPES[source].numpy())
        rows[1, 3] = rows[2, 0] = value
        out = np.empty((3, 5), DTYPES[to].carrier)
        with pytest.raises(Overflow) as caught:
            cast(rows.view(DTYPES[source].carrier), DTYPES[source], DTYPES[to], out)
        assert (caught.value.row, caught.value.column, caught.value.value) == (1, 3, float(value))


def test_other_dtypes_are_refused():
    with pytest.raises(KeyError, match="I8"):
        cast(np.zeros((1, 1), np.int8), DTYPES["I8"], DTYPES["F32"], np.zeros((1, 1), np.float32))


def test_rows_that_are_not_contiguous():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    out = np.empty((3, 2), np.uint16)
    cast(rows, DTYPES["F32"], DTYPES["BF16"], out)
    np.testing.assert_array_equal(out.view(ml_dtypes.bfloat16).astype(np.float32), rows)
