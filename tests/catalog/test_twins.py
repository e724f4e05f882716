"""Names of two models that take turns."""

import pytest

from transcode.catalog.twins import NOISES, arrangements, noise_of, pairs_of


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["transformer", "transformer_2", "vae"], [("transformer", "transformer_2")]),
        (["low_noise_model", "high_noise_model"], [("high_noise_model", "low_noise_model")]),
        (["HighNoise", "LowNoise"], [("HighNoise", "LowNoise")]),
        (["wan_HIGH_fp8", "wan_LOW_fp8"], [("wan_HIGH_fp8", "wan_LOW_fp8")]),
        (
            ["a_high_noise_fp8", "a_low_noise_fp8", "a_high_noise_fp16"],
            [("a_high_noise_fp8", "a_low_noise_fp8")],
        ),
        (["a_high_noise_fp8", "a_low_noise_fp16"], []),
        (["highway", "lowway", "transformer"], []),
    ],
)
def test_pairs_are_alike_but_for_their_noise(names, pairs):
    assert [tuple(pair[noise] for noise in NOISES) for pair in pairs_of(names)] == pairs


def test_of_one_name_alone_only_noise_tells():
    assert noise_of("wan2.2_4steps_high_noise.safetensors") == "high"
    assert noise_of("Wan22-LowNoise") == "low"
    assert noise_of("high_quality.safetensors") is None
    assert noise_of("high_noise_and_low_noise") is None


def test_arrangements_are_chosen_by_spelling_and_convention():
    def chosen(spelling, convention):
        return next(one for one in arrangements() if one.fits(spelling, convention)).names["low"]

    assert chosen("diffusers", "comfyui") == "transformer_2"
    assert chosen("lightx2v", "comfyui") == "{stem}_low_noise"
    assert chosen("lightx2v", "lightx2v") == "low_noise_model"
