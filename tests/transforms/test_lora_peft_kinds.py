"""The same merge as PEFT's own, of its adapters of other kinds than LoRA, as PEFT itself has saved them."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc

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
            parameter.data = parameter.data.to(dtype if "base_layer" not in name else torch.float32)
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
