"""The same merge as PEFT's own, of adapters that PEFT itself has saved."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import FormatError, PlanError

peft = pytest.importorskip("peft")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(24, 32)
        self.k = torch.nn.Linear(24, 16, bias=False)
        self.conv = torch.nn.Conv2d(5, 7, (3, 2))
        self.point = torch.nn.Conv2d(5, 7, 1)

    def forward(self, x):
        return self.q(x).sum() + self.k(x).sum() + self.conv(x[:5]).sum() + self.point(x[:5]).sum()


CASES = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True},
    "alpha and rank by module": {"alpha_pattern": {"k": 3, "conv": 20}, "rank_pattern": {"k": 2}},
    "with bias": {"lora_bias": True, "target_modules": ["q", "conv"]},
}


@pytest.fixture
def adapted(tmp_path):
    """Saves a model and an adapter for it; returns both paths and what PEFT merges them to."""

    def make(**options):
        torch.manual_seed(1)
        model = Net()
        path = tmp_path / "model.safetensors"
        save_file(model.state_dict(), path)
        options = {"r": 4, "lora_alpha": 6, "target_modules": ["q", "k", "conv", "point"], **options}
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**options))
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter)
        wrapped.save_pretrained(tmp_path / "adapter")
        return path, tmp_path / "adapter", wrapped.merge_and_unload().state_dict()

    return make


@pytest.mark.filterwarnings("ignore:Adapter 'default'")
@pytest.mark.parametrize("case", CASES)
def test_merges_as_peft_does(adapted, case):
    model, adapter, wanted = adapted(**CASES[case])
    before = load_file(model)
    merged = {tensor.name: tensor for tensor in tc.open(model) | tc.lora(adapter)}
    assert merged.keys() == wanted.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor.torch(), wanted[name], rtol=1e-5, atol=1e-5)
    changed = {name for name in wanted if not torch.equal(wanted[name], before[name])}
    assert changed == {name for name, tensor in merged.items() if tensor.fate}


def test_names_of_the_file_alone_find_the_options_too(adapted):
    model, adapter, wanted = adapted()
    flow = tc.open(model) | tc.lora(adapter / "adapter_model.safetensors")
    torch.testing.assert_close(flow["q.weight"].torch(), wanted["q.weight"], rtol=1e-5, atol=1e-5)
    assert "alpha 6" in str(flow["q.weight"].fate[0])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"use_dora": True}, "lora_[AB].weight: is of DoRA by its options, but no magnitude"),
        ({"fan_in_fan_out": True, "target_modules": ["q"]}, r"adapter_config.json: fan_in_fan_out"),
        ({"peft_type": "VERA"}, r"adapter_config.json: peft_type 'VERA'"),
    ],
)
def test_options_that_cannot_be_merged(adapted, options, told):
    model, adapter, _ = adapted()
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **options}))
    with pytest.raises(PlanError, match=told):
        list(tc.open(model) | tc.lora(adapter))


@pytest.mark.parametrize("text", ["", "[]", '{"lora_alpha": "six"}', '{"alpha_pattern": {"(": 1}}'])
def test_damaged_options(adapted, text):
    model, adapter, _ = adapted()
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(FormatError, match=r"adapter_config\.json"):
        list(tc.open(model) | tc.lora(adapter))


def test_options_in_the_metadata_of_diffusers(tmp_path):
    """As ``save_lora_weights`` writes them: each option behind the name of a component."""
    up, down = torch.randn(4, 2), torch.randn(2, 6)
    base = torch.randn(4, 6)
    save_file({"blocks.0.q.weight": base}, tmp_path / "model.safetensors")
    options = {"transformer.r": 2, "transformer.lora_alpha": 8, "text_encoder.lora_alpha": 99}
    save_file(
        {"transformer.blocks.0.q.lora_B.weight": up, "transformer.blocks.0.q.lora_A.weight": down},
        tmp_path / "lora.safetensors",
        {"lora_adapter_metadata": json.dumps(options)},
    )
    flow = tc.open(tmp_path / "model.safetensors") | tc.lora(tmp_path / "lora.safetensors")
    torch.testing.assert_close(flow["blocks.0.q.weight"].torch(), base + 4 * (up @ down))
