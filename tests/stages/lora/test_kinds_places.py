"""Adapters of other kinds than LoRA, where the model joins or splits what they are for."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import FormatError, PlanError

D = 16
PARTS = ("to_q", "to_k", "to_v")


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flux(parts):
    """The layers by which FLUX.1 is known, with q, k, v apart or joined."""
    if not parts:
        tensors = {"single_blocks.0.linear1.weight": rand(7 * D, D, seed=90)}
        return tensors | {"double_blocks.0.img_attn.qkv.weight": rand(3 * D, D, seed=0)}
    names = ["single_transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj"]
    names += [f"transformer_blocks.0.attn.{part}" for part in PARTS]
    return {f"{name}.weight": rand(D, D, seed=seed) for seed, name in enumerate(names)}


def loha(rows, seed):
    """Tensors of a LoHa, and what they add (``lycoris/functional/loha.py``), in float64."""
    shapes = {"hada_w1_a": (rows, 3), "hada_w1_b": (3, D), "hada_w2_a": (rows, 3), "hada_w2_b": (3, D)}
    t = {key: rand(*shape, seed=seed + n) for n, (key, shape) in enumerate(shapes.items())}
    w = {key: one.double() for key, one in t.items()}
    delta = (w["hada_w1_a"] @ w["hada_w1_b"]) * (w["hada_w2_a"] @ w["hada_w2_b"])
    return {**t, "alpha": torch.tensor(6.0)}, 2 * delta


def lokr(rows, seed):
    """Tensors of a LoKr, and what they add (``lycoris/functional/lokr.py``), in float64."""
    t = {"lokr_w1": rand(rows // 8, 4, seed=seed), "lokr_w2_a": rand(8, 2, seed=seed + 1)}
    t |= {"lokr_w2_b": rand(2, D // 4, seed=seed + 2), "alpha": torch.tensor(5.0)}
    w = {key: one.double() for key, one in t.items()}
    return t, 2.5 * torch.kron(w["lokr_w1"], w["lokr_w2_a"] @ w["lokr_w2_b"])


def lora(rows, seed):
    t = {"lora_up.weight": rand(rows, 3, seed=seed), "lora_down.weight": rand(3, D, seed=seed + 1)}
    return t, None


@pytest.fixture
def merge(tmp_path):
    def merged(tensors, adapter, **options):
        save_file(tensors, tmp_path / "model.safetensors")
        save_file(adapter, tmp_path / "lora.safetensors")
        flow = tc.open(tmp_path / "model.safetensors") | tc.lora(tmp_path / "lora.safetensors", 0.5)
        flow | tc.write(tmp_path / "out.safetensors", force=True, **options)
        return load_file(tmp_path / "out.safetensors")

    return merged


@pytest.mark.parametrize("kind", [loha, lokr])
@pytest.mark.parametrize("options", [{}, {"workers": 3, "tile": 320}])
def test_products_of_parts_change_rows_of_the_joined_one(merge, kind, options):
    tensors, adapter, deltas = flux(parts=False), {}, []
    for number, part in enumerate(PARTS):
        t, delta = kind(D, 100 * number)
        adapter |= {f"transformer.transformer_blocks.0.attn.{part}.{key}": one for key, one in t.items()}
        deltas.append(delta)
    name = "double_blocks.0.img_attn.qkv.weight"
    wanted = tensors[name].double() + 0.5 * torch.cat(deltas)
    got = merge(tensors, adapter, **options)[name]
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [loha, lokr])
@pytest.mark.parametrize("options", [{}, {"workers": 3, "tile": 320}])
def test_products_of_the_joined_one_change_its_parts(merge, kind, options):
    tensors = flux(parts=True)
    t, delta = kind(3 * D, 7)
    adapter = {f"lora_unet_double_blocks_0_img_attn_qkv.{key}": one for key, one in t.items()}
    got = merge(tensors, adapter, **options)
    for number, part in enumerate(PARTS):
        name = f"transformer_blocks.0.attn.{part}.weight"
        wanted = tensors[name].double() + 0.5 * delta[number * D : (number + 1) * D]
        torch.testing.assert_close(got[name].double(), wanted, rtol=1e-5, atol=1e-5)


def dora(rows, seed):
    """Of outputs; what it makes of a weight (``lycoris/functional/general.py``), in float64."""
    t, _ = lora(rows, seed)
    t["dora_scale"] = rand(rows, 1, seed=seed + 2)
    return t, lambda w: _dora(w, t)


def _dora(w, t, strength=0.5):
    v = w + t["lora_up.weight"].double() @ t["lora_down.weight"].double()
    v = t["dora_scale"].double() * v / (v.norm(dim=1, keepdim=True) + torch.finfo(torch.float32).eps)
    return w + strength * (v - w)


def ia3(rows, seed):
    """Of outputs (``lycoris/modules/ia3.py``)."""
    values = rand(rows, seed=seed)
    t = {"on_input": torch.tensor(False), "weight": values}
    return t, lambda w: w * (1 + 0.5 * values.double())[:, None]


def ia3_of_inputs(rows, seed):
    values = rand(D, seed=seed)
    t = {"on_input": torch.tensor(True), "weight": values}
    return t, lambda w: w * (1 + 0.5 * values.double())


def glora(rows, seed):
    """As ``lycoris/modules/glora.py`` has it: what it adds to a row is of that row."""
    shapes = {"a1.weight": (D, 2), "a2.weight": (2, D), "b1.weight": (rows, 2), "b2.weight": (2, D)}
    t = {key: rand(*shape, seed=seed + n) for n, (key, shape) in enumerate(shapes.items())}
    a1, a2, b1, b2 = (t[key].double() for key in shapes)
    return t, lambda w: w + 0.5 * (w @ a1 @ a2 + b1 @ b2)


BY_ROWS = [dora, ia3, ia3_of_inputs, glora]


@pytest.mark.parametrize("kind", BY_ROWS)
def test_what_changes_each_row_by_itself_does_so_wherever_rows_lie(merge, kind):
    tensors, adapter, wanted = flux(parts=False), {}, []
    name = "double_blocks.0.img_attn.qkv.weight"
    for number, part in enumerate(PARTS[1:], 1):
        t, made = kind(D, 100 * number)
        adapter |= {f"transformer.transformer_blocks.0.attn.{part}.{key}": one for key, one in t.items()}
        wanted.append(made(tensors[name][number * D : (number + 1) * D].double()))
    got = merge(tensors, adapter, workers=3, tile=320)[name]
    assert got[:D].equal(tensors[name][:D])
    torch.testing.assert_close(got[D:].double(), torch.cat(wanted), rtol=1e-5, atol=1e-5)

    tensors = flux(parts=True)
    t, made = kind(3 * D, 7)
    parts = [f"transformer_blocks.0.attn.{part}.weight" for part in PARTS]
    adapter = {f"lora_unet_double_blocks_0_img_attn_qkv.{key}": one for key, one in t.items()}
    got = merge(tensors, adapter)
    wanted = made(torch.cat([tensors[part] for part in parts]).double())
    torch.testing.assert_close(
        torch.cat([got[part] for part in parts]).double(), wanted, rtol=1e-5, atol=1e-5
    )


def test_peft_s_turned_inputs_are_the_same_for_rows_that_lie_elsewhere(tmp_path):
    """What it makes of a joined layer, which is held to PEFT elsewhere, in a model that keeps its parts."""
    base = "base_model.model.double_blocks.0.img_attn.qkv"
    (adapter := tmp_path / "adapter").mkdir()
    save_file({f"{base}.oft_R.weight": rand(4, 6, seed=3)}, adapter / "adapter_model.safetensors")
    said = {
        "peft_type": "OFT",
        "r": 4,
        "oft_block_size": 4,
        "target_modules": ["qkv"],
        "use_cayley_neumann": False,
    }
    (adapter / "adapter_config.json").write_text(json.dumps(said))
    parts = [f"transformer_blocks.0.attn.{part}.weight" for part in PARTS]
    apart, whole = flux(parts=True), flux(parts=False)
    whole["double_blocks.0.img_attn.qkv.weight"] = torch.cat([apart[part] for part in parts])
    made = []
    for model in (apart, whole):
        save_file(model, tmp_path / "model.safetensors")
        flow = tc.open(tmp_path / "model.safetensors") | tc.lora(adapter, 0.5)
        made.append({name: tensor.torch().clone() for name, tensor in flow.items()})
    joined = made[1]["double_blocks.0.img_attn.qkv.weight"]
    assert torch.cat([made[0][part] for part in parts]).equal(joined)
    assert not joined.equal(whole["double_blocks.0.img_attn.qkv.weight"])


OTHERS = {
    "DoRA": lambda rows: lora(rows, 1)[0] | {"dora_scale": torch.ones(1, D)},
    "OFT": lambda rows: {"oft_blocks": rand(4, rows // 4, rows // 4, seed=1)},
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("parts", [False, True])
def test_what_cannot_be_split_over_rows_is_refused_by_name(merge, kind, parts):
    base = "double_blocks.0.img_attn.qkv" if parts else "transformer_blocks.0.attn.to_k"
    adapter = {f"{base}.{key}": one for key, one in OTHERS[kind](3 * D if parts else D).items()}
    with pytest.raises(
        PlanError, match=f"is of {kind}, which makes rows of all others, .* split over rows: .*; take a LoRA"
    ):
        merge(flux(parts), adapter)


def test_an_order_that_is_not_told_across_spellings(merge):
    """The parts' LoRA adds to rows of what the joined one's OFT turns."""
    adapter = {f"double_blocks.0.img_attn.qkv.{key}": one for key, one in OTHERS["OFT"](3 * D).items()}
    adapter |= {f"transformer_blocks.0.attn.to_v.{key}": one for key, one in lora(D, 1)[0].items()}
    with pytest.raises(PlanError, match=r"changes what .* changes too; put them in two files"):
        merge(flux(parts=False), adapter)


@pytest.mark.filterwarnings("ignore")
def test_patterns_of_a_loha_of_peft(tmp_path):
    peft = pytest.importorskip("peft")
    model = torch.nn.ModuleDict(
        {"q": torch.nn.Linear(8, 12), "x": torch.nn.ModuleDict({"q": torch.nn.Linear(8, 12)})}
    )
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    options = {"r": 3, "alpha": 5, "alpha_pattern": {"^q": 2}, "rank_pattern": {r"^x\.q": 4}}
    wrapped = peft.get_peft_model(model, peft.LoHaConfig(target_modules=["q"], **options))
    for name, parameter in wrapped.named_parameters():
        if "hada" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.4)
    adapter = tmp_path / "adapter"
    wrapped.save_pretrained(adapter)
    flow = tc.open(tmp_path / "model.safetensors") | tc.lora(adapter)
    for name, wanted in wrapped.double().merge_and_unload().state_dict().items():
        torch.testing.assert_close(flow[name].torch().double(), wanted, rtol=2e-6, atol=2e-6, msg=name)
    config = adapter / "adapter_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "rank_pattern": {"(a+)+q": 4}}))
    with pytest.raises(FormatError, match=r"rank_pattern.*repeats what repeats"):
        list(tc.open(tmp_path / "model.safetensors") | tc.lora(adapter))
    config.write_text(json.dumps({**said, "peft_type": "IA3", "feedforward_modules": "(a+)+q"}))
    with pytest.raises(FormatError, match=r"feedforward_modules.*repeats what repeats"):
        list(tc.open(tmp_path / "model.safetensors") | tc.lora(adapter))
