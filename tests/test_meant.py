"""What people call a format, a dtype, a spelling or a consumer leads to what stands for it here.

The errors are raised below the command line, so flags, YAML and Python say the same.
"""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import re

import pytest

import transcode as tc
from transcode import catalog, schemes
from transcode.errors import RecipeError
from transcode.schemes.meant import meant

SCHEMES = [
    ("INT8", "did you mean int8"), ("itn8", "did you mean int8"), ("mxfp9", "did you mean mxfp8"), ("FP8", "did you mean fp8"),
    ("fp4", r"no one format.*nvfp4 \(for .*comfyui.*mxfp4 \(for .*svdq_fp4 \(for nunchaku\)"),
    ("fp8_e4m3fn", "E4M3.*say fp8 "), ("float8_e4m3fn", "say fp8 "), ("e5m2", "say fp8 .*:format=e5m2"), ("fp8_scaled", "say fp8 "),
    ("Q4_K_M", "GGUF of several types.*q4_k"), ("IQ4_XS", "did you mean iq4_xs"), ("Q6_K", "did you mean q6_k"), ("Q2_K_S", "GGUF of several"),
    ("Q5_1", "did you mean q5_1"), ("iq1_s", "is decoded, not encoded"), ("UD-Q4_K_XL", "GGUF of several"),
    ("awq", "a convention.*awq.*int4"), ("gptq", "a convention.*gptq.*int4"), ("int4_awq", "AWQ"), ("AWQ", "AWQ"),
    ("bnb", "bitsandbytes"), ("bitsandbytes", "bitsandbytes"), ("w8a8", r"int8 .*or fp8 "),
    ("w4a16", "calibration.*nunchaku convert.*from weights alone: int4"), ("w4a4", "nvfp4"), ("svdquant", "svdq_int4"),
    ("svdq_int4", "transcode nunchaku convert"), ("bf16", r"a dtype.*cast(\('| |: )bf16"), ("FP16", r"a dtype.*cast(\('| |: )fp16"),
    ("float32", r"a dtype.*cast(\('| |: )float32"), ("comfyui", r"a convention.*convention(='| |: )comfyui"), ("klingon", "choose from int8, "),
]  # fmt: skip


@pytest.mark.parametrize(("said", "told"), SCHEMES)
def test_a_scheme_that_is_none(said, told, refused, wan, tmp_path):
    text = refused("run", wan, tmp_path / "o", "--scheme", said, "-n")
    assert re.search(told, text, re.DOTALL)
    with pytest.raises(RecipeError) as caught:
        tc.quantize(said)
    assert re.search(told, str(caught.value), re.DOTALL)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"source: {{path: x}}\nsteps:\n  - quantize: {said!r}\n")
    assert re.search(told, refused("run", "--config", recipe, wan, tmp_path / "o", "-n"), re.DOTALL)


def test_no_name_of_ours_is_taken_for_another():
    for name in schemes.SCHEMES:
        assert schemes.make(name).name == name
        assert meant(name) is None or name == "fp8"


@pytest.mark.parametrize("scheme", [*schemes.SCHEMES, *schemes.CALIBRATED])
def test_what_an_error_points_to_is_there(scheme):
    """Schemes that stand in pointers exist, and are named with the conventions that take them."""
    told = str(schemes.unknown("w4a4", catalog.takers))
    for one in catalog.takers(scheme):
        assert scheme in catalog.convention(one).schemes
        if f" {scheme} (for" in told:
            assert one in told


@pytest.mark.parametrize("scheme", ["int4", "nvfp4", "mxfp6"])
@pytest.mark.parametrize("convention", catalog.conventions())
def test_a_convention_without_the_scheme_says_which_have_it(scheme, convention, refused, wan, tmp_path):
    if scheme in catalog.convention(convention).schemes:
        return
    text = refused("run", wan, tmp_path / "o", "-s", scheme, "--convention", convention, "-n")
    takers = [name for name in catalog.conventions() if name in text.partition(f"for {scheme} pass")[2]]
    assert takers == [
        name
        for name in catalog.conventions()
        if scheme in catalog.convention(name).schemes and name != "gpt_oss"
    ]
    assert f"--convention {takers[0]}" in text


def test_the_default_convention_lacks_it(refused, cli, wan, tmp_path):
    text = refused("run", wan, tmp_path / "o", "-s", "affine", "-n")
    assert "for affine pass --convention mlx or --convention nunchaku_lite or --convention sdnq" in text
    cli("run", wan, tmp_path / "o", "-s", "int4", "-O", "group_size=32", "--convention", "neutral", "-n")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--to", "comfyui"], "comfyui is a convention.*--convention comfyui"),
        (["--to", "diffuser"], r"did you mean diffusers\?"),
        (["--convention", "original"], "original is a spelling.*--to original"),
        (["--convention", "comfy"], r"did you mean comfyui( or comfyui_scaled)?\?"),
        (["--convention", "vllm"], "for vLLM pass --convention compressed_tensors"),
        (["-s", "int8", "--model", "wan_dti"], r"did you mean wan_dit\?"),
        (["-s", "int8", "--model", "wan"], "did you mean wan_t5 or wan_dit or wan_vae or wan_clip"),
        (["--cast", "bf15"], r"did you mean BF16\?"),
        (["--cast", "float31"], r"did you mean float32\?"),
        (["--cast", "fp8"], "fp8 is a scheme.*--scheme fp8"),
        (["--layout", "bychunk"], r"did you mean chunked\?"),
        (["--sheme", "int8"], "--scheme"),
    ],
)  # fmt: skip
def test_other_names_that_are_none(flags, told, refused, wan, tmp_path):
    assert re.search(told, refused("run", wan, tmp_path / "o", *flags, "-n"))


def test_a_layout_in_python():
    with pytest.raises(RecipeError, match=r"did you mean by_block\?"):
        tc.write("out", layout="by_blok")


@pytest.mark.parametrize(
    ("said", "told"),
    [("vllm", "compressed_tensors"), ("vLLM", "compressed_tensors"), ("sglang", "compressed_tensors"),
     ("transformers", "compressed_tensors")],
)  # fmt: skip
def test_a_program_is_no_convention(said, told, refused, wan, tmp_path):
    text = refused("run", wan, tmp_path / "o", "--scheme", "fp8", "--convention", said, "-n")
    assert f"pass --convention {told}" in text


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("--quantize", "--scheme"),
        ("--dtype", "--cast"),
        ("--overwrite", "--force"),
        ("--threads", "--workers"),
    ],
)
def test_an_option_of_other_tools(said, told, refused, wan, tmp_path):
    text = refused("run", wan, tmp_path / "o", said, "x")
    assert f"there is no option {said!r}, did you mean {told!r}?" in text
