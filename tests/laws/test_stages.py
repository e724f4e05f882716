"""Laws of stages: through recipes and pickles, on facts alone, and any tiles give one result."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import golden
import make_svdquant
import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
import transcode.stages
from transcode.core.context import Context
from transcode.core.expr import Piece
from transcode.core.flow import Flow, Transform
from transcode.core.planning import Planning
from transcode.core.tensor import LazyTensor
from transcode.recipe import Recipe, SourceOptions, dump, parse
from transcode.stages.opening import Opening, Settling
from transcode.stages.reference import Heading


@dataclass(frozen=True)
class Sample:
    """A stage in a flow.

    Attributes:
        source: how the flow begins.
        stage: the stage, and what must stand before it.
        reads: its documentation says that it reads bytes while it plans.
    """

    source: Callable[[golden.Maker], Path]
    stage: Callable[[golden.Maker], tuple[Transform, ...]]
    reads: bool = False


def _llama(maker: golden.Maker) -> Path:
    return maker.path("llama", golden.llama)


def _int8(maker: golden.Maker) -> Path:
    return maker.path("int8", lambda path: tc.open(_llama(maker)) | tc.quantize("int8") | tc.write(path))


def _svdquant(maker: golden.Maker) -> Path:
    return maker.path("svd", lambda path: make_svdquant.save(path, make_svdquant.make(1, 1, dim=128)))


def _wan(maker: golden.Maker) -> Path:
    return Path(__file__).parents[2] / "fixtures" / "wan_tiny"


def _all_in_one(maker: golden.Maker) -> Path:
    names = [f"model.diffusion_model.{place}.1.transformer_blocks.9.attn{number}.to_q.weight"
             for place in ("input_blocks.7", "output_blocks.0") for number in (1, 2)]  # fmt: skip
    names += ["model.diffusion_model.label_emb.0.0.weight", "first_stage_model.encoder.conv_in.weight"]
    tensors = {name: torch.arange(64.0).reshape(8, 8) * (1 + at) for at, name in enumerate(names)}
    return maker.path("all.safetensors", lambda path: save_file(tensors, path))


def _peaks(maker: golden.Maker) -> Path:
    peaks = {name: torch.tensor(2.5) for name in golden.llama_tensors() if "proj" in name}
    return maker.path("calib.pt", lambda path: torch.save({"absmax": peaks}, path))


def _peft(maker: golden.Maker) -> Path:
    return maker.path("peft", golden.adapter("peft"))


SAMPLES: dict[str, Sample] = {
    "component": Sample(_all_in_one, lambda maker: (tc.component("unet"),)),
    "keep": Sample(_llama, lambda maker: (tc.keep("*self_attn*"),)),
    "drop": Sample(_llama, lambda maker: (tc.drop("*norm*"),)),
    "rename": Sample(_llama, lambda maker: (tc.rename([(r"^model\.", "net.")]),)),
    "convert": Sample(_wan, lambda maker: (tc.convert("diffusers"),)),
    "cast": Sample(_llama, lambda maker: (tc.cast("F32"),)),
    "dequantize": Sample(_int8, lambda maker: (tc.dequantize("F32"),)),
    "lora": Sample(_llama, lambda maker: (tc.lora(_peft(maker), 0.5),)),
    "quantize": Sample(_llama, lambda maker: (tc.quantize("nvfp4", exclude=["*down_proj*"]),)),
    "requantize": Sample(
        _int8, lambda maker: (tc.lora(_peft(maker), 0.5), tc.requantize("stochastic", seed=3))
    ),
    "calibrate": Sample(_llama, lambda maker: (tc.quantize("nvfp4"), tc.calibrate(_peaks(maker)))),
    "nunchaku": Sample(_svdquant, lambda maker: (tc.nunchaku(),), reads=True),
}
"""By the kind of the last stage."""


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return golden.Maker(tmp_path_factory.mktemp("stages"))


def flow_of(name: str, maker: golden.Maker) -> Flow:
    flow = tc.open(SAMPLES[name].source(maker))
    for stage in SAMPLES[name].stage(maker):
        flow = flow | stage
    return flow


def kinds() -> Iterator[type[Transform]]:
    """Every stage that a recipe can name."""
    for module in pkgutil.walk_packages(transcode.stages.__path__, "transcode.stages."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            ours = kind.__module__ == module.name and issubclass(kind, Transform)
            # What a flow puts in by itself stands in no recipe.
            if ours and kind.kind and kind not in (Opening, Settling, Heading):
                yield kind


def test_every_stage_is_here():
    assert {kind.kind for kind in kinds()} == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_stage_is_a_value(name, maker):
    for stage in SAMPLES[name].stage(maker):
        again = pickle.loads(pickle.dumps(stage))
        assert again == stage
        assert hash(again) == hash(stage)
        assert again.config() == stage.config()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_recipe_makes_the_same_stage(name, maker, tmp_path):
    flow = flow_of(name, maker)
    recipe = Recipe(SourceOptions(str(flow.source.path)), steps=flow.steps, sink=tc.write(tmp_path / "o"))
    assert parse(dump(recipe)).steps == flow.steps


@pytest.mark.parametrize("name", SAMPLES)
def test_the_record_tells_no_path(name, maker):
    for stage in SAMPLES[name].stage(maker):
        assert str(maker.path("llama", golden.llama).parent) not in str(stage.recorded())


@dataclass(frozen=True)
class Unread:
    """The value of a tensor that nobody may read yet."""

    inner: object

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        raise AssertionError("a byte was read while facts were rewritten")


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if not sample.reads])
def test_facts_are_rewritten_without_a_byte(name, maker):
    flow = flow_of(name, maker)

    class Source:
        def __getattr__(self, key: str) -> object:
            return getattr(flow.source, key)

        @property
        def tensors(self) -> list[LazyTensor]:
            return [replace(tensor, value=Unread(tensor.value)) for tensor in flow.source.tensors]

    made = Flow(Source(), flow.steps).tensors(Planning())
    wanted = flow.tensors(Planning())
    assert [(one.name, one.spec, one.parts) for one in made] == [(o.name, o.spec, o.parts) for o in wanted]


def _bytes(tensor: LazyTensor, rows: int) -> dict[str, bytes]:
    """All parts of a tensor, read some rows at a time: last rows first, as workers may."""
    whole = {part.role: bytearray(part.spec.nbytes) for part in tensor.parts}
    step = max(rows // tensor.grain, 1) * tensor.grain
    context = Context()
    for start in reversed(range(0, max(tensor.spec.rows, 1), step)):
        context.reset()
        for piece in tensor.read(start, min(start + step, tensor.spec.rows), context):
            data = piece.data.tobytes()
            whole[piece.role][piece.offset : piece.offset + len(data)] = data
    return {role: bytes(data) for role, data in whole.items()}


@pytest.mark.parametrize("name", SAMPLES)
def test_tiles_change_nothing(name, maker):
    looked = 0
    for tensor in flow_of(name, maker):
        if tensor.spec.numel and tensor.fate:
            assert _bytes(tensor, 1) == _bytes(tensor, 37) == _bytes(tensor, tensor.spec.rows), tensor.name
            looked += 1
    assert looked or name in ("keep", "drop")
