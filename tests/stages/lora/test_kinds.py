"""Adapters of other kinds than LoRA, against the formulas of those who train them, in float64."""

from dataclasses import dataclass
from math import prod

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.expressions import By
from transcode.core.context import Context
from transcode.errors import DataError, PlanError
from transcode.stages.lora import merge

EPSILON = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def made(seed=7, scale=1.0, **shapes):
    """Random tensors of these shapes, by name."""
    return {key: scale * rand(*shape, seed=seed + n) for n, (key, shape) in enumerate(shapes.items())}


@pytest.fixture
def save(tmp_path):
    def write(name, tensors):
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
        return path

    return write


@dataclass(frozen=True)
class Case:
    """An adapter of a tensor.

    ``tensors`` by what follows the module's name; ``merged(w, t, s)`` is what becomes of ``w`` with them at
    strength s, all float64.
    """

    shape: tuple
    tensors: dict
    merged: object
    told: str


def alpha(t, rank):
    return t["alpha"] / rank if "alpha" in t else 1.0


def loha(w, t, s):
    """lycoris/functional/loha.py, HadaWeight and HadaWeightTucker."""
    if "hada_t1" in t:
        one, other = (
            torch.einsum("ij...,jr,ip->pr...", t[f"hada_t{n}"], t[f"hada_w{n}_b"], t[f"hada_w{n}_a"])
            for n in (1, 2)
        )
    else:
        one, other = (t[f"hada_w{n}_a"] @ t[f"hada_w{n}_b"] for n in (1, 2))
    return (one * other).reshape(w.shape) * alpha(t, t["hada_w1_b"].shape[0])


def lokr(w, t, s):
    """lycoris/functional/lokr.py, _kron_weight; lycoris/modules/lokr.py for what alpha counts."""
    rank = None
    if (w1 := t.get("lokr_w1")) is None:
        w1, rank = t["lokr_w1_a"] @ t["lokr_w1_b"], t["lokr_w1_b"].shape[0]
    if (w2 := t.get("lokr_w2")) is None:
        rank = t["lokr_w2_b"].shape[0]
        if "lokr_t2" in t:
            w2 = torch.einsum("ij...,ip,jr->pr...", t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
        else:
            w2 = t["lokr_w2_a"] @ t["lokr_w2_b"].reshape(rank, -1)
    w1 = w1.reshape(*w1.shape, *(1 for _ in w2.shape[2:]))
    return torch.kron(w1, w2.contiguous()).reshape(w.shape) * (1.0 if rank is None else alpha(t, rank))


def lora(w, t, s):
    up, down = t["lora_up.weight"], t["lora_down.weight"]
    if "lora_mid.weight" in t:
        core = torch.einsum("oa,ab...,bi->oi...", up.flatten(1), t["lora_mid.weight"], down.flatten(1))
        return core.reshape(w.shape) * alpha(t, down.shape[0])
    return (up.flatten(1) @ down.flatten(1)).reshape(w.shape) * alpha(t, down.shape[0])


def added(delta):
    return lambda w, t, s: w + s * delta(w, t, s)


def dora(delta):
    """lycoris/functional/general.py, _weight_decompose; strength: comfy/weight_adapter/base.py."""

    def merged(w, t, s):
        whole = w + delta(w, t, s)
        if t["dora_scale"].shape[0] == w.shape[0]:
            norm = whole.flatten(1).norm(dim=1).reshape(-1, *(1 for _ in w.shape[1:]))
        else:
            norm = whole.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *(1 for _ in w.shape[2:]))
        whole = whole * (t["dora_scale"] / (norm + torch.finfo(torch.float32).eps))
        return w + s * (whole - w)

    return merged


def cayley(blocks, limit):
    """lycoris/functional/diag_oft.py, get_r; networks/oft.py of kohya has the same."""
    skew = blocks - blocks.transpose(-1, -2)
    norm = skew.norm() + 1e-8
    if 0 < limit < norm:
        skew = skew * (limit / norm)
    one = torch.eye(blocks.shape[-1], dtype=torch.float64)
    return (one + skew) @ (one - skew).inverse()


def oft(w, t, s):
    """lycoris/modules/diag_oft.py, make_weight; networks/oft_flux.py, forward."""
    parts = [t[key] for key in sorted(t) if key.startswith("oft_blocks")]
    results = []
    first = 0
    for blocks in parts:
        count, size, _ = blocks.shape
        turn = cayley(blocks, t.get("alpha", 0.0) * count * size)
        turn = turn * s + (1 - s) * torch.eye(size, dtype=torch.float64)
        rows = w[first : first + count * size].reshape(count, size, *w.shape[1:])
        results.append(torch.einsum("knm,kn...->km...", turn, rows).flatten(0, 1))
        first += count * size
    return torch.cat(results) * t.get("rescale", 1.0)


def boft(w, t, s):
    """lycoris/functional/boft.py, _diff_weight."""
    blocks = t["oft_blocks"]
    stages, count, size, _ = blocks.shape
    turns = cayley(blocks, t.get("alpha", 0.0) * count * size)
    turns = turns * s + (1 - s) * torch.eye(size, dtype=torch.float64)
    for stage in range(stages):
        half = 2**stage * (size // 2)
        w = w.unflatten(0, (-1, 2, half)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        w = torch.einsum("bij,bj...->bi...", turns[stage], w)
        w = w.flatten(0, 1).unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2)
    return w * t.get("rescale", 1.0)


def ia3(w, t, s):
    """lycoris/modules/ia3.py, _ia3_weight."""
    scale = 1 + s * t["weight"].flatten()
    axis = 1 if t["on_input"] else 0
    return w * scale.reshape(*(-1 if at == axis else 1 for at in range(w.dim())))


def glora(w, t, s):
    """lycoris/modules/glora.py, _glora_weight."""
    a1, a2, b1, b2 = (t[f"{name}.weight"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    turned = torch.einsum("oi...,ij,jk->ok...", w, a1, a2)
    return w + s * alpha(t, a2.shape[0]) * (turned + (b1 @ b2).reshape(w.shape))


def older_glora(w, t, s):
    """As comfy/weight_adapter/glora.py reads files of older LyCORIS."""
    a1, a2, b1, b2 = (t[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    return w + s * alpha(t, a1.shape[0]) * (b2 @ b1 + w @ a2 @ a1)


def hada(o, i, rank, **rest):
    return made(hada_w1_a=(o, rank), hada_w1_b=(rank, i), hada_w2_a=(o, rank), hada_w2_b=(rank, i), **rest)


def hada_cores(o, i, rank, *kernel):
    return made(
        hada_w1_a=(rank, o), hada_w1_b=(rank, i), hada_w2_a=(rank, o), hada_w2_b=(rank, i),
        hada_t1=(rank, rank, *kernel), hada_t2=(rank, rank, *kernel),
    )  # fmt: skip


def pair(o, i, rank, *kernel):
    ones = (1 for _ in kernel)
    return made(**{"lora_up.weight": (o, rank, *ones), "lora_down.weight": (rank, i, *kernel)})


def number(value):
    return {"alpha": torch.tensor(float(value))}


def blocks(*shape, scale=0.2, **rest):
    return {**made(scale=scale, oft_blocks=shape), **rest}


CASES = {
    "LoHa": Case((37, 50), {**hada(37, 50, 5), **number(2)}, added(loha), "LoHa of rank 5, alpha 2"),
    "LoHa, rank 1": Case((5, 6), hada(5, 6, 1), added(loha), "LoHa of rank 1"),
    "LoHa, flat kernel": Case((9, 6, 3, 5), hada(9, 90, 4), added(loha), "LoHa"),
    "LoHa, cores": Case((9, 6, 3, 5), {**hada_cores(9, 6, 4, 3, 5), **number(2)}, added(loha), "LoHa"),
    "LoKr, both whole": Case(
        (12, 35), {**made(lokr_w1=(3, 5), lokr_w2=(4, 7)), **number(1e10)}, added(lokr), "LoKr whole"
    ),
    "LoKr, w2 of low rank": Case(
        (36, 40),
        {**made(lokr_w1=(4, 5), lokr_w2_a=(9, 3), lokr_w2_b=(3, 8)), **number(2)},
        added(lokr),
        "LoKr of rank 3, alpha 2",
    ),
    "LoKr, w1 of low rank": Case(
        (36, 40),
        {**made(lokr_w1_a=(4, 2), lokr_w1_b=(2, 5), lokr_w2=(9, 8)), **number(3)},
        added(lokr),
        "LoKr of rank 2, alpha 3",
    ),
    "LoKr, ranks differ": Case(
        (36, 40),
        {**made(lokr_w1_a=(4, 2), lokr_w1_b=(2, 5), lokr_w2_a=(9, 3), lokr_w2_b=(3, 8)), **number(3)},
        added(lokr),
        "LoKr of rank 3, alpha 3",
    ),
    "LoKr, prime outputs": Case((31, 8), made(lokr_w1=(1, 2), lokr_w2=(31, 4)), added(lokr), "LoKr"),
    "LoKr, one row": Case((6, 8), made(lokr_w1=(6, 2), lokr_w2=(1, 4)), added(lokr), "LoKr"),
    "LoKr, kernel": Case((6, 8, 3, 2), made(lokr_w1=(2, 4), lokr_w2=(3, 2, 3, 2)), added(lokr), "LoKr"),
    "LoKr, line": Case((6, 8, 3), made(lokr_w1=(2, 4), lokr_w2=(3, 2, 3)), added(lokr), "LoKr"),
    "LoKr, flat kernel": Case(
        (6, 8, 3, 2), made(lokr_w1=(2, 4), lokr_w2_a=(3, 2), lokr_w2_b=(2, 12)), added(lokr), "LoKr"
    ),
    "LoKr, core": Case(
        (10, 8, 3, 2),
        {
            **made(lokr_w1=(2, 4), lokr_t2=(3, 3, 3, 2), lokr_w2_a=(3, 5), lokr_w2_b=(3, 2)),
            **number(6),
        },
        added(lokr),
        "LoKr of rank 3, alpha 6",
    ),
    "DoRA of inputs": Case(
        (37, 50),
        {**pair(37, 50, 4), **number(2), **made(dora_scale=(1, 50))},
        dora(lora),
        "DoRA, rank 4, alpha 2",
    ),
    "DoRA of outputs": Case(
        (37, 50), {**pair(37, 50, 4), **made(dora_scale=(37, 1))}, dora(lora), "DoRA, rank 4"
    ),
    "DoRA, square, of inputs": Case(
        (8, 8), {**pair(8, 8, 2), **made(dora_scale=(1, 8))}, dora(lora), "DoRA"
    ),
    "DoRA, square, of outputs": Case(
        (8, 8), {**pair(8, 8, 2), **made(dora_scale=(8, 1))}, dora(lora), "DoRA"
    ),
    "DoRA, kernel, of inputs": Case(
        (9, 6, 3, 5), {**pair(9, 6, 4, 3, 5), **made(dora_scale=(1, 6, 1, 1))}, dora(lora), "DoRA"
    ),
    "DoRA, kernel, of outputs": Case(
        (9, 6, 3, 5), {**pair(9, 6, 4, 3, 5), **made(dora_scale=(9, 1, 1, 1))}, dora(lora), "DoRA"
    ),
    "DoRA of LoHa": Case(
        (37, 50), {**hada(37, 50, 5), **made(dora_scale=(1, 50))}, dora(loha), "DoRA, LoHa of rank 5"
    ),
    "DoRA of LoKr": Case(
        (12, 35),
        {**made(lokr_w1=(3, 5), lokr_w2=(4, 7)), **made(dora_scale=(12, 1))},
        dora(lokr),
        "DoRA, LoKr whole",
    ),
    "OFT": Case((24, 10), blocks(6, 4, 4), oft, "OFT of 6 blocks"),
    "OFT, constrained": Case((24, 10), {**blocks(3, 8, 8), **number(0.01)}, oft, "OFT of 3 blocks"),
    "OFT, within its constraint": Case((24, 10), {**blocks(3, 8, 8), **number(10)}, oft, "OFT"),
    "OFT, rescaled": Case(
        (24, 10), {**blocks(2, 12, 12), **made(rescale=(24, 1)), **number(0)}, oft, "OFT of 2 blocks"
    ),
    "OFT, kernel, odd blocks": Case(
        (15, 4, 3, 2), {**blocks(3, 5, 5), **made(rescale=(15, 1, 1, 1))}, oft, "OFT"
    ),
    "OFT, blocks of one": Case((5, 3), {**blocks(5, 1, 1), **made(rescale=(5, 1))}, oft, "OFT"),
    "OFT, parts": Case(
        (33, 10),
        {
            **made(scale=0.2, **{"oft_blocks.0": (3, 3, 3), "oft_blocks.1": (3, 3, 3)}),
            **made(scale=0.2, **{"oft_blocks.2": (3, 5, 5)}), **number(0.05),
        },
        oft,
        "OFT of 3, 3, 3 blocks",
    ),
    "BOFT": Case((48, 10), blocks(3, 12, 4, 4), boft, "BOFT"),
    "BOFT, one stage": Case((12, 10), blocks(1, 2, 6, 6), boft, "BOFT"),
    "BOFT, constrained and rescaled": Case(
        (24, 10), {**blocks(2, 6, 4, 4), **made(rescale=(24, 1)), **number(0.01)}, boft, "BOFT"
    ),
    "BOFT, kernel": Case((16, 3, 2, 2), blocks(4, 8, 2, 2), boft, "BOFT"),
    "IA3 of inputs": Case(
        (7, 9), {**made(weight=(9,)), "on_input": torch.tensor(1)}, ia3, "IA3 of inputs"
    ),
    "IA3 of outputs": Case(
        (7, 9), {**made(weight=(7, 1)), "on_input": torch.tensor(False)}, ia3, "IA3 of outputs"
    ),
    "IA3, kernel, of inputs": Case(
        (7, 4, 3, 2), {**made(weight=(1, 4, 1, 1)), "on_input": torch.tensor(True)}, ia3, "IA3 of inputs"
    ),
    "IA3, kernel, of outputs": Case(
        (7, 4, 3, 2), {**made(weight=(1, 7, 1, 1)), "on_input": torch.tensor(0)}, ia3, "IA3 of outputs"
    ),
    "GLoRA": Case(
        (7, 10),
        {
            **made(**{"a1.weight": (10, 3), "a2.weight": (3, 10), "b1.weight": (7, 3), "b2.weight": (3, 10)}),
            **number(2),
        },
        glora,
        "GLoRA of rank 3, alpha 2",
    ),
    "GLoRA, square": Case(
        (9, 9),
        made(**{"a1.weight": (9, 2), "a2.weight": (2, 9), "b1.weight": (9, 2), "b2.weight": (2, 9)}),
        glora,
        "GLoRA of rank 2",
    ),
    "GLoRA, kernel": Case(
        (7, 4, 3, 2),
        made(**{
            "a1.weight": (4, 3, 1, 1), "a2.weight": (3, 4, 1, 1),
            "b1.weight": (7, 3, 1, 1), "b2.weight": (3, 4, 3, 2),
        }),
        glora,
        "GLoRA of rank 3",
    ),
    "GLoRA of older LyCORIS": Case(
        (9, 9),
        made(**{"a1.weight": (2, 9), "a2.weight": (9, 2), "b1.weight": (2, 9), "b2.weight": (9, 2)}),
        older_glora,
        "GLoRA of rank 2",
    ),
    "LoRA with a core": Case(
        (9, 6, 3, 2),
        {
            **made(**{
                "lora_up.weight": (9, 4, 1, 1), "lora_down.weight": (4, 6, 1, 1),
                "lora_mid.weight": (4, 4, 3, 2),
            }),
            **number(2),
        },
        added(lora),
        "rank 4, alpha 2",
    ),
}  # fmt: skip


def files(save, case, dtype=torch.float32, of_adapter=torch.float32):
    """A model, a tensor of which an adapter is for, and the adapter."""
    weight = rand(*case.shape, seed=1).to(dtype)
    model = save("model", {"net.q.weight": weight, "net.k.weight": weight + 1})
    tensors = {
        f"net.q.{key}": value.to(of_adapter) if value.dtype == torch.float32 and value.dim() else value
        for key, value in case.tensors.items()
    }
    return weight, model, save("adapter", tensors)


def near(got, exact, size, dtype):
    """Within one rounding to the stored dtype, and the float32 error of the sums before it."""
    bound = exact.abs() * EPSILON[dtype] + size * 2.0**-19
    assert got.dtype == dtype
    assert ((got.double() - exact).abs() <= bound).all(), ((got.double() - exact).abs() / bound).max()


@pytest.mark.parametrize("strength", [1.0, 0.6, -0.5])
@pytest.mark.parametrize(("dtype", "of_adapter"), [("float32", "float32"), ("bfloat16", "float16")])
@pytest.mark.parametrize("name", CASES)
def test_merges_as_its_trainer_does(save, name, dtype, of_adapter, strength):
    case = CASES[name]
    weight, model, adapter = files(save, case, getattr(torch, dtype), getattr(torch, of_adapter))
    stored = {key.removeprefix("net.q."): one.double() for key, one in load_file(adapter).items()}
    exact = case.merged(weight.double(), stored, strength)
    merged = {tensor.name: tensor for tensor in tc.open(model) | tc.lora(adapter, strength)}
    got = merged["net.q.weight"]
    near(got.torch(), exact, exact.abs().max() + weight.abs().max(), weight.dtype)
    assert not torch.allclose(exact, weight.double(), atol=1e-3)
    assert str(got.fate[0]).partition(", ")[2].startswith(case.told), got.fate
    assert not merged["net.k.weight"].fate


@pytest.mark.parametrize("name", CASES)
def test_strength_0_leaves_the_tensor(save, name):
    case = CASES[name]
    if "rescale" in case.tensors:
        pytest.skip("is not weighed by its trainer")
    weight, model, adapter = files(save, case)
    got = (tc.open(model) | tc.lora(adapter, 0.0))["net.q.weight"].torch()
    torch.testing.assert_close(got, weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_any_rows_give_the_same_bits(save, name, monkeypatch):
    # Smaller than is sensible, so that small tensors are cut too.
    for limit, value in (("_BLOCK", 64), ("_PART", 64), ("_OBSERVED", 128)):
        monkeypatch.setattr(merge, limit, value)
    case = CASES[name]
    _, model, adapter = files(save, case, torch.bfloat16)
    tensor = (tc.open(model) | tc.lora(adapter, 0.8))["net.q.weight"]
    rows = tensor.spec.rows
    whole = tensor.matrix(0, rows, Context()).copy()
    ranges = [(row, row + 1) for row in range(rows)] + [(2, rows - 1), (rows // 2, rows), (1, 5)]
    for start, stop in ranges:
        again = (tc.open(model) | tc.lora(adapter, 0.8))["net.q.weight"] if stop == 5 else tensor
        np.testing.assert_array_equal(again.matrix(start, stop, Context()), whole[start:stop])


@pytest.mark.parametrize("name", CASES)
def test_in_small_parts_it_is_the_same_sum(save, name, monkeypatch):
    for limit, value in (("_BLOCK", 64), ("_PART", 64), ("_OBSERVED", 128)):
        monkeypatch.setattr(merge, limit, value)
    case = CASES[name]
    weight, model, adapter = files(save, case)
    stored = {key: one.double() for key, one in case.tensors.items()}
    exact = case.merged(weight.double(), stored, 0.8)
    got = (tc.open(model) | tc.lora(adapter, 0.8))["net.q.weight"].torch()
    near(got, exact, exact.abs().max() + weight.abs().max(), weight.dtype)


@pytest.mark.parametrize("name", ["OFT, kernel, odd blocks", "OFT, parts", "OFT, blocks of one", "OFT"])
def test_no_row_is_written_beyond_what_is_asked_for(save, name):
    """Bands of four rows and blocks of another size."""
    case = CASES[name]
    _, model, adapter = files(save, case)
    merging = (tc.open(model) | tc.lora(adapter))["net.q.weight"].value
    assert isinstance(merging, merge.Merging)
    width, rows = prod(case.shape[1:]), case.shape[0]
    for first in range(rows):
        for last in range(first + 1, rows + 1):
            count = -(-(last - first) // 4) * 4
            room = np.full((count + 16, width), -0.0, np.float32)  # what is added to it, even 0, shows
            merging.rows.fetch(first, last, room[:count], Context())
            assert np.signbit(room[count:]).all()


@pytest.fixture
def everything(save):
    """A model with a tensor for each case, and an adapter for each."""
    model, adapters = {}, {}
    for n, case in enumerate(CASES.values()):
        model[f"net.{n}.q.weight"] = rand(*case.shape, seed=n, dtype=torch.bfloat16)
        adapters |= {f"net.{n}.q.{key}": value for key, value in case.tensors.items()}
    return save("model", model), save("adapter", adapters)


def test_tiles_and_workers_change_no_byte(everything, tmp_path, monkeypatch):
    for limit, value in (("_BLOCK", 64), ("_PART", 64), ("_OBSERVED", 128)):
        monkeypatch.setattr(merge, limit, value)
    model, adapter = everything
    results = set()
    for number_, (workers, tile) in enumerate([(1, None), (3, "64KiB"), (4, 1), (2, 1), (1, 300)]):
        out = tmp_path / f"{number_}.safetensors"
        tc.open(model) | tc.lora(adapter, 0.8) | tc.lora(adapter) | tc.write(out, workers=workers, tile=tile)
        results.add(out.read_bytes())
    assert len(results) == 1


def test_merging_and_quantizing_in_one_pass_is_two_passes(save, tmp_path):
    model, adapters = {}, {}
    for n, (name, of) in enumerate([("DoRA of inputs", 50), ("OFT", 10), ("LoKr, w2 of low rank", 40)]):
        case = CASES[name]
        model[f"blocks.{n}.q.weight"] = rand(*case.shape, seed=n, dtype=torch.bfloat16)
        assert case.shape[1] == of
        adapters |= {f"blocks.{n}.q.{key}": value for key, value in case.tensors.items()}
    model, adapter = save("model", model), save("adapter", adapters)
    one, between, two = (tmp_path / f"{name}.safetensors" for name in ("one", "between", "two"))
    tc.open(model) | tc.lora(adapter) | tc.quantize("int8", include="*") | tc.write(one, workers=3, tile=1)
    tc.open(model) | tc.lora(adapter) | tc.write(between)
    tc.open(between) | tc.quantize("int8", include="*") | tc.write(two)
    got, wanted = load_file(one), load_file(two)
    assert got.keys() == wanted.keys()
    assert sum(name.endswith("weight_scale") for name in got) == 3
    for name in got:
        assert torch.equal(got[name].view(torch.uint8), wanted[name].view(torch.uint8)), name


ORDERS = [
    ("DoRA of inputs", "LoHa", "DoRA of inputs"),
    ("LoHa", "DoRA of inputs", "DoRA of outputs"),
    ("DoRA, kernel, of inputs", "LoHa, cores"),
    ("OFT", "OFT, constrained", "OFT, rescaled"),
    ("OFT", "BOFT, constrained and rescaled", "OFT"),
]


@pytest.mark.parametrize("names", ORDERS)
def test_several_adapters_come_one_after_the_other(save, names):
    cases = [CASES[name] for name in names]
    weight = rand(*cases[0].shape, seed=1)
    model = save("model", {"net.q.weight": weight})
    loras, exact = [], weight.double()
    for n, case in enumerate(cases):
        tensors = {f"net.q.{key}": value for key, value in case.tensors.items()}
        loras.append((save(f"adapter{n}", tensors), 0.7 + n / 10))
        stored = {key: value.double() for key, value in case.tensors.items()}
        exact = case.merged(exact, stored, 0.7 + n / 10)
    flow = tc.open(model) | tc.lora(loras)
    tensor = flow["net.q.weight"]
    near(tensor.torch(), exact, 4 * exact.abs().max(), torch.float32)
    whole = tensor.matrix(0, tensor.spec.rows, Context()).copy()
    np.testing.assert_array_equal(tensor.matrix(3, 6, Context()), whole[3:6])


def test_a_look_is_taken_where_columns_count_and_only_there(save):
    for name, looks in (("DoRA of inputs", 1), ("DoRA of outputs", 0), ("LoHa", 0), ("OFT", 0)):
        _, model, adapter = files(save, CASES[name])
        assert len((tc.open(model) | tc.lora(adapter))["net.q.weight"].needs) == looks


@pytest.mark.parametrize("name", ["DoRA of inputs", "OFT", "BOFT", "DoRA, kernel, of inputs"])
def test_few_rows_of_the_source_are_read_at_a_time(save, name, monkeypatch):
    case = CASES[name]
    for limit in ("_BLOCK", "_PART", "_OBSERVED"):
        monkeypatch.setattr(merge, limit, 4 * prod(case.shape[1:]))
    _, model, adapter = files(save, case)
    most = []

    whole = merge.merge

    def watched(tensor, added):
        def read(start, stop, context):
            most.append((stop - start) * tensor.spec.columns)
            return tensor.read(start, stop, context)

        return whole(tensor.evolve(value=By(read)), added)

    monkeypatch.setattr("transcode.stages.lora.merge.merge", watched)
    tensor = (tc.open(model) | tc.lora(adapter))["net.q.weight"]
    tensor.matrix(0, tensor.spec.rows, Context())
    assert 0 < max(most) <= 4 * prod(case.shape[1:])


def test_names_as_those_of_loras(save):
    """Every prefix, and underscores for dots, are understood for all kinds."""
    case = CASES["LoKr, both whole"]
    weight = rand(*case.shape, seed=1)
    model = save("model", {"transformer_blocks.0.attn.to_k.weight": weight})
    wanted = None
    for base in (
        "transformer.transformer_blocks.0.attn.to_k", "lycoris_transformer_blocks_0_attn_to_k",
        "diffusion_model.transformer_blocks.0.attn.to_k", "oft_unet_transformer_blocks_0_attn_to_k",
    ):  # fmt: skip
        adapter = save("adapter", {f"{base}.{key}": value for key, value in case.tensors.items()})
        got = (tc.open(model) | tc.lora(adapter))["transformer_blocks.0.attn.to_k.weight"].torch()
        wanted = got if wanted is None else wanted
        assert not torch.equal(got, weight)
        assert torch.equal(got, wanted)


def test_the_other_spelling_of_a_family(wan, save):
    flow = tc.open(wan) | tc.convert("diffusers")
    name = "blocks.1.attn1.to_q"
    o, i = flow[f"{name}.weight"].spec.shape
    adapter = save("adapter", {f"transformer.{name}.{key}": one for key, one in hada(o, i, 3).items()})
    wanted = (flow | tc.lora(adapter))[f"{name}.weight"].torch()
    assert not torch.equal(wanted, flow[f"{name}.weight"].torch())
    assert torch.equal((tc.open(wan) | tc.lora(adapter))["blocks.1.self_attn.q.weight"].torch(), wanted)


def test_norms(save):
    """lycoris/modules/norms.py: added; FLUX calls the weight of its norms scale."""
    before = {"net.a.weight": rand(8), "net.a.bias": rand(8, seed=1), "net.b.scale": rand(6, seed=2)}
    adapter = {"net.a.w_norm": rand(8, seed=3), "net.a.b_norm": rand(8, seed=4)}
    adapter |= {"lora_unet_net_b.w_norm": rand(6, seed=5)}
    flow = tc.open(save("model", before)) | tc.lora(save("adapter", adapter), 0.5)
    for (name, base), change in zip(before.items(), adapter.values(), strict=True):
        torch.testing.assert_close(flow[name].torch(), base + 0.5 * change)
    flow = tc.open(save("model", before)) | tc.lora(save("adapter", {"net.b.b_norm": rand(6)}))
    with pytest.raises(PlanError, match=r"none of its 1 keys fits the model \('net.b.b_norm'"):
        list(flow)


def test_a_weight_without_the_mark_of_ia3_is_no_adapter(save, tmp_path):
    model = save("model", {"net.q.weight": rand(4, 6), "net.k.weight": rand(4, 6)})
    adapter = save("adapter", {**{f"net.q.{key}": one for key, one in pair(4, 6, 2).items()},
                               "net.k.weight": rand(4)})  # fmt: skip
    with pytest.raises(PlanError, match=r"net.k.weight: a whole tensor F32\[4\] does not take the place of"):
        (tc.open(model) | tc.lora(adapter)).plan(tc.write(tmp_path / "o.safetensors"))


def test_what_is_counted(save, everything, tmp_path):
    model, adapter = everything
    plan = (tc.open(model) | tc.lora(adapter)).plan(tc.write(tmp_path / "out.safetensors"))
    (note,) = (
        note for note in map(str, plan.log.notes) if note.startswith("lora adapter") and "strength" in note
    )
    assert "1 pair of rank 4, 4 BOFT, 8 DoRA, 4 GLoRA, 4 IA3, 4 LoHa, 10 LoKr, 7 OFT, strength 1" in note


def test_alpha_given_with_the_file(save, tmp_path):
    """Is that of kinds that have a factor and say none; OFT's is no factor."""
    _, model, adapter = files(save, CASES["LoHa, rank 1"])
    once = (tc.open(model) | tc.lora(adapter, 2.0))["net.q.weight"].torch()
    assert torch.equal((tc.open(model) | tc.lora(adapter, 1.0, 2.0))["net.q.weight"].torch(), once)
    _, model, adapter = files(save, CASES["OFT"])
    once = (tc.open(model) | tc.lora(adapter))["net.q.weight"].torch()
    flow = tc.open(model) | tc.lora(adapter, 1.0, 2.0)
    assert torch.equal(flow["net.q.weight"].torch(), once)
    told = flow.plan(tc.write(tmp_path / "o.safetensors")).log.warnings
    assert any("alpha 2 is not used: nothing in it takes one" in str(line) for line in told)


def test_rows_without_direction(save):
    tensors = {key: torch.zeros_like(one) for key, one in pair(4, 6, 2).items()}
    adapter = save("adapter", {f"net.q.{key}": one for key, one in tensors.items()}
                   | {"net.q.lora_magnitude_vector": torch.ones(4)})  # fmt: skip
    flow = tc.open(save("model", {"net.q.weight": torch.zeros(4, 6)})) | tc.lora(adapter)
    with pytest.raises(DataError, match=r"lora_magnitude_vector: a row of the merged tensor is zero"):
        flow["net.q.weight"].torch()


@pytest.mark.parametrize("name", ["LoKr, both whole", "OFT", "IA3 of inputs", "DoRA of inputs"])
def test_quantized_tensors_are_refused(save, name):
    case = CASES[name]
    weight, _, adapter = files(save, case)
    model = save("model8", {"net.q.weight": weight.to(torch.float8_e4m3fn)})
    with pytest.raises(PlanError, match="cannot be merged into it, it is F8_E4M3; dequantize first"):
        list(tc.open(model) | tc.lora(adapter))


@pytest.mark.parametrize("name", ["LoKr, both whole", "OFT", "IA3 of inputs", "DoRA of inputs", "GLoRA"])
def test_damaged_values_are_told(save, name):
    case = CASES[name]
    key = next(iter(case.tensors))
    spoiled = case.tensors[key].clone()
    spoiled.view(-1)[1] = float("nan")
    _, model, _ = files(save, case)
    adapter = save("spoiled", {f"net.q.{k}": v for k, v in {**case.tensors, key: spoiled}.items()})
    with pytest.raises(DataError, match=rf"spoiled.*net.q.{key}: nan at \["):
        (tc.open(model) | tc.lora(adapter))["net.q.weight"].torch()
