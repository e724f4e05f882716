"""Where a plan runs: the GPUs that were asked for, or one where it pays; and how workers share them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
from transcode import catalog
from transcode.core.context import Context
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Constant
from transcode.core.performance import Performance
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError, TranscodeError
from transcode.numerics import backend
from transcode.plan.devices import Devices, choose
from transcode.schemes import SCHEMES, make
from transcode.stages.quantize.encode import encode_tensor


def tensor(gigabytes: float, scheme: str | None = None, **options: object) -> LazyTensor:
    spec = Spec(DTYPES["BF16"], (round(gigabytes * 1e9) // (2 * 4096), 4096))
    one = plain("a.weight", spec, Constant(spec, b""))
    return one if scheme is None else encode_tensor(one, make(scheme, **options), "", ())


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two GPUs that work, as far as can be told without one."""
    names = ["cuda:1", "cuda:0"]
    monkeypatch.setattr(backend, "available", lambda: names)

    def devices(wanted: str) -> tuple[str, ...]:
        return () if wanted == "cpu" else tuple("cuda:0" if n == "cuda" else n for n in wanted.split(","))

    monkeypatch.setattr(backend, "devices", devices)
    return names


def test_the_processor_unless_a_gpu_is_asked_for(gpus):
    performance = Performance(workers=7)
    assert choose(performance, [tensor(100, "int4", optimize="mse")]) == Devices((), performance)


@pytest.mark.parametrize(
    ("device", "names"),
    [("cuda", ("cuda:0",)), ("cuda:1", ("cuda:1",)), ("cuda:0,cuda:1", ("cuda:0", "cuda:1"))],
)
def test_those_that_are_named(device, names, gpus):
    assert choose(Performance(device=device), [tensor(0.001, "int8")]).names == names


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match="device cuda: torch is not installed"):
        choose(Performance(device="cuda"), [])


@pytest.mark.parametrize(
    ("gigabytes", "workers", "scheme", "options", "pays"),
    [
        (20, 2, "int4", {"optimize": "mse"}, True),
        (20, 1, "nvfp4", {"optimize": "mse"}, True),
        (20, 8, "nvfp4", {"optimize": "mse"}, False),
        (0.01, 2, "int4", {"optimize": "mse"}, False),  # the start takes longer
        (20, 64, "nvfp4", {"optimize": "mse"}, False),  # as many processors are as fast
        (100, 2, "int4", {"optimize": "none"}, False),  # nothing is searched
        (100, 2, "int8", {}, False),
        (20, 2, "w6a8", {}, True),  # scales are fitted, without being asked for
        (20, 16, "hqq", {"optimize": "mse"}, True),
        (20, 8, "int4", {"optimize": "signed"}, False),  # has no kernel there
        (100, 2, None, {}, False),
    ],
)
def test_auto_takes_one_where_it_pays(gigabytes, workers, scheme, options, pays, gpus):
    found = choose(Performance(device="auto", workers=workers), [tensor(gigabytes, scheme, **options)])
    assert found.names == (("cuda:1",) if pays else ())  # the first: it has the most free memory


def test_auto_weighs_the_detour_of_all_that_is_quantized(gpus):
    """What is quantized without a search goes over the GPU too; plain tensors do not."""
    search = [tensor(8, "int4", optimize="mse")]
    performance = Performance(device="auto", workers=2)
    assert choose(performance, search).names
    assert choose(performance, [*search, tensor(1000)]).names
    assert not choose(performance, [*search, tensor(1000, "int8")]).names


def test_auto_without_any_gpu(monkeypatch):
    monkeypatch.setattr(backend, "available", list)
    assert choose(Performance(device="auto"), [tensor(100, "int4", optimize="mse")]).names == ()


@pytest.mark.parametrize(
    ("device", "threads", "workers"),
    [
        ("cuda", 32, 4),
        ("cuda", 3, 3),
        ("cuda:0,cuda:1", 32, 4),
        ("cuda:0,cuda:1,cuda:2", 32, 6),
        ("cpu", 32, 8),  # nothing to compute
    ],
)
def test_a_few_workers_keep_gpus_busy(device, threads, workers, gpus, monkeypatch):
    monkeypatch.setattr(Performance, "threads", property(lambda self: self.workers or threads))
    assert choose(Performance(device=device), []).performance.threads == workers
    asked = choose(Performance(device=device, workers=9), []).performance.threads
    assert asked == 8  # more only wait for each other, whoever asks for them


@pytest.mark.parametrize(
    ("names", "workers", "share"),
    [
        (("cuda:0",), 4, 250),
        (("cuda:0", "cuda:1"), 4, 500),
        (("cuda:0", "cuda:1"), 5, 333),
        (("a", "b", "c"), 1, 1000),
    ],
)
def test_workers_take_turns_and_share_memory(names, workers, share, monkeypatch):
    """All workers of one GPU together stay within its memory, also where they cannot be dealt out evenly."""
    seen = []
    monkeypatch.setattr(backend, "working", lambda device, memory=0: seen.append((device, memory)))
    devices = Devices(names, Performance(workers=workers, device="cuda", device_memory=1000))
    for number in range(workers):
        devices.surroundings(number)
    assert [device for device, _ in seen] == [names[n % len(names)] for n in range(workers)]
    assert {memory for _, memory in seen} == {share}
    for name in names:
        assert sum(memory for device, memory in seen if device == name) <= 1000


def test_without_a_gpu_a_worker_has_scratch_of_its_own():
    devices = Devices((), Performance())
    with devices.surroundings(0) as one, devices.surroundings(1) as other:
        assert isinstance(one, Context)
        assert one is not other
        assert not np.shares_memory(one.take((8,), np.uint8), other.take((8,), np.uint8))


@pytest.mark.parametrize(
    ("flow", "workers"),
    [
        (tc.quantize("int8"), 8),  # the kernel writes for one at a time, whatever there is to write
        (tc.quantize("nvfp4"), 8),
        (tc.quantize("nvfp4", optimize="mse"), 64),  # searches take longer than writing
        (tc.quantize("int4", optimize="mse"), 64),
        (tc.quantize("mxfp4", optimize="mse"), 64),
        (tc.quantize("w4a8"), 64),  # fits scales whatever is chosen
        (tc.cast("f32"), 64),
    ],
)
def test_workers_follow_the_work(flow, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(Performance, "threads", property(lambda self: self.workers or 64))
    source = tmp_path / "s.safetensors"
    save_file({"blocks.0.ffn.0.weight": torch.ones(256, 256, dtype=torch.bfloat16)}, source)
    written = tc.write(tmp_path / "o.safetensors", convention="neutral")
    tensors = (tc.open(source) | flow).plan(written).tensors
    assert choose(Performance(), tensors).performance.threads == workers
    assert choose(Performance(workers=3), tensors).performance.threads == 3
    light = workers == 8
    assert choose(Performance(workers=9), tensors).performance.threads == (8 if light else 9)
    planned = (tc.open(source) | flow).plan(
        tc.write(tmp_path / "o.safetensors", convention="neutral", workers=9)
    )
    assert any("8 of 9 workers run" in str(note) for note in planned.log.notes) == light


class Counted(Context):
    """Notes how much memory the tile at hand has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def take(self, shape, dtype):
        array = super().take(shape, dtype)
        self.taken += array.nbytes
        return array


ENCODINGS = [
    *(tc.quantize(name, importance="sinq" if make(name).needs_weights else None) for name in SCHEMES),
    *(tc.quantize(name, optimize="mse") for name in ("int4", "mxfp4", "nvfp4")),
    tc.quantize("int4", symmetric=False),
    tc.quantize("int8", granularity="group", group_size=32),
]
CONVENTIONS = [
    "neutral",
    "comfyui",
    "lightx2v",
    "compressed_tensors",
    "modelopt",
    "gpt_oss",
    "gptq",
    "awq",
    "mlx",
    "bitsandbytes",
    "gguf",
]


RARE = {"int8", "fp8", "mxfp4", "int4", "q8_0"}
"""Schemes that are tried from dtypes that few models have, too."""
TILES = [
    (flow, dtype)
    for dtype in (torch.bfloat16, torch.float32, torch.float16, torch.float64)
    for flow in ENCODINGS
    if dtype in (torch.bfloat16, torch.float32) or flow.scheme in RARE
]


@pytest.mark.parametrize(("flow", "dtype"), TILES, ids=str)
def test_a_tile_takes_no_more_than_its_room(flow, dtype, tmp_path):
    source = tmp_path / "s.safetensors"
    values = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"blocks.0.ffn.0.weight": values}, source)
    held = 0
    for convention in CONVENTIONS:
        try:
            opened = tc.open(source, mmap=False) | flow  # what is mapped is as large as what is read
            plan = opened.plan(tc.write(tmp_path / "o", convention=convention))
        except TranscodeError:
            continue  # a scheme that the convention does not have
        for tensor in plan.tensors:
            if tensor.scheme is None:
                continue  # a marker
            context = Counted()
            for needed in tensor.needs:
                observation = context.run.observation(needed)
                observation.schedule(1)
                observation.see(0, tensor.spec.rows, context)
            context.reset()
            context.taken = 0
            for _ in tensor.read(0, tensor.spec.rows, context):
                pass
            assert context.taken <= tensor.value.room() * tensor.spec.nbytes, convention
            held += 1
    assert held >= min(2, sum(1 for name in catalog.takers(flow.scheme) if name in CONVENTIONS))
