"""What PEFT's adapters hold besides pairs, and adapted parameters, merged as PEFT itself does."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import FormatError, PlanError

peft = pytest.importorskip("peft")


class Experts(torch.nn.Module):
    """Stacks of matrices, as Transformers keeps those of all experts."""

    def __init__(self, transposed=False, inner=6, count=3):
        super().__init__()
        up, down = ((8, 2 * inner), (inner, 8)) if transposed else ((2 * inner, 8), (8, inner))
        self.gate_up_proj = torch.nn.Parameter(torch.randn(count, *up))
        self.down_proj = torch.nn.Parameter(torch.randn(count, *down))
        self.is_transposed = transposed

    def forward(self, x):
        return x


class Layer(torch.nn.Module):
    def __init__(self, **experts):
        super().__init__()
        self.q_proj = torch.nn.Linear(8, 8)
        self.k_proj = torch.nn.Linear(8, 5)
        self.norm = torch.nn.LayerNorm(8)
        self.experts = Experts(**experts)

    def forward(self, x):
        return self.experts(self.norm(self.q_proj(x)))


class Net(torch.nn.Module):
    def __init__(self, **experts):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(20, 8)
        self.layers = torch.nn.ModuleList([Layer(**experts), Layer(**experts)])
        self.lm_head = torch.nn.Linear(8, 20)

    def forward(self, ids):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)

    def get_input_embeddings(self):
        return self.embed_tokens


@pytest.fixture
def adapted(tmp_path):
    """Saves a model and an adapter for it; returns both paths and what PEFT merges them to."""

    def make(experts=None, dtype=torch.float32, **options):
        torch.manual_seed(1)
        model = Net(**(experts or {})).to(dtype)
        path = tmp_path / "model.safetensors"
        save_file({key: value.clone() for key, value in model.state_dict().items()}, path)
        options = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj"], **options}
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**options))
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        wrapped.save_pretrained(tmp_path / "adapter")
        return path, tmp_path / "adapter", wrapped.merge_and_unload().state_dict()

    return make


def merged(model, *lora, **options):
    return {tensor.name: tensor for tensor in tc.open(model) | tc.lora(*lora, **options)}


CASES = {
    "modules_to_save": (
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"lm_head.weight", "lm_head.bias", "embed_tokens.weight"},
    ),
    "bias, lora_only": ({"bias": "lora_only"}, {f"layers.{i}.q_proj.bias" for i in (0, 1)}),
    "bias, all": (
        {"bias": "all"},
        {"lm_head.bias", *(f"layers.{i}.{one}.bias" for i in (0, 1) for one in ("q_proj", "k_proj", "norm"))},
    ),
    "tokens": ({"trainable_token_indices": [17, 0, 5]}, {"embed_tokens.weight"}),
    "tokens, by layer": ({"trainable_token_indices": {"embed_tokens": [19, 3]}}, {"embed_tokens.weight"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_trained_whole(adapted, case, tmp_path):
    options, replaced = CASES[case]
    model, adapter, wanted = adapted(**options)
    before, got = load_file(model), merged(model, adapter)
    assert got.keys() == wanted.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(tensor.torch(), wanted[name], rtol=1e-5, atol=1e-5)
        if name in replaced:
            assert torch.equal(tensor.torch(), wanted[name])
            assert "replaced" in str(tensor.fate[0])
    changed = {name for name in wanted if not torch.equal(wanted[name], before[name])}
    assert replaced < changed
    assert changed == {name for name, tensor in got.items() if tensor.fate}
    plan = (tc.open(model) | tc.lora(adapter)).plan(tc.write(tmp_path / "out.safetensors"))
    told = f"lora adapter: 2 tensors changed, {len(replaced)} replaced, 0 keys left out"
    assert told in map(str, plan.log.notes)


def test_a_strength_goes_part_of_the_way_to_what_was_trained_whole(adapted):
    model, adapter, wanted = adapted(modules_to_save=["lm_head"], trainable_token_indices=[4, 7])
    before = load_file(model)
    got = merged(model, adapter, 0.25)
    for name in ("lm_head.weight", "lm_head.bias", "embed_tokens.weight"):
        middle = 0.75 * before[name].double() + 0.25 * wanted[name].double()
        torch.testing.assert_close(got[name].torch().double(), middle, rtol=1e-6, atol=1e-6)
    none = merged(model, adapter, 0.0)
    assert all(torch.equal(none[name].torch(), before[name]) for name in before)


def test_what_was_trained_whole_is_rounded_once(adapted):
    model, adapter, wanted = adapted(modules_to_save=["lm_head"], dtype=torch.bfloat16)
    stored = load_file(adapter / "adapter_model.safetensors")
    head = torch.randn(20, 8)
    stored["base_model.model.lm_head.weight"] = head
    save_file(stored, adapter / "adapter_model.safetensors")
    assert torch.equal(merged(model, adapter)["lm_head.weight"].torch(), head.to(torch.bfloat16))
    assert wanted["lm_head.weight"].dtype == torch.bfloat16


def test_names_of_older_versions_of_peft(adapted):
    model, adapter, wanted = adapted(modules_to_save=["lm_head"])
    stored = load_file(adapter / "adapter_model.safetensors")
    for old in ("lm_head.modules_to_save.", "lm_head.modules_to_save.default."):
        save_file(
            {key.replace("lm_head.", old): value for key, value in stored.items()},
            adapter / "adapter_model.safetensors",
        )
        assert torch.equal(merged(model, adapter)["lm_head.weight"].torch(), wanted["lm_head.weight"])


@pytest.mark.parametrize("tile", [1, 100])
def test_tokens_and_experts_in_any_tiles(adapted, tmp_path, tile):
    model, adapter, _ = adapted(
        trainable_token_indices=[17, 0, 5, 6],
        target_parameters=["experts.gate_up_proj", "experts.down_proj"],
    )
    made = set()
    for number, options in enumerate(({"workers": 1}, {"workers": 3, "tile": tile})):
        out = tmp_path / f"{number}.safetensors"
        tc.open(model) | tc.lora(adapter) | tc.write(out, **options)
        made.add(out.read_bytes())
    assert len(made) == 1


def test_an_adapter_of_tokens_alone(tmp_path):
    """PEFT's own kind for them, TRAINABLE_TOKENS."""
    torch.manual_seed(2)
    model = Net()
    save_file(
        {key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    config = peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[3, 11, 4])
    wrapped = peft.get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(tmp_path / "adapter")
    wanted = wrapped.merge_and_unload().state_dict()
    got = merged(tmp_path / "model.safetensors", tmp_path / "adapter")
    assert [name for name, tensor in got.items() if tensor.fate] == ["embed_tokens.weight"]
    assert all(torch.equal(tensor.torch(), wanted[name]) for name, tensor in got.items())


def test_tokens_that_cannot_be_placed(adapted):
    model, adapter, _ = adapted(trainable_token_indices=[17, 0])
    config = adapter / "adapter_config.json"
    said = json.loads(config.read_text())
    for indices, told in (
        (None, "which ones is not said; put its adapter_config.json"),
        ([17], r"is F32\[2,8\], trainable_token_indices names 1 rows"),
        ([17, 17], "names 1 rows"),
        ([-1, 3], "names 2 rows"),
        ([17, 20], "there is no row 20 .* in F32"),
    ):
        config.write_text(json.dumps({**said, "trainable_token_indices": indices}))
        with pytest.raises(PlanError, match=told):
            merged(model, adapter)
    config.write_text(json.dumps({**said, "trainable_token_indices": [17, "x"]}))
    with pytest.raises(FormatError, match="trainable_token_indices"):
        merged(model, adapter)


STACKS = {
    "both": ({}, ["experts.gate_up_proj", "experts.down_proj"]),
    "one": ({}, ["experts.down_proj"]),
    "transposed": ({"transposed": True}, ["experts.gate_up_proj", "experts.down_proj"]),
    "square": ({"inner": 8}, ["experts.gate_up_proj", "experts.down_proj"]),
    "square, transposed": ({"inner": 8, "transposed": True}, ["experts.gate_up_proj", "experts.down_proj"]),
    "one expert": ({"count": 5}, ["0.experts.gate_up_proj"]),
}


@pytest.mark.parametrize("case", STACKS)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": {"experts.down_proj": 40}}])
def test_target_parameters(adapted, case, options):
    experts, targets = STACKS[case]
    if "alpha_pattern" in options and not any(target.endswith("down_proj") for target in targets):
        options = {}
    model, adapter, wanted = adapted(experts, target_parameters=targets, **options)
    before, got = load_file(model), merged(model, adapter)
    for name, tensor in got.items():
        torch.testing.assert_close(tensor.torch(), wanted[name], rtol=1e-5, atol=1e-5)
    changed = {name for name in wanted if not torch.equal(wanted[name], before[name])}
    assert len([name for name in changed if "experts" in name]) >= len(targets)
    assert changed == {name for name, tensor in got.items() if tensor.fate}


def test_a_parameter_of_two_dimensions(adapted):
    model, adapter, wanted = adapted(target_modules=["q_proj"], target_parameters=["k_proj.weight"])
    got = merged(model, adapter)
    for name, tensor in got.items():
        torch.testing.assert_close(tensor.torch(), wanted[name], rtol=1e-5, atol=1e-5)
    assert got["layers.1.k_proj.weight"].fate


def test_stacks_that_cannot_be_told(adapted):
    model, adapter, _ = adapted({"inner": 8}, target_parameters=["experts.down_proj"])
    with pytest.raises(
        PlanError, match=r"square matrices in 'layers.0.experts.down_proj'.*which of their sides"
    ):
        merged(model, adapter)
    model, adapter, _ = adapted(target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    config = adapter / "adapter_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "target_parameters": ["experts.down_proj"]}))
    with pytest.raises(PlanError, match=r"one of 2 parameters of .*target_parameters names down_proj"):
        merged(model, adapter)
    config.write_text(json.dumps({**said, "r": 4}))
    with pytest.raises(PlanError, match="r is 4, which does not divide the rank 6"):
        merged(model, adapter)


PATTERNS = {
    "bare": {"layers.1.q_proj": 40},
    "anchored": {"^layers.1.q_proj": 40},
    "anchored, of both": {"^layers.0.q_proj": 3, "^layers.1.q_proj": 40},
    "a dot for any": {r"layers\.\d+\.q_proj": 40},
    "the first that fits counts": {"q_proj": 5, "layers.1.q_proj": 5},
    "not inside a name": {"1.q_proj": 40},
}


@pytest.mark.parametrize("case", PATTERNS)
@pytest.mark.parametrize("option", ["alpha_pattern", "rank_pattern"])
def test_patterns(adapted, case, option):
    model, adapter, wanted = adapted(
        **{option: {key: value % 7 + 1 for key, value in PATTERNS[case].items()}}
    )
    for name, tensor in merged(model, adapter).items():
        torch.testing.assert_close(tensor.torch(), wanted[name], rtol=1e-5, atol=1e-5)


def test_anchored_patterns_in_the_metadata_of_diffusers(tmp_path):
    up, down = torch.randn(4, 2), torch.randn(2, 6)
    save_file({"blocks.0.q.weight": torch.zeros(4, 6)}, tmp_path / "model.safetensors")
    options = {
        "transformer.r": 2, "transformer.lora_alpha": 2, "transformer.alpha_pattern": {"^blocks.0.q": 8},
        "text_encoder.alpha_pattern": {"^elsewhere": 3},
    }  # fmt: skip
    save_file(
        {"transformer.blocks.0.q.lora_B.weight": up, "transformer.blocks.0.q.lora_A.weight": down},
        tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(options)},
    )  # fmt: skip
    got = merged(tmp_path / "model.safetensors", tmp_path / "lora.safetensors")["blocks.0.q.weight"].torch()
    torch.testing.assert_close(got, 4 * (up @ down))


def test_patterns_that_fit_nothing(adapted, tmp_path):
    model, adapter, _ = adapted()
    config = adapter / "adapter_config.json"
    said = json.loads(config.read_text())
    for option in ("alpha_pattern", "rank_pattern"):
        config.write_text(json.dumps({**said, option: {"^layers.7.q_proj": 2}}))
        flow = tc.open(model) | tc.lora(adapter)
        with pytest.raises(PlanError, match=r"alpha_pattern or rank_pattern: '\^layers.7.q_proj' matches no"):
            list(flow)
        plan = flow.plan(tc.write(tmp_path / "out.safetensors", allow_unmatched=True))
        assert any("'^layers.7.q_proj' matches no" in line for line in map(str, plan.log.warnings))
    config.write_text(json.dumps({**said, "rank_pattern": {"q_proj": 3}}))
    with pytest.raises(
        PlanError, match=r"rank_pattern says 3 for 'layers.0.q_proj', whose factors have rank 2"
    ):
        merged(model, adapter)
