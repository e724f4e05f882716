"""The kernels of the GPU backend give the bytes of the CPU's, for every scheme, option, dtype and edge case.

On torch's CPU device they are compared on every machine; on a GPU where there is one.
"""

import itertools
import threading

import numpy as np
import pytest
import torch

from tests.expressions import NOTHING
from tests.laws.test_schemes import CASES
from tests.schemes.helpers import SOURCES, encode, finite_bf16, peaks_and_values
from transcode.core.dtypes import DTYPES
from transcode.core.performance import Performance
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.errors import DataError, PlanError, RecipeError
from transcode.numerics import NonFinite, backend
from transcode.numerics.gpu import search, table, worker
from transcode.schemes import SCHEMES, block, make

GPU = pytest.param(
    "cuda:0",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: torch sees no GPU here"),
)
everywhere = pytest.mark.parametrize("device", ["cpu", GPU])

MODES = ("rceil", "floor", "even", "ceil")
LAWS = [case for case in CASES if block(case[0]) is None]
"""But for blocks of GGUF, which no GPU makes; ``tests/schemes/test_ggml.py`` goes through those."""

CASES = [
    *LAWS,
    *(("int8", {"scale_dtype": kept}) for kept in ("F32", "F16")),
    ("int8", {"symmetric": False, "granularity": "group", "group_size": 40, "scale_dtype": "F16"}),
    ("int8", {"granularity": "tensor", "scale_dtype": "F16"}),
    ("int8", {"rotate": 16, "scale_dtype": "F16"}),
    ("int8", {"rotate": 4, "symmetric": False}),
    ("fp8", {"granularity": "tensor", "scale_dtype": "BF16"}),
    ("fp8", {"format": "e5m2", "scale_dtype": "F16"}),
    ("fp8", {"format": "e5m2", "granularity": "block", "block": (1, 40)}),
    *(
        (name, {**form, "scale_mode": mode, "optimize": search})
        for (name, form), mode, search in itertools.product(
            [
                ("mxfp4", {}),
                ("mxfp6", {}),
                ("mxfp6", {"format": "e2m3"}),
                ("mxfp8", {}),
                ("mxfp8", {"format": "e5m2"}),
            ],
            MODES,
            ("none", "mse"),
        )
    ),
    *(("int4", {"symmetric": False, "group_size": size}) for size in (64, 128)),
    *(("int4", {"optimize": "mse", "group_size": size, "scale_dtype": "F16"}) for size in (32, 128)),
    ("affine", {"bits": 2, "group_size": 32, "optimize": "mse"}),
    ("hqq", {"optimize": "mse"}),
]


def identify(case):
    name, options = case
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())]).replace(" ", "-")


every = pytest.mark.parametrize("case", CASES, ids=identify)


def compare(case, values, device, **rest):
    if case[1].get("scale_dtype") == "F16":
        # What it cannot scale is an error on every device; half a step of 65504. A scale is the value itself
        # where columns are rotated, and in hqq far from zero; elsewhere 7 codes reach the largest value.
        codes = 1 if case[1].get("rotate", 1) > 1 or case[0] == "hqq" else 7
        fits = np.abs(values.astype(np.float64)) < 65000.0 * codes
        values = np.where(fits, values, np.zeros((), values.dtype))
    if case[1].get("rotate", 1) > 1:  # sums of the largest numbers have no float32
        values = np.where(np.abs(values.astype(np.float64)) < 1e37, values, np.zeros((), values.dtype))
    scheme = make(case[0], **case[1])
    expected = encode(scheme, values, **rest)
    with backend.working(device, 1 << 30):
        found = encode(scheme, values, **rest)
    assert found.keys() == expected.keys()
    for role in expected:
        np.testing.assert_array_equal(found[role], expected[role], err_msg=role)


def hard(kind, shape, seed=0):
    """Values of all sizes; rows of zeros, negative zeros, ties, subnormal and huge numbers."""
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        values = (rng.standard_normal(shape) * np.exp2(rng.integers(-12, 8, shape))).astype(kind)
        flat = values.reshape(-1, shape[-1])
        flat[1], flat[2] = 0.0, -0.0
        flat[3] = (rng.integers(-28, 29, shape[-1]) / 4).astype(kind)
        flat[3, :2] = 7, 6
        info = np.finfo(np.float32) if kind == np.float64 else None
        tiny, huge = (info.tiny, info.max) if info else (SMALL[kind], LARGE[kind])
        flat[4] = (rng.standard_normal(shape[-1]) * tiny).astype(kind)
        flat[5] = (rng.uniform(-1, 1, shape[-1]) * huge).astype(kind)
        flat[5, 0], flat[5, 1] = huge, -huge
        flat[6, ::2] = -0.0
        flat[7] = np.abs(flat[7])
        flat[8] = -np.abs(flat[8])
    return values


SMALL = {SOURCES["BF16"]: 2.0**-126, np.float16: 2.0**-14, np.float32: 2.0**-126}
LARGE = {SOURCES["BF16"]: 3.3895314e38, np.float16: 65504.0, np.float32: np.finfo(np.float32).max}


def test_the_backend_is_what_runs(monkeypatch):
    calls = []
    monkeypatch.setattr(table, "KERNELS", {"symmetric": lambda *rest: calls.append(rest) or True})
    rows = np.zeros((2, 64), np.float32)
    with backend.working("cpu", 1 << 20) as scratch:
        list(make("int8").encode(rows, Spec(DTYPES["F32"], (2, 64)), 0, None, scratch))
        assert len(calls) == 1
        # Another thread is not concerned.
        other = threading.Thread(target=encode, args=(make("int8"), rows), daemon=True)
        other.start()
        other.join(60)
    encode(make("int8"), rows)
    assert len(calls) == 1


# Of the dtypes that few models have, the first case of each scheme: each is a kernel to compile.
DTYPED = [
    (case, source)
    for source in SOURCES
    for case in (CASES if source in ("BF16", "F32") else {case[0]: case for case in reversed(CASES)}.values())
]


@everywhere
@pytest.mark.parametrize(
    ("case", "source"), DTYPED, ids=[f"{identify(case)}-{source}" for case, source in DTYPED]
)
def test_every_dtype(case, source, device):
    compare(case, hard(SOURCES[source], (40, 640)), device)


@everywhere
@every
def test_every_bf16_as_the_peak_of_a_block(case, device):
    step = 1 if device != "cpu" else 41  # a machine without a GPU is slow at this: a share of all peaks
    compare(case, peaks_and_values(128)[::step], device)


@everywhere
@every
def test_every_bf16_under_one_scale(case, device):
    values = finite_bf16()
    few = values[np.abs(values.astype(np.float32)) < 2.0**10]
    columns = 640
    rows = np.resize(few, (-(-few.size // columns), columns))
    rows[:, 0] = 1024
    compare(case, rows, device)


@everywhere
@every
@pytest.mark.parametrize("shape", [(9, 640), (3, 130, 128), (1, 128), (17, 1920)])
def test_shapes_and_tiles(case, shape, device):
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    compare(case, values, device, tile={9: 4, 3: 50, 1: None, 17: 5}[shape[0]])


@everywhere
@pytest.mark.parametrize("columns", [1, 3, 33, 127, 129])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0] in ("int8", "fp8") and "rotate" not in case[1]], ids=identify
)
def test_odd_columns(case, columns, device):
    compare(case, np.random.default_rng(2).standard_normal((37, columns)).astype(np.float16), device)


@everywhere
@pytest.mark.parametrize("scheme", [name for name in SCHEMES if block(name) is None])
def test_a_scale_that_underflows_or_overflows(scheme, device):
    made = make(scheme)
    columns = -(-128 // made.multiple[1]) * made.multiple[1]
    largest = 3e38 / getattr(made, "rotate", 1) ** 0.5  # what is turned may grow by so much
    for size in (2.0**-149, 2.0**-140, 2.0**-126, largest):
        values = (np.random.default_rng(3).uniform(-1, 1, (16, columns)) * size).astype(np.float32)
        compare((scheme, {}), values, device)
        if scheme in ("int8", "fp8", "int4"):
            for kept in ("F16", "BF16"):
                compare((scheme, {"scale_dtype": kept}), values, device)


@everywhere
@every
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(case, bad, device):
    scheme = make(case[0], **case[1])
    if scheme.observes:
        pytest.skip("the look at the whole tensor refuses them")
    values = np.ones((7, -(-128 // scheme.multiple[1]) * scheme.multiple[1]), np.float32)
    values[4, 77] = bad
    with (
        backend.working(device, 1 << 30) as scratch,
        pytest.raises(NonFinite, match=r"row 4, column 77") as raised,
    ):
        list(scheme.encode(values, Spec(DTYPES["F32"], values.shape), 0, None, scratch))
    assert (raised.value.row, raised.value.column) == (4, 77)


@everywhere
@pytest.mark.parametrize("case", LAWS[::2], ids=identify)
def test_bands_change_nothing(case, device, monkeypatch):
    monkeypatch.setattr(worker, "_STAGE", 1 << 10)
    scheme = make(case[0], **case[1])
    columns = -(-640 // scheme.multiple[1]) * scheme.multiple[1]
    values = np.random.default_rng(4).standard_normal((19, columns)).astype(SOURCES["BF16"])
    compare(case, values, device)
    expected = encode(scheme, values)
    with backend.working(device, 1):  # no memory at all: a grain at a time
        found = encode(scheme, values)
    for role in expected:
        np.testing.assert_array_equal(found[role], expected[role])


@everywhere
@pytest.mark.parametrize(
    "case",
    [("awq_w4a16", {}), ("affine", {"bits": 3, "optimize": "mse"}), ("hqq", {"bits": 2})],
    ids=identify,
)
def test_weights_of_columns(case, device, monkeypatch):
    monkeypatch.setattr(worker, "_STAGE", 1 << 14)  # several bands, each with all columns
    weights = np.random.default_rng(7).gamma(1, 1, 640).astype(np.float32)
    weights[::9] = 0
    for source in ("BF16", "F32"):
        values = hard(SOURCES[source], (40, 640))
        compare(case, np.where(np.abs(values.astype(np.float64)) < 1e37, values, 0 * values), device,
                weights=weights, tile=17)  # fmt: skip


@everywhere
def test_out_of_memory_makes_bands_smaller(device, monkeypatch):
    band = worker.Worker._band
    seen = []

    def tight(self, slot, rows, *rest):
        seen.append(len(rows))
        if len(rows) > 10:
            raise torch.cuda.OutOfMemoryError("not here")
        return band(self, slot, rows, *rest)

    monkeypatch.setattr(worker.Worker, "_band", tight)
    compare(("fp8", {"granularity": "block", "block": (4, 32)}), np.ones((90, 64), np.float32), device)
    assert seen[:4] == [90, 44, 20, 8]
    monkeypatch.setattr(
        worker.Worker, "_band", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("never"))
    )
    with pytest.raises(DataError, match="not enough free memory for a block of 64 values; free some"):
        compare(("int8", {}), np.ones((9, 64), np.float32), device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: torch sees no GPU here")
def test_a_full_gpu_makes_bands_smaller(monkeypatch):
    monkeypatch.setattr(worker, "_STAGE", 64 << 20)
    bands = []
    band = worker.Worker._band

    def count(self, slot, rows, *rest):
        bands.append(len(rows))
        return band(self, slot, rows, *rest)

    monkeypatch.setattr(worker.Worker, "_band", count)
    values = np.random.default_rng(6).standard_normal((4096, 2048)).astype(SOURCES["BF16"])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((48 << 20) / total)
    try:
        compare(("int8", {}), values, "cuda:0")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert bands[0] == 4096
    assert bands[1] == 2048


@everywhere
def test_sources_may_be_read_only_views_and_unaligned_rows(device):
    values = np.random.default_rng(5).standard_normal((64, 256)).astype(np.float32)
    compare(("int8", {}), values[3:60], device)


@everywhere
def test_several_threads_at_once(device):
    scheme = make("nvfp4", optimize="mse")
    values = [np.random.default_rng(n).standard_normal((64, 640)).astype(np.float32) for n in range(6)]
    expected = [encode(scheme, one) for one in values]
    found = [None] * 6

    def work(n):
        with backend.working(device, 64 << 20):
            for _ in range(3):
                found[n] = encode(scheme, values[n])

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one, other in zip(found, expected, strict=True):
        for role in other:
            np.testing.assert_array_equal(one[role], other[role])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: torch sees no GPU here")
def test_the_fused_search_is_the_plain_one(monkeypatch):
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    values = hard(SOURCES["BF16"], (256, 1280))
    # What F16 cannot scale is an error on every device.
    values = np.where(np.abs(values.astype(np.float64)) < 65000.0 * 7, values, np.zeros((), values.dtype))
    cases = [case for case in CASES if "optimize" in case[1]]
    with backend.working("cuda:0", 1 << 30):
        fused = [encode(make(name, **options), values) for name, options in cases]
        monkeypatch.setattr(search, "_triton", lambda device: None)
        plain = [encode(make(name, **options), values) for name, options in cases]
    for one, other in zip(fused, plain, strict=True):
        for role in one:
            np.testing.assert_array_equal(one[role], other[role])


# Choosing a device ----------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are two GPUs, which are torch's CPU device."""
    from transcode.numerics.gpu import devices

    used = []
    real = worker.Worker.__init__

    def pretend(self, device, memory):
        used.append((device, memory))
        real(self, "cpu", memory)

    monkeypatch.setattr(worker.Worker, "__init__", pretend)
    monkeypatch.setattr(devices, "count", lambda: 2)
    monkeypatch.setattr(devices, "problem", lambda name: None)
    return used


@pytest.mark.parametrize(
    ("wanted", "names"),
    [("cuda", {"cuda:0"}), ("cuda:1", {"cuda:1"}), ("cuda:0,cuda:1", {"cuda:0", "cuda:1"})],
)
def test_a_run_on_devices(wanted, names, gpus, wan, tmp_path, cli, digests):
    plain, other = tmp_path / "plain.safetensors", tmp_path / "other.safetensors"
    cli("run", wan, plain, "--scheme", "int8")
    cli("run", wan, other, "--scheme", "int8", "--device", wanted, "--workers", 4, "--device-memory", "64MB")
    assert digests(plain) == digests(other)
    assert {name for name, _ in gpus} == names
    share = 64 * 10**6 // (2 if len(names) == 2 else 4)
    assert all(memory == share for _, memory in gpus)


def test_devices_that_are_not_there(monkeypatch, refused, wan, tmp_path):
    from transcode.numerics.gpu import devices

    out = tmp_path / "out.safetensors"

    def said(name):
        return refused("run", wan, out, "--scheme", "int8", "--device", name)

    monkeypatch.setattr(devices, "count", lambda: 0)
    assert "device cuda: torch " in said("cuda")
    assert "sees no GPU; check the driver" in said("cuda")
    monkeypatch.setattr(devices, "count", lambda: 1)
    assert "device cuda:3: torch sees one GPU; choose cuda:0" in said("cuda:3")
    monkeypatch.setattr(devices, "count", lambda: 2)
    monkeypatch.setattr(devices, "problem", lambda name: "it is on fire" if name == "cuda:1" else None)
    assert "torch sees 2 GPUs; choose cuda:0 to cuda:1" in said("cuda:0,cuda:2")
    assert "device cuda:1: it is on fire; free it, or use another device" in said("cuda:1")
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert "device cuda:0: torch is not installed; pip install" in said("cuda:0")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wanted", ["gpu", "cuda,cuda:1", "cuda:", "cuda:-1", "cuda:0,cpu", "cuda:1,cuda:1", ""]
)
def test_devices_that_cannot_be_meant(wanted):
    with pytest.raises(RecipeError, match="device"):
        Performance(device=wanted)


def test_problem_of_a_gpu_that_does_not_work():
    from transcode.numerics.gpu import devices

    told = devices.problem("cuda:99")
    assert told is not None
    assert "\n" not in told


def test_auto_takes_a_gpu_only_for_searches(monkeypatch):
    from transcode.core.tensor import plain
    from transcode.plan.devices import choose
    from transcode.stages.quantize.encode import encode_tensor

    monkeypatch.setattr(backend, "available", lambda: ["cuda:1", "cuda:0"])
    big = plain("w", Spec(DTYPES["BF16"], (1 << 18, 1 << 14)), NOTHING)
    performance = Performance(device="auto", workers=2)
    search = encode_tensor(big, make("int4", optimize="mse"), "", ())
    assert choose(performance, [search]).names == ("cuda:1",)
    assert choose(Performance(device="auto", workers=64), [search]).names == ()
    assert choose(performance, [encode_tensor(big, make("int4"), "", ()), big]).names == ()
    small = plain("w", Spec(DTYPES["BF16"], (64, 64)), NOTHING)
    assert choose(performance, [encode_tensor(small, make("int4", optimize="mse"), "", ())]).names == ()
    monkeypatch.setattr(backend, "available", list)
    assert choose(performance, [search]).names == ()


def test_gpus_are_kept_busy_by_few_workers(gpus, monkeypatch):
    from transcode.plan.devices import choose

    monkeypatch.setattr(Performance, "threads", property(lambda self: self.workers or 32))
    for wanted, workers in (("cpu", 8), ("cuda", 4), ("cuda:0,cuda:1", 4)):
        assert choose(Performance(device=wanted), []).performance.threads == workers
    for given, workers in ((6, 6), (8, 8), (9, 8)):  # more than eight would only wait
        assert choose(Performance(device="cuda", workers=given), []).performance.threads == workers


def test_nothing_is_available_without_torch(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert backend.available() == ()
    assert backend.devices("cpu") == ()
    with pytest.raises(PlanError, match="torch is not installed"):
        backend.devices("cuda")


def test_a_worker_leaves_nothing_behind():
    before = torch.is_inference_mode_enabled()
    with pytest.raises(ZeroDivisionError), backend.working("cpu", 1):
        _ = 1 / 0
    assert torch.is_inference_mode_enabled() == before
    rows = np.ones((1, 32), np.float32)
    with backend.working(None) as scratch:
        assert isinstance(scratch, Scratch)
        list(make("mxfp4").encode(rows, Spec(DTYPES["F32"], rows.shape), 0, None, scratch))
