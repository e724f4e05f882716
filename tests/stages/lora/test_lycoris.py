"""The same merge as LyCORIS's own modules, of what they save themselves."""

import pytest
import torch
from safetensors.torch import save_file

import transcode as tc

pytest.importorskip("lycoris")

from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule

LAYERS = {
    "linear": lambda: torch.nn.Linear(40, 24),
    "conv": lambda: torch.nn.Conv2d(8, 12, 3),
    "point": lambda: torch.nn.Conv2d(8, 12, 1),
}
ADD = {"lora_dim": 3, "alpha": 2}
CASES = {
    "locon": (LoConModule, ADD),
    "locon, core": (LoConModule, {**ADD, "use_tucker": True}),
    "locon, rank-stabilized": (LoConModule, {**ADD, "rs_lora": True}),
    "dora of outputs": (LoConModule, {**ADD, "weight_decompose": True}),
    "dora of inputs": (LoConModule, {**ADD, "weight_decompose": True, "wd_on_out": False}),
    "loha": (LohaModule, ADD),
    "loha, cores": (LohaModule, {**ADD, "use_tucker": True}),
    "loha, decomposed": (LohaModule, {**ADD, "weight_decompose": True, "wd_on_out": False}),
    "lokr": (LokrModule, {**ADD, "lora_dim": 2}),
    "lokr, core": (LokrModule, {**ADD, "lora_dim": 1, "use_tucker": True}),
    "lokr, both of low rank": (LokrModule, {**ADD, "lora_dim": 1, "decompose_both": True}),
    "lokr, both whole": (LokrModule, {"lora_dim": 10000, "alpha": 1e10, "full_matrix": True, "factor": 4}),
    "lokr, unbalanced": (LokrModule, {**ADD, "lora_dim": 1, "unbalanced_factorization": True, "factor": 4}),
    "lokr, decomposed": (LokrModule, {**ADD, "weight_decompose": True}),
    "oft": (DiagOFTModule, {"lora_dim": 4}),
    "oft, constrained": (DiagOFTModule, {"lora_dim": 4, "constraint": 0.01}),
    "oft, rescaled": (DiagOFTModule, {"lora_dim": 3, "rescaled": True}),
    "boft": (ButterflyOFTModule, {"lora_dim": 6}),
    "boft, constrained, rescaled": (
        ButterflyOFTModule,
        {"lora_dim": 6, "constraint": 0.01, "rescaled": True},
    ),
    "ia3 of outputs": (IA3Module, {}),
    "ia3 of inputs": (IA3Module, {"train_on_input": True}),
    "glora": (GLoRAModule, ADD),
}


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", CASES)
def test_merges_as_lycoris_does(tmp_path, case, layer, strength):
    kind, options = CASES[case]
    if "decompose" in str(options) and "decompose_both" not in options and strength != 1:
        pytest.skip("LyCORIS leaves the delta whole; ComfyUI's strength is ours")
    if kind is IA3Module and layer != "linear" and not options:
        pytest.skip("LyCORIS itself cannot scale the outputs of convolutions")
    torch.manual_seed(1)
    module = LAYERS[layer]()
    adapter = kind("q", module, 1.0, **options)
    for name, parameter in adapter.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "rescale" in name else 0.0, 0.3)
    stored = {f"lycoris_net_q.{key}": value.detach().clone() for key, value in adapter.state_dict().items()}
    save_file({key: value.contiguous() for key, value in stored.items()}, tmp_path / "adapter.safetensors")
    save_file({"net.q.weight": module.weight.detach()}, tmp_path / "model.safetensors")
    with torch.no_grad():
        if kind in (LokrModule, LohaModule):
            # get_merged_weight counts alpha twice; forward, which is what is trained, once.
            delta = adapter.get_weight(adapter.shape)
            wanted = module.weight + delta * (1 if adapter.wd else strength)
            wanted = adapter.apply_weight_decompose(wanted, strength) if adapter.wd else wanted
        else:
            wanted, _ = adapter.get_merged_weight(strength, module.weight.shape)
    flow = tc.open(tmp_path / "model.safetensors") | tc.lora(tmp_path / "adapter.safetensors", strength)
    got = flow["net.q.weight"].torch()
    torch.testing.assert_close(got, wanted.detach(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, module.weight.detach(), atol=1e-3)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_full_differences_and_norms(tmp_path, strength):
    torch.manual_seed(1)
    linear, norm = torch.nn.Linear(10, 6), torch.nn.LayerNorm(6)
    full, norms = FullModule("q", linear), NormModule("n", norm)
    full.apply_to()
    for parameter in (*full.parameters(), *norms.parameters()):
        parameter.data += 0.3 * torch.randn_like(parameter)
    stored = {f"net.q.{key}": value.detach() for key, value in full.state_dict().items()}
    stored |= {f"net.n.{key}": value.detach() for key, value in norms.state_dict().items()}
    save_file({key: one.contiguous() for key, one in stored.items()}, tmp_path / "adapter.safetensors")
    base = {"net.q.weight": full.org_weight, "net.q.bias": full.org_bias[0],
            "net.n.weight": norm.weight.data, "net.n.bias": norm.bias.data}  # fmt: skip
    save_file({key: value.clone() for key, value in base.items()}, tmp_path / "model.safetensors")
    wanted = dict(
        zip(base, (*full.get_merged_weight(strength), *norms.get_merged_weight(strength)), strict=True)
    )
    flow = tc.open(tmp_path / "model.safetensors") | tc.lora(tmp_path / "adapter.safetensors", strength)
    for name, tensor in wanted.items():
        torch.testing.assert_close(flow[name].torch(), tensor.detach(), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(flow[name].torch(), base[name], atol=1e-3)
