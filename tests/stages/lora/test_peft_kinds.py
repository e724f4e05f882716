"""The same merge as PEFT's own, of its adapters of other kinds than LoRA, as PEFT itself has saved them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import FormatError, PlanError

peft = pytest.importorskip("peft")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("no_cuda_extension")]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(24, 36)
        self.k = torch.nn.Linear(24, 20, bias=False)
        self.conv = torch.nn.Conv2d(8, 12, 3)
        self.point = torch.nn.Conv2d(8, 7, 1)
        self.line = torch.nn.Conv1d(8, 6, 5)

    def forward(self, x):
        return self.q(x).sum() + self.k(x).sum() + self.conv(x[:8]).sum() + self.point(x[:8]).sum()


LINEAR, CONV = ["q", "k"], ["conv", "point"]
CASES = {
    "dora": (peft.LoraConfig, {"use_dora": True, "r": 4, "lora_alpha": 6, "target_modules": LINEAR + CONV}),
    "dora, rank 1, rank-stabilized": (
        peft.LoraConfig,
        {"use_dora": True, "use_rslora": True, "r": 1, "lora_alpha": 3, "target_modules": LINEAR},
    ),
    "loha": (peft.LoHaConfig, {"r": 3, "alpha": 5, "target_modules": [*LINEAR, *CONV, "line"]}),
    "loha, cores": (
        peft.LoHaConfig,
        {"r": 3, "alpha": 5, "use_effective_conv2d": True, "target_modules": [*LINEAR, *CONV, "line"]},
    ),
    "loha, rank and alpha by module": (
        peft.LoHaConfig,
        {
            "r": 3,
            "alpha": 5,
            "rank_pattern": {"k": 1},
            "alpha_pattern": {"q": 2},
            "target_modules": LINEAR,
        },
    ),
    "lokr": (peft.LoKrConfig, {"r": 2, "alpha": 5, "target_modules": [*LINEAR, *CONV]}),
    "lokr, both of low rank": (
        peft.LoKrConfig,
        {"r": 1, "alpha": 5, "decompose_both": True, "target_modules": [*LINEAR, *CONV, "line"]},
    ),
    "lokr, cores": (
        peft.LoKrConfig,
        {"r": 1, "alpha": 5, "use_effective_conv2d": True, "target_modules": CONV},
    ),
    "lokr, both whole": (
        peft.LoKrConfig,
        {"r": 64, "alpha": 16, "rank_pattern": {"k": 32}, "target_modules": [*LINEAR, *CONV]},
    ),
    "lokr, by a factor": (peft.LoKrConfig, {"r": 2, "decompose_factor": 4, "target_modules": LINEAR}),
    "oft": (peft.OFTConfig, {"oft_block_size": 4, "target_modules": [*LINEAR, *CONV]}),
    "oft, exact": (
        peft.OFTConfig,
        {"oft_block_size": 8, "use_cayley_neumann": False, "target_modules": [*LINEAR, *CONV]},
    ),
    **{
        f"oft, {terms} terms": (
            peft.OFTConfig,
            {"oft_block_size": 4, "num_cayley_neumann_terms": terms, "target_modules": LINEAR},
        )
        for terms in (2, 3, 4, 7)
    },
    "oft, shared": (peft.OFTConfig, {"oft_block_size": 4, "block_share": True, "target_modules": LINEAR}),
    "oft, constrained": (
        peft.OFTConfig,
        {"oft_block_size": 4, "coft": True, "eps": 0.3, "target_modules": LINEAR},
    ),
    "oft, three blocks": (peft.OFTConfig, {"r": 3, "oft_block_size": 0, "target_modules": LINEAR}),
    "boft": (peft.BOFTConfig, {"boft_block_size": 4, "target_modules": [*LINEAR, *CONV]}),
    "boft, odd blocks": (peft.BOFTConfig, {"boft_block_size": 3, "target_modules": LINEAR}),
    "ia3": (
        peft.IA3Config,
        {"target_modules": [*LINEAR, *CONV], "feedforward_modules": ["k", "conv"]},
    ),
    "ia3, by an expression": (
        peft.IA3Config,
        {"target_modules": LINEAR, "feedforward_modules": "q|z"},
    ),
}


@pytest.fixture
def no_cuda_extension(monkeypatch):
    """BOFT tries to compile one; it does without."""
    from peft.tuners.boft import layer

    monkeypatch.setattr(layer, "get_fbd_cuda", lambda: None)


@pytest.fixture
def adapted(tmp_path):
    """Saves a model and an adapter for it; returns both paths and what PEFT merges them to, in float64."""

    def make(config, options, dtype=torch.float32):
        torch.manual_seed(1)
        model = Net()
        path = tmp_path / "model.safetensors"
        save_file(model.state_dict(), path)
        wrapped = peft.get_peft_model(model, config(**options))
        before = load_file(path).keys()
        for name, parameter in wrapped.named_parameters():
            if "base_layer" not in name and name.removeprefix("base_model.model.") not in before:
                torch.nn.init.normal_(parameter, 1.0 if "ia3" in name else 0.0, 0.4)
                parameter.data = parameter.data.to(dtype)
        wrapped.save_pretrained(tmp_path / "adapter")
        return path, tmp_path / "adapter", wrapped.double().merge_and_unload().state_dict()

    return make


@pytest.mark.parametrize("case", CASES)
def test_merges_as_peft_does(adapted, case):
    config, options = CASES[case]
    model, adapter, wanted = adapted(config, options)
    before = load_file(model)
    merged = {tensor.name: tensor for tensor in tc.open(model) | tc.lora(adapter)}
    assert merged.keys() == wanted.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor.torch().double(), wanted[name], rtol=2e-6, atol=2e-6, msg=name)
    changed = {name for name in wanted if not torch.equal(wanted[name].float(), before[name])}
    assert changed == {name for name, tensor in merged.items() if tensor.fate}
    assert {name.rpartition(".")[0] for name in changed} == set(options["target_modules"])


@pytest.mark.parametrize("kind", ["loha", "lokr", "oft, exact", "boft", "ia3", "dora"])
def test_adapters_in_half_precision(adapted, kind):
    config, options = CASES[kind]
    model, adapter, wanted = adapted(config, options, torch.bfloat16)
    assert load_file(adapter / "adapter_model.safetensors").popitem()[1].dtype == torch.bfloat16
    for tensor in tc.open(model) | tc.lora(adapter):
        torch.testing.assert_close(tensor.torch().double(), wanted[tensor.name], rtol=3e-6, atol=3e-6)


def test_butterflies_of_several_factors(tmp_path):
    """PEFT multiplies them with its CUDA extension alone: here as ``get_delta_weight`` does."""
    from peft.tuners.boft.layer import BOFTLayer

    layer = BOFTLayer(torch.nn.Linear(24, 6))
    torch.manual_seed(1)
    stages, count, size = 3, 12, 2
    for stages, count, size in ((3, 12, 2), (2, 6, 4), (2, 4, 6)):
        blocks = torch.randn(stages, count, size, size, dtype=torch.float64)
        scales, base = torch.randn(6, 1).double(), torch.randn(6, 24).double()
        whole = torch.eye(24, dtype=torch.float64)
        for stage in range(stages):
            order = layer.block_butterfly_perm(24, count // 2**stage, size // 2, stages - 1)
            places = layer.perm2mat(order).double()
            turns = torch.block_diag(*layer.cayley_batch(blocks[stage].float()).double())
            whole = places @ turns @ places.T @ whole
        wanted = (whole @ base.T).T * scales
        save_file({"q.weight": base.float()}, tmp_path / "model.safetensors")
        save_file(
            {"base_model.model.q.boft_R": blocks.float(), "base_model.model.q.boft_s": scales.float()},
            tmp_path / "boft.safetensors",
        )
        flow = tc.open(tmp_path / "model.safetensors") | tc.lora(tmp_path / "boft.safetensors")
        torch.testing.assert_close(flow["q.weight"].torch().double(), wanted, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("kind", ["ia3", "oft", "boft"])
def test_a_strength_goes_part_of_the_way(adapted, kind):
    """PEFT knows none for these; at 0 nothing changes, and rotations are weighed with the identity."""
    config, options = CASES[kind]
    more = {"feedforward_modules": ["k"]} if kind == "ia3" else {}
    model, adapter, wanted = adapted(config, {**options, "target_modules": ["k"], **more})
    before = load_file(model)["k.weight"]
    none = (tc.open(model) | tc.lora(adapter, 0.0))["k.weight"].torch()
    torch.testing.assert_close(none, before, rtol=1e-6, atol=1e-6)
    half = (tc.open(model) | tc.lora(adapter, 0.5))["k.weight"].torch()
    stored = load_file(adapter / "adapter_model.safetensors")
    middle = (before.double() + wanted["k.weight"]) / 2
    if kind == "boft":  # both its factors go half of the way
        scales = stored["base_model.model.k.boft_s"].double()
        middle = (before.double() + wanted["k.weight"] / scales) / 2 * (1 + scales) / 2
    torch.testing.assert_close(half.double(), middle, rtol=3e-6, atol=3e-6)


def test_a_file_without_its_options(adapted, tmp_path):
    for kind, told in (("oft", "PEFT's OFT, whose options are not known"), ("ia3", None)):
        config, options = CASES[kind]
        more = {"feedforward_modules": ["k"]} if kind == "ia3" else {}
        model, adapter, wanted = adapted(config, {**options, "target_modules": ["q", "k"], **more})
        stored = load_file(adapter / "adapter_model.safetensors")
        save_file(stored, tmp_path / f"{kind}.safetensors")
        flow = tc.open(model) | tc.lora(tmp_path / f"{kind}.safetensors")
        if told is not None:
            with pytest.raises(PlanError, match=rf"{told}; put its adapter_config.json beside it"):
                list(flow)
        else:
            for name in ("q.weight", "k.weight", "q.bias"):
                torch.testing.assert_close(flow[name].torch().double(), wanted[name], rtol=2e-6, atol=2e-6)
    conv = {"base_model.model.conv.ia3_l": torch.ones(1, 12, 1, 1)}
    save_file(conv, tmp_path / "conv.safetensors")
    with pytest.raises(PlanError, match="of outputs or of inputs, which its options would say"):
        list(tc.open(model) | tc.lora(tmp_path / "conv.safetensors"))


def test_what_peft_multiplies_over_other_axes(adapted):
    model, adapter, _ = adapted(peft.LoKrConfig, {"r": 64, "target_modules": ["line"]})
    with pytest.raises(PlanError, match="LoKr of a one-dimensional convolution, which cannot be merged"):
        list(tc.open(model) | tc.lora(adapter))


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("lokr", {"r": 0}, "r is 0, not a whole number"),
        ("lokr", {"rank_pattern": {"q": "x"}}, "rank_pattern is 'x', not a whole number"),
        ("oft", {"num_cayley_neumann_terms": 2.5}, "num_cayley_neumann_terms is 2.5"),
    ],
)
def test_damaged_options(adapted, kind, options, told):
    model, adapter, _ = adapted(*CASES[kind])
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **options}))
    with pytest.raises(FormatError, match=rf"adapter_config\.json: {told}"):
        list(tc.open(model) | tc.lora(adapter))
