"""Weights of columns follow what a conversion makes of the tensors that they are of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import transcode as tc
from transcode.core.context import Context
from transcode.core.dtypes import dtype
from transcode.core.event import Event
from transcode.core.expr import Constant
from transcode.core.permuted import permuted, reshaped
from transcode.core.rows import Run, rows_of
from transcode.core.spec import Spec
from transcode.core.tensor import plain
from transcode.errors import PlanError
from transcode.stages.leaves import leaves
from transcode.stages.quantize.importance.columns import Stored
from transcode.stages.quantize.importance.follow import Mean, Unfollowed, combined, follow

DID = Event("convert", "a test")
DRAW = np.random.default_rng(8)


def of(name, values):
    values = np.ascontiguousarray(values, np.float32)
    spec = Spec(dtype("F32"), values.shape)
    return plain(name, spec, Constant(spec, values.tobytes()))


class Weighed:
    """Tensors whose every element is what its column weighs, so that their own way shows that of weights."""

    def __init__(self):
        self.weights = {}

    def __call__(self, name, rows, columns, matrices=1):
        weights = np.square(DRAW.standard_normal((matrices, columns))).astype(np.float32)
        self.weights[name] = [Stored("f", f"{name} {i}", of(name, row)) for i, row in enumerate(weights)]
        shape = (rows, columns) if matrices == 1 else (matrices, rows, columns)
        return of(name, np.repeat(weights, rows, axis=0).reshape(shape))

    def follow(self, tensor):
        return follow(tensor, lambda leaf: self.weights[leaf.name])


@pytest.fixture
def weighed():
    return Weighed()


def join(*parts, shape=None):
    runs = [Run(tensor, begin, rows) for tensor, begin, rows in parts]
    columns = runs[0].tensor.spec.columns
    return rows_of("joined", shape or (sum(run.rows for run in runs), columns), runs, did=DID)


MADE = {
    "joined": lambda w: join((w("a", 4, 6), 0, 4), (w("b", 3, 6), 0, 3)),
    "cut": lambda w: join((join((w("a", 4, 6), 0, 4), (w("b", 3, 6), 0, 3)), 2, 3)),
    "stacked": lambda w: join(*((w(f"e{i}", 4, 6), 0, 4) for i in range(3)), shape=(3, 4, 6)),
    "one of a stack": lambda w: join((w("e", 4, 6, matrices=3), 4, 4)),
    "rows in another order": lambda w: permuted(w("a", 12, 4), (2, 3, 2, 4), (0, 2, 1, 3), (12, 4)),
    "rows of two alternate": lambda w: permuted(
        join((w("a", 4, 6), 0, 4), (w("b", 4, 6), 0, 4)), (2, 4, 6), (1, 0, 2), (8, 6)
    ),
    "columns in another order": lambda w: permuted(w("a", 5, 6), (5, 2, 3), (0, 2, 1), (5, 6)),
    "both": lambda w: permuted(w("a", 6, 8), (2, 3, 2, 4), (1, 0, 3, 2), (6, 8)),
    "columns in another order twice": lambda w: permuted(
        permuted(w("a", 5, 12), (5, 2, 6), (0, 2, 1), (5, 12)), (5, 3, 4), (0, 2, 1), (5, 12)
    ),
    "a kernel as a matrix": lambda w: reshaped(w("a", 6, 4), (2, 12)),
    "a kernel turned": lambda w: permuted(w("a", 12, 4), (2, 3, 2, 4), (0, 2, 3, 1), (2, 24)),
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_weights_of_columns_go_where_the_columns_go(made, weighed):
    tensor = made(weighed)
    woven = weighed.follow(tensor)
    rows = [woven.columns[number].weights(Context())[0] for number in woven.rows]
    np.testing.assert_array_equal(np.stack(rows), tensor.numpy().reshape(-1, tensor.spec.columns))
    matrices = int(np.prod(tensor.spec.shape[:-2]))
    weights = combined(woven, matrices).weights(Context())
    mean = tensor.numpy().reshape(matrices, -1, tensor.spec.columns).mean(1, dtype=np.float64)
    np.testing.assert_allclose(np.broadcast_to(weights, mean.shape), mean, rtol=1e-6)


REFUSED = {
    "turned": lambda w: permuted(w("a", 6, 4), (6, 4), (1, 0), (4, 6)),
    "cut amidst rows": lambda w: reshaped(w("a", 2, 12), (6, 4)),
    "of rows of several": lambda w: reshaped(join((w("a", 2, 4), 0, 2), (w("b", 2, 4), 0, 2)), (2, 8)),
}


@pytest.mark.parametrize("made", REFUSED.values(), ids=REFUSED)
def test_what_cannot_follow_is_told(made, weighed):
    with pytest.raises(Unfollowed):
        weighed.follow(made(weighed))


def test_the_mean_of_equal_weights_is_each_and_of_others_is_over_rows(weighed):
    one, other = weighed("a", 3, 5), weighed("b", 4, 5)
    weighed.weights["c"] = [Stored("f", "c", of("c", weighed.weights["a"][0].weights(Context())[0]))]
    alike = combined(weighed.follow(join((one, 0, 3), (of("c", one.numpy()), 0, 3))), 1)
    assert isinstance(alike, Mean)
    assert not alike.differ
    np.testing.assert_array_equal(alike.weights(Context()), one.numpy()[:1])
    mixed = combined(weighed.follow(join((one, 0, 3), (other, 1, 2))), 1)
    assert isinstance(mixed, Mean)
    assert mixed.differ
    assert [leaf.name for leaf in leaves(join((one, 0, 3), (other, 1, 2)))] == ["a", "b"]
    wanted = (3 * one.numpy()[0].astype(float) + 2 * other.numpy()[0]) / 5
    np.testing.assert_allclose(mixed.weights(Context())[0], wanted, rtol=1e-6)


WIDE, TALL = 64, 256
FLUX = {
    **{f"double_blocks.0.{one}_attn.qkv.weight": (3 * WIDE, WIDE) for one in ("img", "txt")},
    **{f"double_blocks.0.{one}_attn.proj.weight": (WIDE, WIDE) for one in ("img", "txt")},
    **{f"double_blocks.0.{one}_mlp.0.weight": (TALL, WIDE) for one in ("img", "txt")},
    **{f"double_blocks.0.{one}_mlp.2.weight": (WIDE, TALL) for one in ("img", "txt")},
    "single_blocks.0.linear1.weight": (3 * WIDE + TALL, WIDE),
    "single_blocks.0.linear2.weight": (WIDE, WIDE + TALL),
    **{f"double_blocks.0.{one}_mod.lin.weight": (6 * WIDE, WIDE) for one in ("img", "txt")},
    **dict.fromkeys(("img_in.weight", "vector_in.in_layer.weight"), (WIDE, WIDE)),
    "single_blocks.0.modulation.lin.weight": (3 * WIDE, WIDE),
}


def run(source, target, *stages, **options):
    flow = tc.open(source)
    for stage in stages:
        flow = flow | stage
    return flow | tc.write(target, **options)


@pytest.fixture
def flux(tmp_path):
    save_file(
        {n: DRAW.standard_normal(s).astype(np.float32) for n, s in FLUX.items()}, tmp_path / "a.safetensors"
    )
    run(tmp_path / "a.safetensors", tmp_path / "b.safetensors", tc.convert("diffusers"))
    return tmp_path


def weights_of(model, by=lambda name: name):
    """Weights by the names that ``by`` gives: equal where these are."""
    drawn, given = {}, {}
    for name, tensor in load_file(model).items():
        key = by(name)
        drawn.setdefault(key, np.square(DRAW.standard_normal(tensor.shape[-1])).astype(np.float32))
        given[name] = drawn[key]
    return given


QUANTIZE = {"group_size": 32, "optimize": "mse"}


def quantized(weights, source, target, *stages):
    save_file(weights, source.parent / "weights.safetensors")
    quantize = tc.quantize("int4", importance=str(source.parent / "weights.safetensors"), **QUANTIZE)
    report = run(source, target, *stages, quantize, convention="neutral", force=True)
    return load_file(target), report


def test_a_split_tensor_has_the_weights_of_the_joined_one(flux):
    weights = weights_of(flux / "a.safetensors")
    of_split = {}
    for name, parts in {
        "double_blocks.0.img_attn.qkv": "attn.to_q attn.to_k attn.to_v",
        "double_blocks.0.txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
        "double_blocks.0.img_attn.proj": "attn.to_out.0",
        "double_blocks.0.txt_attn.proj": "attn.to_add_out",
        "double_blocks.0.img_mlp.0": "ff.net.0.proj",
        "double_blocks.0.txt_mlp.0": "ff_context.net.0.proj",
        "double_blocks.0.img_mlp.2": "ff.net.2",
        "double_blocks.0.txt_mlp.2": "ff_context.net.2",
    }.items():
        of_split |= {
            f"transformer_blocks.0.{part}.weight": weights[f"{name}.weight"] for part in parts.split()
        }
    for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"):
        of_split[f"single_transformer_blocks.0.{part}.weight"] = weights["single_blocks.0.linear1.weight"]
    of_split["single_transformer_blocks.0.proj_out.weight"] = weights["single_blocks.0.linear2.weight"]
    at_once, _ = quantized(weights, flux / "a.safetensors", flux / "c.safetensors", tc.convert("diffusers"))
    after, _ = quantized(of_split, flux / "b.safetensors", flux / "d.safetensors")
    assert at_once.keys() == after.keys()
    for name in after:
        np.testing.assert_array_equal(at_once[name], after[name], err_msg=name)


def test_a_joined_tensor_has_those_of_its_parts_or_their_mean_which_is_told(flux):
    weights = weights_of(flux / "b.safetensors")
    back = flux / "b.safetensors", flux / "c.safetensors", tc.convert("original")
    at_once, report = quantized(weights, *back)
    assert any("mean over its rows" in str(text) for text in report.plan.log.warnings), (
        report.plan.log.warnings
    )

    def mean(*parts):
        rows = [load_file(flux / "b.safetensors")[part].shape[0] for part in parts]
        total = sum(weights[part].astype(np.float64) * count for part, count in zip(parts, rows, strict=True))
        return (total / sum(rows)).astype(np.float32)

    double, single = "transformer_blocks.0", "single_transformer_blocks.0"
    joined = {
        "double_blocks.0.img_attn.qkv.weight": mean(*(f"{double}.attn.to_{x}.weight" for x in "qkv")),
        "double_blocks.0.txt_attn.qkv.weight": mean(*(f"{double}.attn.add_{x}_proj.weight" for x in "qkv")),
        "single_blocks.0.linear1.weight": mean(
            *(f"{single}.attn.to_{x}.weight" for x in "qkv"), f"{single}.proj_mlp.weight"
        ),
    }
    modules = {name.removesuffix(".weight") for name in joined}
    only = {name: value for name, value in at_once.items() if name.rpartition(".")[0] in modules}
    weights_there = weights_of(flux / "a.safetensors") | joined
    after, report = quantized(weights_there, flux / "a.safetensors", flux / "d.safetensors")
    assert not report.plan.log.warnings
    assert only
    for name in only:
        np.testing.assert_array_equal(only[name], after[name], err_msg=name)
    alike = weights_of(flux / "b.safetensors", lambda name: load_file(flux / "b.safetensors")[name].shape[-1])
    _, report = quantized(alike, *back)
    assert not report.plan.log.warnings


def test_a_part_without_weights_is_named_with_what_it_goes_into(flux):
    weights = weights_of(flux / "b.safetensors")
    del weights["transformer_blocks.0.attn.to_k.weight"]
    with pytest.raises(PlanError, match=r"img_attn\.qkv\.weight \(it is made of .*attn\.to_k"):
        quantized(weights, flux / "b.safetensors", flux / "c.safetensors", tc.convert("original"))


def test_a_calibration_of_the_source_follows_too(flux):
    """The inputs of a joined layer are those of each of its parts: the largest counts."""

    def calibrated(source, to, left_out="-"):
        names = [name for name in load_file(flux / f"{source}.safetensors") if left_out not in name]
        peaks = {name: float(number + 1) for number, name in enumerate(names)}
        torch.save({"absmax": peaks}, flux / "calib.pt")
        stages = tc.convert(to), tc.quantize("nvfp4"), tc.calibrate(flux / "calib.pt")
        run(flux / f"{source}.safetensors", flux / "out.safetensors", *stages, force=True)
        return peaks, tc.open(flux / "out.safetensors")

    single = "single_transformer_blocks.0"
    peaks, out = calibrated("b", "original")
    parts = "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"
    most = max(peaks[f"{single}.{part}.weight"] for part in parts)
    assert out["single_blocks.0.linear1.input_global_scale"].numpy() == np.float32(2688 / most)
    peaks, out = calibrated("a", "diffusers")
    own = np.float32(2688 / peaks["single_blocks.0.linear1.weight"])
    assert out[f"{single}.proj_mlp.input_global_scale"].numpy() == own
    with pytest.raises(PlanError, match=r"lacks double_blocks\.0\.txt_attn\.qkv\.weight"):
        calibrated("b", "original", left_out="add_k_proj")
