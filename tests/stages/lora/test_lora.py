"""Merged values against a computation in float64, and bytes that nothing but the recipe decides."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.expressions import By
from transcode.core.cache import MatrixCache
from transcode.core.context import Context
from transcode.errors import DataError, RecipeError
from transcode.stages.lora.delta import Added, Difference, LowRank
from transcode.stages.lora.merge import merge

STYLES = {
    "standard": (".lora_up.weight", ".lora_down.weight"),
    "diffusers": ("_lora.up.weight", "_lora.down.weight"),
    "diffusers_v2": (".lora_B.weight", ".lora_A.weight"),
    "diffusers_v3": (".lora.up.weight", ".lora.down.weight"),
    "mochi": (".lora_B", ".lora_A"),
    "transformers": (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    "qwen": (".lora_B.default.weight", ".lora_A.default.weight"),
    "peft with a named adapter": (".lora_B.mine.weight", ".lora_A.mine.weight"),
}
EPSILON = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def save(tmp_path):
    def write(name, tensors, **metadata):
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path, metadata or None)
        return path

    return write


def merged(model, *loras, name="net.q.weight", **options):
    flow = tc.open(model) | tc.lora(loras, **options)
    return flow[name].torch()


def near(got, base, deltas):
    """Within one rounding to the stored dtype, and the float32 error of the sums before it."""
    exact = base.double() + sum(deltas)
    size = base.double().abs() + sum(delta.abs() for delta in deltas)
    bound = exact.abs() * EPSILON[base.dtype] + size * 2.0**-18 + 1e-30
    assert got.dtype == base.dtype
    assert got.shape == base.shape
    assert ((got.double() - exact).abs() <= bound).all()
    if deltas and base.dtype == torch.float32:  # the test could not fail if deltas were lost in the bound
        assert ((base.double() - exact).abs() > bound).any()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("alpha", [None, 4.0])
def test_styles(save, style, alpha):
    base, up, down = rand(24, 40, seed=1), rand(24, 8, seed=2), rand(8, 40, seed=3)
    up_key, down_key = STYLES[style]
    tensors = {f"net.q{up_key}": up, f"net.q{down_key}": down}
    if alpha is not None:
        tensors["net.q.alpha"] = torch.tensor(alpha)
    got = merged(save("model", {"net.q.weight": base}), (save("lora", tensors), 0.7))
    near(got, base, [0.7 * (alpha or 8) / 8 * (up.double() @ down.double())])


@pytest.mark.parametrize("of_lora", EPSILON)
@pytest.mark.parametrize("of_base", EPSILON)
def test_dtypes(save, of_base, of_lora):
    base = rand(33, 48, seed=1, dtype=of_base)
    up, down = rand(33, 5, seed=2, dtype=of_lora), rand(5, 48, seed=3, dtype=of_lora)
    lora = save("lora", {"net.q.lora_up.weight": up, "net.q.lora_down.weight": down})
    got = merged(save("model", {"net.q.weight": base}), (lora, 0.5))
    near(got, base, [0.5 * (up.double() @ down.double())])


def test_the_sum_is_rounded_once_in_the_order_given(save):
    base = rand(8, 16, seed=1, dtype=torch.bfloat16)
    pairs = [(rand(8, 4, seed=seed), rand(4, 16, seed=seed + 10)) for seed in range(3)]
    loras = [
        (save(f"l{n}", {"net.q.lora_up.weight": up, "net.q.lora_down.weight": down}), 0.01)
        for n, (up, down) in enumerate(pairs)
    ]
    model = save("model", {"net.q.weight": base})
    got = merged(model, *loras)
    exact = base.double() + sum(0.01 * (up.double() @ down.double()) for up, down in pairs)
    # Ties and what float32 blurs around them aside, that is the nearest bfloat16 of the exact sum.
    assert (got == exact.to(torch.bfloat16)).double().mean() > 0.99
    one_by_one = tc.open(model)
    for lora in loras:
        one_by_one = one_by_one | tc.lora(*lora)
    assert (one_by_one["net.q.weight"].torch() != got).any()


def test_alpha(save, tmp_path):
    base, up, down = rand(8, 8, seed=1), rand(8, 4, seed=2), rand(4, 8, seed=3)
    model = save("model", {"net.q.weight": base})
    pair = {"net.q.lora_up.weight": up, "net.q.lora_down.weight": down}
    exact = up.double() @ down.double()
    plain = save("plain", pair)
    own = save("own", {**pair, "net.q.alpha": torch.tensor([2.0], dtype=torch.float16)})
    zero = save("zero", {**pair, "net.q.alpha": torch.tensor(0.0)})
    whole = save("whole", {**pair, "net.q.alpha": torch.tensor(2)})
    near(merged(model, (plain,)), base, [exact])
    near(merged(model, (plain, 1.0, 2.0)), base, [exact / 2])
    near(merged(model, (own,)), base, [exact / 2])
    near(merged(model, (whole,)), base, [exact / 2])
    near(merged(model, (own, 3.0, 400.0)), base, [exact * 1.5])
    near(merged(model, (zero,)), base, [exact])
    near(merged(model, (zero, 1.0, 2.0)), base, [exact / 2])

    def warnings(*lora):
        plan = (tc.open(model) | tc.lora(*lora)).plan(tc.write(tmp_path / "o.safetensors"))
        return list(map(str, plan.log.warnings))

    assert any("alpha of 0 counts as absent" in line for line in warnings(zero))
    assert any("alpha 400 is not used" in line for line in warnings(own, 1.0, 400.0))
    assert not warnings(plain, 1.0, 2.0)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_senseless_alpha_and_strength(value):
    with pytest.raises(RecipeError, match="alpha"):
        tc.lora("x", 1.0, value)
    if value:
        with pytest.raises(RecipeError, match="strength"):
            tc.lora("x", value)


def test_differences_count_strength_times_whatever_alpha(save):
    tensors = {
        "net.q.weight": rand(6, 10, seed=1),
        "net.q.bias": rand(6, seed=2, dtype=torch.bfloat16),
        "net.modulation": rand(1, 6, 10, seed=3, dtype=torch.float16),
        "net.stack.weight": rand(3, 4, 5, seed=4),
        "net.scalar.weight": torch.tensor(1.5),
    }
    lora = {
        "diffusion_model.net.q.diff": rand(6, 10, seed=5, dtype=torch.bfloat16),
        "diffusion_model.net.q.diff_b": rand(6, seed=6),
        "diffusion_model.net.q.alpha": torch.tensor(7.0),
        "diffusion_model.net.diff_m": rand(1, 6, 10, seed=7),
        "diffusion_model.net.stack.diff": rand(3, 4, 5, seed=8),
        "diffusion_model.net.scalar.diff": torch.tensor(0.25),
    }
    flow = tc.open(save("model", tensors)) | tc.lora(save("lora", lora), 0.6, 5.0)
    made = ("q.diff", "q.diff_b", "diff_m", "stack.diff", "scalar.diff")
    for (name, base), key in zip(tensors.items(), made, strict=True):
        near(flow[name].torch(), base, [0.6 * lora[f"diffusion_model.net.{key}"].double()])


def test_a_pair_and_a_difference_and_a_bias_together(save):
    base, bias = rand(6, 10, seed=1), rand(6, seed=2)
    up, down, more = rand(6, 2, seed=3), rand(2, 10, seed=4), rand(6, 10, seed=5)
    up_bias = rand(6, seed=6)
    lora = save("lora", {
        "net.q.lora_B.weight": up, "net.q.lora_A.weight": down, "net.q.lora_B.bias": up_bias,
        "net.q.alpha": torch.tensor(1.0), "net.q.diff": more,
    })  # fmt: skip
    model = save("model", {"net.q.weight": base, "net.q.bias": bias})
    near(merged(model, (lora,)), base, [0.5 * (up.double() @ down.double()), more.double()])
    near(merged(model, (lora,), name="net.q.bias"), bias, [0.5 * up_bias.double()])


@pytest.mark.parametrize(
    ("base", "down"),
    [
        ((6, 4, 3, 3), (2, 4, 3, 3)),
        ((6, 4, 1, 2, 2), (2, 4, 1, 2, 2)),
        ((6, 4, 5), (2, 4, 5)),
        ((6, 4, 1, 1), (2, 4)),
        ((6, 4), (2, 4, 1, 1)),
        ((5, 4, 1, 1), (2, 4, 1, 1)),
    ],
)
def test_convolutions_are_matrices(save, base, down):
    weight, low = rand(*base, seed=1), rand(*down, seed=3)
    up = rand(base[0], 2, *(1 for _ in down[2:]), seed=2)
    lora = save("lora", {"net.q.lora_up.weight": up, "net.q.lora_down.weight": low})
    delta = (up.double().reshape(base[0], 2) @ low.double().reshape(2, -1)).reshape(base)
    near(merged(save("model", {"net.q.weight": weight}), (lora,)), weight, [delta])


def test_tucker_core(save):
    weight = rand(6, 7, 3, 2, seed=1)
    up, mid, down = rand(6, 5, 1, 1, seed=2), rand(5, 5, 3, 2, seed=3), rand(5, 7, 1, 1, seed=4)
    lora = save("lora", {
        "net.q.lora_up.weight": up, "net.q.lora_mid.weight": mid, "net.q.lora_down.weight": down,
        "net.q.alpha": torch.tensor(10.0),
    })  # fmt: skip
    delta = 2 * torch.einsum(
        "oa,abhw,bi->oihw", up.double()[..., 0, 0], mid.double(), down.double()[..., 0, 0]
    )
    near(merged(save("model", {"net.q.weight": weight}), (lora,)), weight, [delta])


@pytest.mark.parametrize("shape", [(37, 50), (9, 6, 3, 5), (130, 3000)])
def test_any_rows_give_the_same_bits(save, shape):
    weight = rand(*shape, seed=1, dtype=torch.bfloat16)
    low = rand(7, *shape[1:], seed=2)
    lora = save("lora", {
        "net.q.lora_up.weight": rand(shape[0], 7, *(1 for _ in shape[2:]), seed=3),
        "net.q.lora_down.weight": low, "net.q.diff": rand(*shape, seed=4),
    })  # fmt: skip
    tensor = (tc.open(save("model", {"net.q.weight": weight})) | tc.lora(lora))["net.q.weight"]
    rows = tensor.spec.rows
    whole = tensor.matrix(0, rows, Context()).copy()
    for start, stop in ((0, 1), (1, 2), (rows - 1, rows), (2, rows - 3), (rows // 2, rows // 2 + 5)):
        np.testing.assert_array_equal(tensor.matrix(start, stop, Context()), whole[start:stop])


@pytest.fixture
def wan_lora(wan, save):
    """A LoRA for every matrix in the blocks of the tiny model, with differences for the biases."""
    flow = tc.open(wan)
    tensors = {}
    for seed, tensor in enumerate(flow):
        module, _, leaf = tensor.name.rpartition(".")
        shape = tensor.spec.shape
        if leaf == "weight" and len(shape) == 2 and "blocks" in module:
            tensors[f"{module}.lora_up.weight"] = rand(shape[0], 4, seed=seed, dtype=torch.bfloat16) * 0.1
            tensors[f"{module}.lora_down.weight"] = (
                rand(4, shape[1], seed=-seed - 1, dtype=torch.bfloat16) * 0.1
            )
            tensors[f"{module}.alpha"] = torch.tensor(3.0)
        elif leaf == "bias":
            tensors[f"{module}.diff_b"] = rand(*shape, seed=seed) * 0.1
    return save("wan_lora", tensors)


def test_tiles_and_workers_change_no_byte(wan, wan_lora, tmp_path):
    made = set()
    for number, (workers, tile) in enumerate([(1, None), (3, "64KiB"), (2, 1), (1, 500)]):
        out = tmp_path / f"{number}.safetensors"
        flow = tc.open(wan) | tc.lora(wan_lora, 0.8)
        flow | tc.write(out, workers=workers, tile=tile)
        made.add(out.read_bytes())
    assert len(made) == 1


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_merging_and_quantizing_in_one_pass_is_two_passes(wan, wan_lora, tmp_path, scheme):
    one, between, two = (tmp_path / f"{name}.safetensors" for name in ("one", "between", "two"))
    tc.open(wan) | tc.lora(wan_lora, 0.8) | tc.quantize(scheme) | tc.write(one)
    tc.open(wan) | tc.lora(wan_lora, 0.8) | tc.write(between)
    tc.open(between) | tc.quantize(scheme) | tc.write(two)
    got, wanted = load_file(one), load_file(two)
    assert got.keys() == wanted.keys()
    assert any(name.endswith("weight_scale") for name in got)
    for name in got:
        assert got[name].dtype == wanted[name].dtype
        assert torch.equal(got[name].view(torch.uint8), wanted[name].view(torch.uint8)), name


def test_rename_merge_and_cast_in_one_pass(wan, wan_lora, tmp_path):
    plain = tc.open(wan) | tc.lora(wan_lora)
    flow = tc.open(wan) | tc.rename({"^": "net."}) | tc.lora(wan_lora, prefix="net.") | tc.cast("F32")
    name = "blocks.1.ffn.0.weight"
    assert torch.equal(flow[f"net.{name}"].torch(), plain[name].torch().float())


@pytest.mark.parametrize("shape", [(300, 700), (9, 6, 3, 5)])
def test_tensors_that_are_read_in_whole_grains(save, shape):
    """As those decoded from blocks of rows are."""
    base = rand(*shape, seed=1)
    (stored,) = tc.open(save("model", {"net.q.weight": base})).source.tensors
    rows, grain = stored.spec.rows, 24

    def read(start, stop, scratch):
        assert start % grain == 0
        assert stop % grain == 0 or stop == rows
        return stored.read(start, stop, scratch)

    difference = rand(*shape, seed=2)
    (values,) = tc.open(save("lora", {"values": difference})).source.tensors
    added = [Added(Difference(values.source, values), np.float32(1))]
    tensor = stored.evolve(value=By(read), grain=grain)
    merging, _ = merge(tensor, added)
    wanted = (base + difference).reshape(rows, -1)
    for start in range(0, rows, grain):
        (piece,) = merging.read(start, min(start + grain, rows), Context())
        assert torch.equal(torch.from_numpy(piece.data), wanted[start : start + grain])


def test_factors_beyond_the_limit_are_computed_again(save):
    base, pairs = rand(8, 30), [(rand(8, 2, seed=n), rand(2, 30, seed=n + 9)) for n in range(3)]
    (weight,) = tc.open(save("model", {"net.q.weight": base})).source.tensors
    added = []
    for n, (up, down) in enumerate(pairs):
        table = {one.name: one for one in tc.open(save(f"l{n}", {"up": up, "down": down}))}
        added.append(Added(LowRank(weight.source, table["up"], table["down"]), np.float32(1)))
    context = Context()
    context.run.factors = factors = MatrixCache(limit=1)
    merging, _ = merge(weight, added)
    for _ in range(2):
        (piece,) = merging.read(0, 8, context)
        near(torch.from_numpy(piece.data), base, [up.double() @ down.double() for up, down in pairs])
    assert [one is added[-1].delta for one in factors._kept] == [True]


def test_values_that_cannot_be_merged(save):
    model = save("model", {"net.q.weight": rand(6, 10).to(torch.float16)})
    up, down = torch.full((6, 1), 300.0), torch.full((1, 10), 300.0)
    large = save("large", {"net.q.lora_up.weight": up, "net.q.lora_down.weight": down})
    with pytest.raises(DataError, match=r"net.q.weight: with its LoRA .* row 0, column 0.* F16.*strength"):
        merged(model, (large,))
    for side, value in (("up", float("nan")), ("down", float("inf"))):
        spoiled = {"net.q.lora_up.weight": up.clone(), "net.q.lora_down.weight": down.clone()}
        spoiled[f"net.q.lora_{side}.weight"].view(-1)[3] = value
        lora = save("spoiled", spoiled)
        with pytest.raises(DataError, match=rf"spoiled.*lora_{side}.weight: {value} at \["):
            merged(model, (lora,))


def test_what_the_report_says(wan, wan_lora, tmp_path):
    plan = (tc.open(wan) | tc.lora(wan_lora, 0.8)).plan(tc.write(tmp_path / "out.safetensors"))
    fates = {tensor.name: tuple(map(str, tensor.fate)) for tensor in plan.tensors}
    assert fates["blocks.0.ffn.0.weight"] == ("lora: wan_lora.safetensors x 0.8, rank 4, alpha 3",)
    assert fates["blocks.0.ffn.0.bias"] == ("lora: wan_lora.safetensors x 0.8, difference",)
    assert fates["blocks.0.norm3.weight"] == ()
    assert any("pairs of rank 4" in note and "wan_lora" in note for note in map(str, plan.log.notes))
    assert str(tmp_path) not in str(plan.files[0].header)  # the record names the file, not where it was
    assert b"wan_lora.safetensors" in plan.files[0].header
