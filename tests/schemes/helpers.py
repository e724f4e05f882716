"""Encode and decode whole tensors as a run does, and make inputs that are hard."""

from functools import reduce

import ml_dtypes
import numpy as np

from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec

SOURCES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64}


def spec_of(values):
    """Facts of an array in one of the plain float dtypes."""
    name = next(name for name, kind in SOURCES.items() if values.dtype == kind)
    return Spec(DTYPES[name], values.shape)


def encode(scheme, values, tile=None, share=None, weights=None):
    """All parts by role, in carriers, from tiles of ``tile`` grains; checks that pieces fill the parts."""
    spec = spec_of(values)
    assert scheme.refuses(spec) is None
    parts = {part.role: part.spec for part in scheme.parts(spec)}
    rows = values.view(spec.dtype.carrier).reshape(spec.rows, spec.columns)
    rows.setflags(write=False)
    buffers = {role: np.full(part.nbytes, 0xA5, np.uint8) for role, part in parts.items()}
    written = {role: np.zeros(part.nbytes, bool) for role, part in parts.items()}
    step = scheme.grain(spec) * tile if tile else spec.rows
    scratch = Scratch()
    stats = None
    if scheme.observes:
        looks = [scheme.observe(rows[a : a + step], spec.dtype) for a in range(0, spec.rows, step)]
        stats = reduce(scheme.merge, looks if share is None else [*looks, share])
    for start in range(0, spec.rows, step):
        scratch.reset()
        for piece in scheme.encode(rows[start : start + step], spec, start, stats, scratch, weights):
            assert piece.data.dtype == np.dtype(parts[piece.role].dtype.carrier)
            raw = piece.data.reshape(-1).view(np.uint8)
            buffers[piece.role][piece.offset : piece.offset + raw.size] = raw
            written[piece.role][piece.offset : piece.offset + raw.size] = True
    assert all(done.all() for done in written.values())
    return {
        role: buffer.view(parts[role].dtype.carrier).reshape(carried(parts[role]))
        for role, buffer in buffers.items()
    }


def carried(part):
    """Shape of a part's carrier array: packed codes take fewer bytes than elements."""
    if not part.dtype.packed:
        return part.shape
    return (*part.shape[:-1], part.shape[-1] * part.dtype.bits // (8 * part.dtype.elements))


def decode(scheme, parts, spec, start=0, stop=None):
    """Rows of a tensor from its parts."""
    stop = spec.rows if stop is None else stop
    codes = parts["codes"].reshape(spec.rows, -1)[start:stop]
    out = np.full((stop - start, spec.columns), np.nan, np.float32)
    scheme.decode({**parts, "codes": codes}, spec, start, stop, out)
    return out


def as_float32(part, dtype):
    """A stored scale as float32."""
    return part.view(DTYPES[dtype].numpy()).astype(np.float32)


def finite_bf16():
    """Every finite BF16 value."""
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    return every[np.isfinite(every.astype(np.float32))]


def peaks_and_values(columns=96, seed=0):
    """A row for every positive BF16 value as its largest magnitude, with smaller values of all kinds,
    ``[32639, K]``.
    """
    peaks = np.arange(1, 0x7F80, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)[:, None]
    rng = np.random.default_rng(seed)
    share = rng.uniform(-1, 1, (len(peaks), columns)) * np.exp2(rng.integers(-12, 1, (len(peaks), columns)))
    with np.errstate(all="ignore"):
        rows = (peaks * share).astype(np.float32).astype(ml_dtypes.bfloat16)
    rows[:, :1] = peaks.astype(ml_dtypes.bfloat16)
    rows[:, 1] = -0.0
    return rows


def stored(scale, kept):
    """Scales as they are stored: nearest even, but never zero and never infinite."""
    kind = DTYPES[kept].numpy()
    info = ml_dtypes.finfo(kind)
    with np.errstate(over="ignore"):
        return np.clip(
            scale.astype(kind).astype(np.float32), np.float32(info.smallest_subnormal), np.float32(info.max)
        )


def rounded_up_where_saturated(scale, peak, limit, kept):
    """Stored scales, those of the subnormal numbers of their dtype one up where ``peak / scale > limit``."""
    kind = DTYPES[kept].numpy()
    info = ml_dtypes.finfo(kind)
    with np.errstate(over="ignore"):
        up = (scale < np.float32(info.smallest_normal)) & (peak / scale > np.float32(limit))
    return np.where(up, scale + np.float32(info.smallest_subnormal), scale)


def small_in_f16(columns, seed):
    """Rows whose scales are subnormal in F16, or just not, ``[400, K]`` float32."""
    sizes = np.exp2(np.linspace(-26, -3, 400))[:, None]
    return (np.random.default_rng(seed).uniform(-1, 1, (400, columns)) * sizes).astype(np.float32)
