"""Which tensor a key of a LoRA means, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
from transcode import catalog
from transcode.errors import FormatError, PlanError, RecipeError

ONE = torch.ones(1)


@pytest.fixture
def save(tmp_path):
    def write(name, tensors):
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.clone() for key, value in tensors.items()}, path)
        return path

    return write


def pair(base, rows=4, columns=6, rank=2, value=1.0):
    """A pair whose product is everywhere ``rank * value``."""
    return {
        f"{base}.lora_up.weight": torch.full((rows, rank), value),
        f"{base}.lora_down.weight": torch.ones(rank, columns),
    }


def changed(model, lora, **options):
    """The tensors that a LoRA changes."""
    flow = tc.open(model) | tc.lora(lora, **options)
    before = {tensor.name: tensor.torch() for tensor in tc.open(model)}
    return {tensor.name for tensor in flow if not torch.equal(tensor.torch(), before[tensor.name])}


def planned(model, lora, tmp_path, allow=False, **options):
    flow = tc.open(model) | tc.lora(lora, **options)
    return flow.plan(tc.write(tmp_path / "out.safetensors", allow_unmatched=allow))


def zeros(*names, shape=(4, 6)):
    return {name: torch.zeros(shape) for name in names}


PREFIXES = [
    "", "diffusion_model.", "transformer.", "model.diffusion_model.", "unet.", "model.", "base_model.model.",
    "base_model.model.model.", "base_model.model.transformer.",
]  # fmt: skip


@pytest.mark.parametrize("of_model", ["", "model.diffusion_model.", "model."])
@pytest.mark.parametrize("of_lora", PREFIXES)
def test_what_stands_before_names(save, of_model, of_lora):
    name = f"{of_model}transformer_blocks.1.attn.to_q.weight"
    model = save("model", zeros(name, f"{of_model}transformer_blocks.11.attn.to_q.weight"))
    lora = save("lora", pair(f"{of_lora}transformer_blocks.1.attn.to_q"))
    assert changed(model, lora) == {name}


def test_a_name_as_it_stands_wins(save):
    model = save("model", zeros("net.q.weight", "model.net.q.weight"))
    assert changed(model, save("one", pair("net.q"))) == {"net.q.weight"}
    assert changed(model, save("two", pair("model.net.q"))) == {"model.net.q.weight"}
    with pytest.raises(PlanError, match=r"may mean any of 'model.net.q.weight', 'net.q.weight'.*prefix"):
        changed(model, save("three", pair("unet.net.q")))
    assert changed(model, save("three", pair("unet.net.q")), prefix="model.") == {"model.net.q.weight"}
    with pytest.raises(PlanError, match=r"'vae\.'"):
        changed(model, save("three", pair("unet.net.q")), prefix="vae.")


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_transformer_", "lycoris_"])
def test_underscores_for_dots(save, prefix):
    model = save("model", zeros("blocks.1.self_attn.q.weight", "blocks.11.self_attn.q.weight"))
    lora = save("lora", pair(f"{prefix}blocks_1_self_attn_q"))
    assert changed(model, lora) == {"blocks.1.self_attn.q.weight"}


def test_underscores_that_may_mean_two(save):
    model = save("model", zeros("a.b_c.weight", "a_b.c.weight", "a.b.d.weight"))
    assert changed(model, save("one", pair("lora_unet_a_b_d"))) == {"a.b.d.weight"}
    with pytest.raises(PlanError, match=r"lora_unet_a_b_c.*may mean any of 'a.b_c.weight', 'a_b.c.weight'"):
        changed(model, save("two", pair("lora_unet_a_b_c")))


def test_older_module_names(save):
    model = save("model", zeros("mid.attn1.to_q.weight", "mid.attn1.to_out.0.weight"))
    lora = save("lora", {
        **{key.replace(".lora", "_lora").replace("_lora_", "_lora."): value
           for base in ("unet.mid.attn1.processor.to_q", "unet.mid.attn1.processor.to_out")
           for key, value in pair(base).items()},
    })  # fmt: skip
    assert changed(model, lora) == {"mid.attn1.to_q.weight", "mid.attn1.to_out.0.weight"}


@pytest.fixture
def wan_pairs(wan, save):
    """Makes LoRAs of the tiny model in either spelling, the same values in both."""
    flow = tc.open(wan)
    family = catalog.detect([tensor.name for tensor in flow])
    assert family is not None
    assert family.spelling == "lightx2v"

    def make(name, to, spell=lambda module: module):
        tensors = {}
        for seed, tensor in enumerate(flow):
            if tensor.name.endswith(".weight") and len(tensor.spec.shape) == 2:
                module = family.convert(tensor.name, to).removesuffix(".weight")
                rows, columns = tensor.spec.shape
                random = torch.Generator().manual_seed(seed)
                tensors[f"{spell(module)}.lora_up.weight"] = torch.randn(rows, 2, generator=random)
                tensors[f"{spell(module)}.lora_down.weight"] = torch.randn(2, columns, generator=random)
        modulation = family.convert("blocks.1.modulation", to)
        if to == family.spelling and spell("a.b") == "a.b":
            tensors["blocks.1.diff_m"] = torch.ones(1, 6, 64)
            assert modulation == "blocks.1.modulation"
        return save(name, tensors)

    return make


@pytest.mark.parametrize("flat", [False, True])
def test_keys_in_the_other_spelling(wan, wan_pairs, flat):
    def spell(module):
        return f"lora_unet_{module.replace('.', '_')}" if flat else f"diffusion_model.{module}"

    same, other = wan_pairs("same", "lightx2v", spell), wan_pairs("other", "diffusers", spell)
    wanted = {tensor.name: tensor.torch() for tensor in tc.open(wan) | tc.lora(same)}
    for keys in ("auto", "convert"):
        for tensor in tc.open(wan) | tc.lora(other, keys=keys):
            assert torch.equal(tensor.torch(), wanted[tensor.name])
    assert len(changed(wan, other)) > 20
    with pytest.raises(PlanError, match="key"):
        changed(wan, other, keys="same")
    with pytest.raises(PlanError, match="key"):
        changed(wan, same, keys="convert")
    assert changed(wan, same, keys="same") == changed(wan, other)


def test_differences_of_modulation_in_the_other_spelling(wan, save):
    lora = save("lora", {"blocks.1.diff_m": torch.ones(1, 6, 64)})
    assert changed(wan, lora) == {"blocks.1.modulation"}
    flow = tc.open(wan) | tc.convert("diffusers") | tc.lora(lora)
    assert [t.name for t in flow if any(did.kind == "lora" for did in t.fate)] == [
        "blocks.1.scale_shift_table"
    ]


def test_keys_cannot_be_converted_for_strangers(save):
    model = save("model", zeros("net.q.weight"))
    with pytest.raises(RecipeError, match="no family with several spellings"):
        changed(model, save("lora", pair("net.q")), keys="convert")
    with pytest.raises(RecipeError, match="sideways"):
        tc.lora("x", keys="sideways")


def test_keys_with_no_home(save, tmp_path):
    model = save("model", zeros("blocks.0.attn.q.weight", "blocks.1.attn.q.weight"))
    lora = save("lora", {
        **pair("blocks.0.attn.q"), **pair("blocks.1.attn.qq"), **pair("lora_unet_blocks_1_atn_q"),
        "blocks.0.attn.q.strange": ONE,
    })  # fmt: skip
    with pytest.raises(PlanError) as error:
        planned(model, lora, tmp_path)
    told = str(error.value)
    assert "lora.safetensors: 3 keys have no home" in told
    assert "'blocks.1.attn.qq.lora_up.weight', did you mean 'blocks.1.attn.q.weight'" in told
    assert "'lora_unet_blocks_1_atn_q.lora_up.weight', did you mean 'blocks.1.attn.q.weight'" in told
    assert "allow_unmatched=True" in told
    plan = planned(model, lora, tmp_path, allow=True)
    assert any("3 keys have no home" in line for line in map(str, plan.log.warnings))
    assert [tensor.name for tensor in plan.tensors if tensor.fate] == ["blocks.0.attn.q.weight"]


def test_a_lora_for_another_model(save, tmp_path):
    model = save("model", zeros("blocks.0.attn.q.weight"))
    with pytest.raises(PlanError, match="none of its 2 keys fits the model"):
        planned(model, save("lora", {**pair("x.1"), **pair("x.2")}), tmp_path, allow=True)


def test_text_encoder_keys_are_told_of(save, tmp_path):
    of_text = {**pair("lora_te1_text_model_encoder_q"), **pair("text_encoder.text_model.encoder.q")}
    model = save("model", zeros("blocks.0.q.weight"))
    plan = planned(model, save("lora", {**pair("lora_unet_blocks_0_q"), **of_text}), tmp_path)
    assert any("2 keys are for a text encoder" in line for line in map(str, plan.log.warnings))
    # A model that has a text encoder must have all that the LoRA changes of it.
    both = save("both", zeros("blocks.0.q.weight", "text_encoder.text_model.encoder.q.weight"))
    lora = save("lora2", {**pair("unet.blocks.0.q"), **pair("text_encoder.text_model.encoder.q")})
    assert len(changed(both, lora)) == 2
    with pytest.raises(PlanError, match="no home"):
        changed(both, save("lora3", {**pair("unet.blocks.0.q"), **pair("lora_te1_text_model_encoder_z")}))
    # The text encoder itself is a model too.
    alone = save("alone", zeros("text_model.encoder.q.weight"))
    assert changed(alone, save("lora4", pair("lora_te1_text_model_encoder_q"))) == {
        "text_model.encoder.q.weight"
    }
    assert changed(alone, save("lora5", pair("text_encoder.text_model.encoder.q"))) == {
        "text_model.encoder.q.weight"
    }


UP, DOWN = pair("net.q").items()
REFUSED = {
    "up alone": (dict([UP]), r"net.q.lora_up.weight: has no partner: the down of 'net.q'"),
    "down alone": (dict([DOWN]), r"net.q.lora_down.weight: has no partner: the up of 'net.q'"),
    "mid alone": ({"net.q.lora_mid.weight": torch.ones(2, 2, 1, 1)}, "has no partner"),
    "alpha alone": ({**pair("net.q"), "net.z.alpha": ONE}, r"net.z.alpha: is an alpha without a pair"),
    "alpha of two": ({**pair("net.q"), "net.q.alpha": torch.ones(2)}, r"F32\[2\].*one number"),
    "alpha nan": ({**pair("net.q"), "net.q.alpha": ONE * float("nan")}, "finite"),
    "whole numbers": ({UP[0]: torch.ones(4, 2, dtype=torch.int8), DOWN[0]: DOWN[1]}, "I8"),
    "ranks differ": ({UP[0]: torch.ones(4, 3), DOWN[0]: DOWN[1]}, r"F32\[4,3\].*F32\[2,6\].*no factors"),
    "rank nothing": ({UP[0]: torch.ones(4, 0), DOWN[0]: torch.ones(0, 6)}, "no factors"),
    "kernel in up": ({UP[0]: torch.ones(4, 2, 3, 3), DOWN[0]: torch.ones(2, 6, 3, 3)}, "no factors"),
    "mid differs": ({**pair("net.q"), "net.q.lora_mid.weight": torch.ones(3, 3, 1, 1)}, "mid F32"),
    "shape": (pair("net.q", 5, 6), r"F32\[5,2\].*F32\[2,6\] do not make F32\[4,6\] of 'net.q.weight'"),
    "diff shape": ({"net.q.diff": torch.ones(6, 4)}, r"F32\[6,4\] does not fit F32\[4,6\]"),
    "two pairs": (
        {**pair("net.q"), "net.q.lora_B.weight": UP[1], "net.q.lora_A.weight": DOWN[1]},
        "is a second .* of 'net.q'",
    ),
    "two keys": ({**pair("net.q"), **pair("unet.net.q")}, "unet.net.q.lora_up.weight: is for 'net.q.weight'"),
    "DoRA": (
        {**pair("net.q"), "net.q.dora_scale": torch.ones(5, 1)},
        r"magnitudes F32\[5,1\] are neither of outputs nor of inputs of F32\[4,6\]",
    ),
    "DoRA of PEFT": (
        {**pair("net.q"), "base_model.model.net.q.lora_magnitude_vector": torch.ones(4)},
        "net.q.lora_magnitude_vector: is a magnitude of DoRA, whose factors are missing",
    ),
    "DoRA twice": (
        {**pair("net.q"), "net.q.dora_scale": ONE, "net.q.lora_magnitude_vector": ONE},
        "second magnitude",
    ),
    "LoKr": (
        {"net.q.lokr_w1": torch.ones(2, 2), "net.q.lokr_w2": torch.ones(2, 2)},
        r"LoKr makes \[4,4\], which does not fit F32\[4,6\]",
    ),
    "LoKr and its factors": (
        {"net.q.lokr_w1": torch.ones(2, 2), "net.q.lokr_w1_a": ONE, "net.q.lokr_w2": torch.ones(2, 3)},
        "is whole, and 'net.q.lokr_w1_a' a factor of the same",
    ),
    "LoKr, half": ({"net.q.lokr_w1": torch.ones(2, 2)}, "has no partner: the w2_a of 'net.q'"),
    "LoKr of another trainer": (
        {"net.q.lokr_w1": ONE, "net.q.lokr_t1": ONE, "net.q.alpha": ONE},
        "is of LoKr with a core in its first side, which cannot be merged",
    ),
    "LoHa": ({"net.q.hada_w1_a": ONE, "net.q.alpha": ONE}, "has no partner: the w1_b of 'net.q'"),
    "LoHa, sides differ": (
        {
            "net.q.hada_w1_a": torch.ones(4, 2),
            "net.q.hada_w1_b": torch.ones(2, 6),
            "net.q.hada_w2_a": torch.ones(4, 2),
            "net.q.hada_w2_b": torch.ones(2, 5),
        },
        "the other side",
    ),
    "OFT": ({"net.q.oft_blocks": torch.ones(5, 2, 2)}, "turn 10 outputs, not those of 'net.q.weight'"),
    "OFT, flat": ({"net.q.oft_blocks": torch.ones(2, 2)}, r"is F32\[2,2\], not blocks"),
    "OFT, a part missing": (
        {"net.q.oft_blocks.0": torch.ones(1, 2, 2), "net.q.oft_blocks.2": torch.ones(1, 2, 2)},
        "the blocks_1 of 'net.q' is missing",
    ),
    "OFT of PEFT": ({"net.q.oft_R.weight": torch.ones(2, 3)}, "adapter_config.json"),
    "OFT of older PEFT": ({"net.q.oft_r": ONE, "net.q.alpha": ONE}, "is of OFT of an older trainer"),
    "BOFT": ({"net.q.oft_blocks": torch.ones(2, 1, 4, 4)}, "make no butterflies"),
    "IA3": (
        {"net.q.on_input": torch.tensor(True), "net.q.weight": torch.ones(4)},
        "has not one value for each of the inputs",
    ),
    "IA3 alone": ({"net.q.on_input": ONE}, "the values of 'net.q' is missing"),
    "GLoRA": ({"net.q.a1.weight": torch.ones(6, 2)}, "the a2 of 'net.q' is missing"),
    "AdaLoRA": ({**pair("net.q"), "net.q.lora_E": ONE}, "is of AdaLoRA"),
    "an order that is not told": (
        {**pair("net.q"), "net.q.oft_blocks": torch.ones(2, 2, 2)},
        "changes what 'net.q.lora_up.weight'.* changes too; put them in two files",
    ),
    "embedding": ({"net.q.lora_embedding_A": ONE}, "embedding"),
    "no LoRA": (
        {"net.q.weight": torch.ones(4, 6)},
        "holds whole tensors and nothing of a LoRA.*source",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_while_planning(save, tmp_path, case):
    tensors, told = REFUSED[case]
    model, lora = save("model", zeros("net.q.weight", "net.k.weight")), save("lora", tensors)
    with pytest.raises(PlanError, match=told) as error:
        planned(model, lora, tmp_path, allow=True)
    assert str(lora) in str(error.value)


@pytest.mark.parametrize(
    ("dtype", "hint"),
    [
        (torch.int8, "dequantize first"),
        (torch.float8_e4m3fn, "dequantize first"),
        (torch.float64, "cast it to F32 first"),
    ],
)
def test_bases_that_cannot_be_merged_into(save, tmp_path, dtype, hint):
    model = save("model", {"net.q.weight": torch.zeros(4, 6).to(dtype)})
    with pytest.raises(PlanError, match=rf"net.q.weight: lora.safetensors cannot be merged.*{hint}"):
        planned(model, save("lora", pair("net.q")), tmp_path)


def test_after_quantization_is_refused(wan, save, tmp_path):
    flow = tc.open(wan) | tc.quantize("int8") | tc.lora(save("lora", pair("blocks.0.ffn.0", 176, 64)))
    with pytest.raises(PlanError, match=r"blocks.0.ffn.0.weight: .*quantized \(int8\).*dequantize first"):
        flow.plan(tc.write(tmp_path / "out"))


def test_into_a_dequantized_model(wan, save, tmp_path):
    lora = save("lora", pair("blocks.0.ffn.0", 176, 64, value=0.5))
    quantized = tmp_path / "int8.safetensors"
    tc.open(wan) | tc.quantize("int8") | tc.write(quantized)
    with pytest.raises(PlanError, match="it is I8; dequantize first"):
        planned(quantized, lora, tmp_path)
    plain = tc.open(quantized) | tc.dequantize("F32")
    name = "blocks.0.ffn.0.weight"
    assert torch.equal((plain | tc.lora(lora))[name].torch(), plain[name].torch() + 1)


def test_loras_in_pickles(save, tmp_path):
    torch.save(pair("net.q"), tmp_path / "lora.pt")
    assert changed(save("model", zeros("net.q.weight")), tmp_path / "lora.pt") == {"net.q.weight"}


def test_no_such_file(save, tmp_path):
    with pytest.raises(FormatError, match=r"nowhere\.safetensors"):
        changed(save("model", zeros("net.q.weight")), tmp_path / "nowhere.safetensors")


def test_tied_weights_part(tmp_path, save):
    """Two names of one storage: a LoRA for one of them leaves the other as it was."""
    weight = torch.zeros(4, 6)
    torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / "model.pt")
    flow = tc.open(tmp_path / "model.pt") | tc.lora(save("lora", pair("a")))
    assert flow["a.weight"].torch().min() == 2
    assert flow["b.weight"].torch().abs().max() == 0
    assert flow["a.weight"].shares is None


VISION = ["", "model.", "language_model.model.", "model.language_model.", "language_model."]


@pytest.mark.parametrize("of_model", VISION)
@pytest.mark.parametrize("of_lora", VISION)
def test_the_language_model_of_one_that_sees(save, of_model, of_lora):
    name = f"{of_model}layers.3.self_attn.q_proj.weight"
    model = save("model", zeros(name, "model.visual.blocks.3.attn.qkv.weight", "lm_head.weight"))
    lora = save("lora", pair(f"base_model.model.{of_lora}layers.3.self_attn.q_proj"))
    assert changed(model, lora) == {name}


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_components_of_wrappers(save, wrapper):
    plain, wrapped = "blocks.1.self_attn.q", f"{wrapper}.blocks.1.{wrapper}.self_attn.q"
    for of_model, of_lora in ((plain, wrapped), (wrapped, plain), (wrapped, wrapped)):
        model = save("model", zeros(f"{of_model}.weight"))
        assert changed(model, save("lora", pair(f"transformer.{of_lora}"))) == {f"{of_model}.weight"}
        flat = f"lora_unet_{of_lora.replace('.', '_')}"
        assert changed(model, save("lora", pair(flat))) == {f"{of_model}.weight"}
    model = save("model", zeros(f"x{wrapper}.q.weight"))
    assert changed(model, save("lora", pair(f"x{wrapper}.q"))) == {f"x{wrapper}.q.weight"}


def test_what_does_not_fit_is_left_out_only_when_asked(save, tmp_path):
    model = save("model", {**zeros("a.q.weight", "b.q.weight"), "patch.weight": torch.zeros(4, 3, 1, 2)})
    lora = save("lora", {
        **pair("a.q"), **pair("b.q", rows=5), "patch.diff": torch.ones(4, 7, 1, 2), **pair("nowhere"),
    })  # fmt: skip
    with pytest.raises(PlanError) as error:
        planned(model, lora, tmp_path)
    told = str(error.value)
    assert "b.q.lora_up.weight: up F32[5,2] and down F32[2,6] do not make F32[4,6] of 'b.q.weight'" in told
    assert "1 more keys do not fit either" in told
    assert "allow_unmatched=True leaves out what does not fit" in told
    planning = planned(model, lora, tmp_path, allow=True).log
    (warning,) = (line for line in map(str, planning.warnings) if "not fit" in line)
    assert "2 keys do not fit, left out: 'b.q.lora_up.weight', 'patch.diff'" in warning
    assert any("1 key has no home: 'nowhere.lora_up.weight'" in str(line) for line in planning.warnings)
    assert "lora lora.safetensors: 1 tensor changed, 0 replaced, 3 keys left out" in map(str, planning.notes)


def test_whole_tensors_of_other_shapes_are_not_replaced(save, tmp_path):
    """As of a vocabulary that was enlarged."""
    model = save("model", {**zeros("a.q.weight"), "lm_head.weight": torch.zeros(4, 6)})
    lora = save("lora", {**pair("a.q"), "base_model.model.lm_head.weight": torch.ones(5, 6)})
    with pytest.raises(
        PlanError, match=r"lm_head.weight: a whole tensor F32\[5,6\] does not take the place of"
    ):
        planned(model, lora, tmp_path)
    lora = save("lora", {**pair("a.q"), "base_model.model.lm_head.weight": torch.ones(4, 6)})
    assert changed(model, lora) == {"a.q.weight", "lm_head.weight"}
    lora = save("lora", {**pair("a.q"), "a.q.strange": torch.ones(4, 6, dtype=torch.int8)})
    with pytest.raises(PlanError, match=r"1 key has no home: 'a.q.strange'"):
        planned(model, lora, tmp_path)
