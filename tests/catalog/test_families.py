"""Families know published models by their tensors, and choose what their consumers quantize."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from transcode import catalog
from transcode.catalog.families import load_family
from transcode.catalog.recognise import Signature, fold
from transcode.core.patterns import Pattern
from transcode.errors import RecipeError


def said(owner: catalog.Family, *of: Any) -> tuple[bool, str]:
    """Whether a tensor is quantized, and the words for why."""
    taken, why = owner.is_target(*of)
    return taken, str(why)


FIXTURES = Path(__file__).parents[2] / "fixtures" / "families"
STRANGERS = json.loads((FIXTURES / "strangers.json").read_text())

Golden = Any  # tests/catalog/conftest.py


def test_every_family_has_a_golden(goldens: list[Golden]) -> None:
    known = {golden.family for golden in goldens}
    assert known == set(catalog.families()) - {"generic"}


def test_every_spelling_has_a_golden(goldens: list[Golden]) -> None:
    seen = {(golden.family, golden.spelling) for golden in goldens}
    for name in catalog.families():
        family = catalog.family(name)
        assert family.fallback or {(name, spelling) for spelling in family.spellings} <= seen


def test_recognised(golden: Golden) -> None:
    found = catalog.detect(list(golden.shapes), golden.shapes)
    assert found is not None
    assert (found.name, found.spelling, found.prefix) == (golden.family, golden.spelling, "")


def test_recognised_behind_a_prefix(golden: Golden) -> None:
    kinds = fold(golden.shapes)
    for prefix in ("model.diffusion_model.", "diffusion_model.", "transformer.", "module."):
        found = catalog.detect([f"{prefix}{name}" for name in kinds])
        assert found is not None, prefix
        assert (found.name, found.spelling, found.prefix) == (golden.family, golden.spelling, prefix)


def test_recognised_among_other_models(golden: Golden) -> None:
    others = [
        "vae.decoder.conv_in.weight",
        "text_encoders.t5xxl.encoder.block.0.layer.0.SelfAttention.q.weight",
    ]
    found = catalog.detect([*others, *(f"model.diffusion_model.{name}" for name in fold(golden.shapes))])
    assert found is not None
    assert (found.name, found.prefix) == (golden.family, "model.diffusion_model.")


def test_several_text_encoders_in_one_file_are_of_no_family(read_golden: Callable[[str], Golden]) -> None:
    names = [f"text_encoders.clip_l.transformer.{name}" for name in fold(read_golden("clip_l").shapes)]
    more = [f"text_encoders.t5xxl.transformer.{name}" for name in fold(read_golden("t5_xxl").shapes)]
    assert catalog.detect([*names, *more]) is None
    found = catalog.detect(names)
    assert found is not None
    assert (found.name, found.prefix) == ("clip", "text_encoders.clip_l.transformer.")


def test_recognised_when_quantized(golden: Golden) -> None:
    names = fold([*golden.shapes, *(f"{name}_scale" for name in golden.quantized)])
    found = catalog.detect(names)
    assert found is not None
    assert found.name == golden.family


def test_targets(golden: Golden) -> None:
    family = catalog.family(golden.family).spelled(golden.spelling)
    chosen = {name for name, shape in golden.shapes.items() if family.is_target(name, shape)[0]}
    assert chosen == golden.quantized


def test_targets_behind_a_prefix(golden: Golden) -> None:
    family = catalog.family(golden.family).spelled(golden.spelling, "model.diffusion_model.")
    chosen = {
        name
        for name, shape in golden.shapes.items()
        if family.is_target(f"model.diffusion_model.{name}", shape)[0]
    }
    assert chosen == golden.quantized


def test_what_is_never_quantized_is_said_so(golden: Golden) -> None:
    """No matrix is left out without a reason that the family's author wrote."""
    family = catalog.family(golden.family).spelled(golden.spelling)
    for name in golden.shapes.keys() - golden.quantized:
        if len(golden.shapes[name]) == 2 and name.endswith(".weight"):
            _, why = family.is_target(name)
            assert why.kind in ("never", "adapter"), (name, why)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("t5_xxl", "t5_xxl_gguf"), ("umt5_xxl", "umt5_xxl_gguf"), ("umt5_xxl", "umt5_xxl_enc"),
        ("clip_l", "clip_l_transformers_5"), ("gemma_3", "gemma_3_multimodal"),
        ("mistral_3", "mistral_3_multimodal"),
    ],
)  # fmt: skip
def test_two_spellings_of_one_model(one: str, other: str, read_golden: Callable[[str], Golden]) -> None:
    first, second = read_golden(one), read_golden(other)
    direction = catalog.family(first.family).spelled(first.spelling).direction(second.spelling)
    assert {direction.rename(name): shape for name, shape in first.shapes.items()} == second.shapes
    assert {direction.rename(name) for name in first.quantized} == second.quantized


@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_are_unknown(stranger: str) -> None:
    assert catalog.detect(STRANGERS[stranger]) is None


def test_what_a_language_model_sees_with_is_no_model_of_its_own(read_golden: Callable[[str], Golden]) -> None:
    """LLaVA, whose CLIP has the names of Wan's image encoder behind a prefix; and a whole CLIP."""
    names = fold(read_golden("clip_vision_h").shapes)
    tower = [f"vision_tower.{name}" for name in names]
    found = catalog.detect([*tower, *fold(read_golden("gemma_3").shapes)])
    assert found is not None
    assert (found.name, found.spelling) == ("decoder_llm", "llava")
    whole = catalog.detect([*names, *fold(read_golden("clip_l").shapes)])
    assert whole is not None
    assert whole.name == "clip"


def test_nothing_is_unknown() -> None:
    assert catalog.detect([]) is None
    assert catalog.detect([""]) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.0.self_attn.q.weight", (True, "target self_attn")),
        ("blocks.39.ffn.2.weight", (True, "target ffn")),
        ("vace_blocks.3.cross_attn.o.weight", (True, "target cross_attn")),
        ("blocks.0.self_attn.q.bias", (False, "not a weight")),
        ("blocks.0.self_attn.norm_q.weight", (False, "never: norm")),
        ("blocks.0.norm3.weight", (False, "never: norm")),
        ("blocks.0.modulation", (False, "not a weight")),
        ("vace_blocks.0.before_proj.weight", (False, "never: projection")),
        ("patch_embedding.weight", (False, "never: embedding")),
        ("text_embedding.0.weight", (False, "never: embedding")),
        ("img_emb.proj.1.weight", (False, "never: embedding")),
        ("head.head.weight", (False, "never: head")),
        ("something.else.weight", (False, "outside blocks")),
        ("blocks.0.scale.weight", (False, "not a target")),
        ("blocks.0.self_attn.q.weight_scale", (False, "not a weight")),
        ("blocks.0.my_self_attn.q.weight", (False, "not a target")),
    ],
)
def test_reasons(name: str, expected: tuple[bool, str]) -> None:
    assert said(catalog.family("wan_dit"), name) == expected


@pytest.mark.parametrize(
    ("family", "spelling", "name", "block"),
    [
        ("wan_dit", "lightx2v", "blocks.12.ffn.0.weight", 12),
        ("wan_dit", "lightx2v", "vace_blocks.3.after_proj.weight", 3),
        ("wan_dit", "lightx2v", "model.diffusion_model.blocks.7.modulation", 7),
        ("wan_dit", "lightx2v", "head.head.weight", None),
        ("wan_dit", "lightx2v", "blocks.x.ffn.0.weight", None),
        ("wan_dit", "lightx2v", "my_blocks.0.ffn.0.weight", None),
        ("wan_dit", "diffusers", "blocks.39.scale_shift_table", 39),
        ("wan_animate_dit", "lightx2v", "face_adapter.fuser_blocks.3.linear2.weight", 15),
        ("wan_animate_dit", "lightx2v", "blocks.3.ffn.0.weight", 3),
        ("wan_animate_dit", "diffusers", "face_adapter.7.to_q.weight", 35),
        ("self_forcing", "lightx2v", "model.blocks.29.modulation", 29),
        ("z_image_dit", "diffusers", "layers.5.attention.to_q.weight", 5),
        ("z_image_dit", "diffusers", "noise_refiner.1.attention.to_q.weight", None),
        ("hunyuan_dit", "lightx2v", "txt_in.individual_token_refiner.blocks.0.mlp.fc1.weight", None),
        ("qwen25vl_llm", "published", "visual.blocks.3.attn.qkv.weight", None),
        ("generic", "any", "encoder.layer.11.output.dense.weight", 11),
    ],
)
def test_blocks(family: str, spelling: str, name: str, block: int | None) -> None:
    assert catalog.family(family).spelled(spelling).block_of(name) == block


def test_adapters_keep_their_dtype() -> None:
    animate = catalog.family("wan_animate_dit")
    assert animate.is_adapter("face_adapter.fuser_blocks.0.linear1_kv.weight")
    assert animate.is_adapter("face_adapter.fuser_blocks.0.linear1_kv.bias")
    assert said(animate, "face_adapter.fuser_blocks.0.linear2.weight") == (False, "adapter")
    assert not animate.is_adapter("blocks.0.ffn.0.weight")


def test_fused_groups(golden: Golden) -> None:
    """Members of a group have the same columns, lie in one block, and are two or three."""
    family = catalog.family(golden.family).spelled(golden.spelling)
    groups: dict[str, set[str]] = {}
    for name in golden.quantized:
        key = family.group_of(name)
        if key is not None:
            groups.setdefault(key, set()).add(name)
    for members in groups.values():
        assert len({golden.shapes[name][-1] for name in members}) == 1
        assert len({family.block_of(name) for name in members}) == 1
        alone = len(members) == 1 and any("wkv_a_with_mqa" in name for name in golden.quantized)
        assert len(members) in (2, 3) or alone  # Mistral's latent attention has no k beside its q


def test_fused_groups_by_name() -> None:
    wan = catalog.family("wan_dit")
    keys = {wan.group_of(f"blocks.0.self_attn.{name}.weight") for name in "qkv"}
    assert len(keys) == 1
    assert keys != {None}
    assert wan.group_of("blocks.1.self_attn.q.weight") not in keys
    assert wan.group_of("blocks.0.self_attn.o.weight") is None
    assert wan.group_of("blocks.0.cross_attn.q.weight") is None
    llm = catalog.family("decoder_llm")
    experts = [
        llm.group_of(f"model.layers.0.mlp.experts.{e}.{p}_proj.weight")
        for e in (0, 1)
        for p in ("gate", "up")
    ]
    assert experts[0] == experts[1] != experts[2] == experts[3]


def dropped(drops: Iterable[Pattern], name: str) -> bool:
    return any(pattern.matches(name) for pattern in drops)


def test_drops() -> None:
    wan = catalog.family("wan_dit").policy
    assert dropped(wan.drops, "ca.0.to_q.weight")
    assert dropped(wan.drops, "audio_proj.weight")
    assert not dropped(wan.drops, "scale_shift_table")
    assert not dropped(wan.drops, "blocks.0.cross_attn.q.weight_scale")
    assert dropped(catalog.family("wan_clip").policy.drops, "textual.blocks.0.attn.q.weight")
    assert dropped(catalog.family("qwen25vl_llm").policy.drops, "visual.blocks.0.attn.qkv.weight")


def test_what_a_consumers_files_keep_belongs_to_a_convention(read_golden: Callable[[str], Golden]) -> None:
    """Against comfy-quants, configs/qwen_image_2512_nvfp4.yaml, and convert_to_quant's --zimage, --ltxv2."""
    kept = {
        "qwen_image": r"^transformer_blocks\.0\.img_mod\.1\.",
        "z_image_turbo_original": r"\.adaLN_modulation\.",
        "ltx_2": r"^transformer_blocks\.(0|1|46|47)\.",
    }
    for stem, pattern in kept.items():
        golden = read_golden(stem)
        family = catalog.family(golden.family).spelled(golden.spelling)
        chosen = {
            name for name, shape in golden.shapes.items() if family.is_target(name, shape, "comfyui")[0]
        }
        assert chosen == {name for name in golden.quantized if not re.search(pattern, name)}
        (one, *_) = golden.quantized - chosen
        assert said(family, one, None, "comfyui") == (False, "never: kept by comfyui")
        assert family.is_target(one, convention="lightx2v")[0]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("encoder.layer.3.attention.self.query.weight", (384, 384), (True, "target *")),
        ("encoder.layer.3.attention.output.LayerNorm.weight", (384,), (False, "never: norm")),
        ("embeddings.word_embeddings.weight", (30522, 384), (False, "never: embedding")),
        ("lm_head.weight", (1000, 64), (False, "never: head")),
        ("model.layers.0.input_layernorm.weight", (64,), (False, "never: norm")),
        ("conv.weight", (64, 3, 3, 3), (False, "4-D")),
        ("fc.weight", (64,), (False, "1-D")),
        ("fc.bias", (64,), (False, "not a weight")),
        ("overhead.weight", (64, 64), (True, "target *")),
        ("transformer.wte.weight", (64, 64), (False, "never: embedding")),
    ],
)
def test_unknown_families(name: str, shape: tuple[int, ...], expected: tuple[bool, str]) -> None:
    assert said(catalog.generic_family(), name, shape) == expected


def test_family_by_name_takes_the_spelling_of_the_names(read_golden: Callable[[str], Golden]) -> None:
    golden = read_golden("wan2.1_t2v_1.3b_diffusers")
    assert catalog.family("wan_dit").spelling == "lightx2v"
    assert catalog.family("wan_dit", [f"model.{name}" for name in golden.shapes]).prefix == "model."
    assert catalog.family("wan_dit", list(golden.shapes)).spelling == "diffusers"
    assert catalog.family("wan_dit", ["nothing"]).spelling == "lightx2v"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"unknown family 'wan_dti'; known: .*did you mean wan_dit\?"):
        catalog.family("wan_dti")
    with pytest.raises(RecipeError, match=r"unknown family '\.\./conventions/plain'"):
        catalog.family("../conventions/plain")
    with pytest.raises(RecipeError, match="no spelling 'comfy'; known: lightx2v, diffusers"):
        catalog.family("wan_dit").spelled("comfy")


def test_fold_keeps_each_kind_once() -> None:
    assert fold(["b.10.w", "b.11.w", "b.9.w", "b.3.w", "v10.w", "b.1x.w"]) == [
        "b.1x.w",
        "b.3.w",
        "b.9.w",
        "v10.w",
    ]


def test_signatures() -> None:
    one = Signature(("a.*.weight", "b"), none=("c",), shapes={"b": (None, 4)})
    assert one.fit(["a.0.weight", "b.bias"]) == ""
    assert one.fit(["x.a.0.weight", "x.b.bias"]) == "x."
    assert one.fit(["x.a.0.weight", "b.bias"]) is None
    assert one.fit(["xa.0.weight", "xb.bias"]) is None
    assert one.fit(["a.0.weight", "b.bias", "c.d"]) is None
    assert one.fit(["a.0.weight", "bb"]) is None
    assert one.fit(["a.0.weight", "b"], {"a.0.weight": (2,), "b": (3, 4)}) == ""
    assert one.fit(["a.0.weight", "b"], {"a.0.weight": (2,), "b": (3, 5)}) is None
    assert one.fit(["a.0.weight", "b"], {"a.0.weight": (2,), "b": (4,)}) is None
    either = Signature(("a", "b.*.w | c"))
    assert (either.fit(["a", "b.0.w"]), either.fit(["x.a", "x.c.d"]), either.fit(["a"])) == ("", "x.", None)
    with pytest.raises(RecipeError, match="indexes above 9"):
        Signature(("a.10.weight",))


FAMILY = """\
family: mine
title: my model
spellings:
  own:
    title: names
    detect: {all: [layer.*.in.weight]}
    blocks: ["layer.{i}"]
    targets: [in, out]
"""


def test_the_users_folder_comes_first(own_formats: Path) -> None:
    path = own_formats / "families" / "mine.yaml"
    path.write_text(FAMILY)
    assert "mine" in catalog.families()
    assert "wan_dit" in catalog.families()
    found = catalog.detect(["layer.0.in.weight"])
    assert found is not None
    assert found.name == "mine"
    (own_formats / "families" / "wan_dit.yaml").write_text(FAMILY.replace("mine", "wan_dit"))
    assert catalog.family("wan_dit").title == "my model"
    path.write_text(FAMILY.replace("my model", "another title"))
    assert catalog.family("mine").title == "another title"


def test_two_families_that_fit_are_refused(own_formats: Path) -> None:
    (own_formats / "families" / "mine.yaml").write_text(FAMILY)
    (own_formats / "families" / "yours.yaml").write_text(FAMILY.replace("mine", "yours"))
    with pytest.raises(RecipeError, match="several families: mine, yours; say which with model=\\.\\.\\."):
        catalog.detect(["layer.0.in.weight"])
    refined = FAMILY.replace("mine", "yours").replace("title: my model", "title: x\nrefines: [mine]")
    (own_formats / "families" / "yours.yaml").write_text(refined)
    found = catalog.detect(["layer.0.in.weight"])
    assert found is not None
    assert found.name == "yours"


def test_tables_for_kinds_of_models(own_formats: Path) -> None:
    path = own_formats / "families" / "mine.yaml"
    other = "  other: {title: x, detect: {all: [x.*]}, blocks: ['x.{i}'], targets: [a]}\n"
    table = "  - {{between: [{}], holds: {{size: [{}]}}, rules: [[in, {}]]}}\n"
    tables = table.format("own, other", "small", "a") + table.format("other, own", "big, huge", "b")
    path.write_text(f"{FAMILY}{other}conversions:\n{tables}")
    family = load_family(path)
    assert family.direction("other", {"size": "small"}).rename("in.w") == "a.w"
    assert family.direction("other", {"size": "huge"}).rename("b.w") == "in.w"
    assert family.spelled("other").direction("own", {"size": "huge"}).rename("in.w") == "b.w"
    assert family.direction("other", {"size": "none"}).rename("in.w") == "a.w"
    assert len(family.directions("other")) == 2
    path.write_text(f"{FAMILY}{other}conversions:\n{tables.replace(', holds: {size: [small]}', '')}")
    assert load_family(path).direction("other", {"size": "none"}).rename("in.w") == "a.w"
    assert load_family(path).direction("other", {"size": "huge"}).rename("b.w") == "in.w"
    path.write_text(f"{FAMILY}{other}conversions:\n{tables.replace(', holds: {size: [big, huge]}', '')}")
    with pytest.raises(RecipeError, match="there are rules between other and own already"):
        load_family(path)


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("family: mine", "family: other"), 1, "'other' is not the name of the file"),
        (("title: my model\n", ""), 1, "'title' is missing"),
        (("title: my model", "titel: my model"), 1, "'title' is missing"),
        (("title: names", "title: names\n    tragets: [a]"), 6, "unknown key 'tragets'"),
        (("[in, out]", '["in.[", out]'), 8, r"targets\[0\]: 'in.\[' is not a valid pattern"),
        (("[in, out]", "in"), 8, "targets: must be a list, is text"),
        (("[in, out]", "[in, 1]"), 8, r"targets\[1\]: must be text, is a whole number \(1\); quote it"),
        (('["layer.{i}"]', '["layer.0"]'), 7, "'layer.0' is not a block path"),
        (('["layer.{i}"]', '["layer.{i}", {path: "b.{i}", every: 0}]'), 7, "must be at least 1"),
        (("[layer.*.in.weight]", "[]"), 6, "a signature needs a pattern"),
        (("detect: {all: [layer.*.in.weight]}", "dims: [2]"), 4, "own: 'detect' is missing"),
        (('    blocks: ["layer.{i}"]\n', ""), 5, "'blocks' is missing"),
        (("title: names", "title: names\n    fused: [[q]]"), 6, "needs two members"),
        (("spellings:", "family: again\nspellings:"), 3, "duplicate key 'family', first on line 1"),
    ],
)
def test_mistakes_in_a_file_are_told_with_their_line(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    assert change[0] in FAMILY
    path = tmp_path / "mine.yaml"
    path.write_text(FAMILY.replace(*change))
    with pytest.raises(RecipeError, match=said) as caught:
        load_family(path)
    assert caught.value.file == f"{path}:{line}"
