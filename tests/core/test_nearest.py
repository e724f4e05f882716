"""One comparison finds what a misspelled name may mean."""

from __future__ import annotations

import difflib

import pytest

from transcode.core.nearest import alike, guess, nearest


@pytest.mark.parametrize(
    ("said", "known", "meant"),
    [
        ("INT8", ["int8", "fp8"], ["int8"]),  # case alone
        ("quantise", ["rename", "quantize", "dequantize"], ["quantize", "dequantize"]),
        ("wan", ["wan_t5", "wan_dit", "flux"], ["wan_t5", "wan_dit"]),  # a beginning
        ("compressed-tensors", ["compressed_tensors", "deepseek"], ["compressed_tensors"]),
        ("klingon", ["int8", "fp8"], []),
        ("x", ["xylophone"], []),  # too little to be a beginning
        ("", ["a"], []),
    ],
)
def test_what_may_be_meant(said, known, meant):
    assert alike(said, known) == meant


def test_the_two_ways_to_say_it():
    assert nearest("itn8", ["int8"]) == ", did you mean 'int8'?"
    assert guess("itn8", ["int8"]) == " (did you mean int8?)"
    assert nearest("klingon", ["int8"]) == guess("klingon", ["int8"]) == ""


@pytest.mark.parametrize("name", ["ab" * 99, "x.w", "model.layers.0.self_attn.q_proj.weigth", "a" * 501])
def test_looking_for_similar_names_compares_a_bounded_number_of_characters(name, monkeypatch):
    """A file may hold a million names, and each comparison takes the product of two lengths, or more."""
    given = []
    real = difflib.get_close_matches

    def counted(word, possibilities, *rest):
        possibilities = list(possibilities)
        given.append(sum(len(other) * len(word) for other in possibilities))
        return real(word, possibilities, *rest)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    for count in (1000, 300_000):
        nearest(name, (f"{i:06}{name[6:]}" for i in range(count)))
    assert all(pairs <= 10**7 for pairs in given)  # 300,000 names of 38 characters have 4 * 10**8
    assert bool(given) == (len(name) <= 500)


def test_a_similar_name_is_found_among_many(monkeypatch):
    names = [f"model.layers.{i}.mlp.experts.{j}.down.weight" for i in range(40) for j in range(256)]
    found = nearest("model.layers.0.mlp.experts.3.dwn.weight", names)
    assert "'model.layers.0.mlp.experts.3.down.weight'" in found
    assert (
        nearest("model.norm.wieght", [*names, "model.norm.weight"]) == ", did you mean 'model.norm.weight'?"
    )


def test_one_letter_is_no_slip_for_another():
    names = [f"blocks.{i}.attn.{word}.weight" for i in range(2) for word in ("k", "o", "v", "norm_q")]
    assert not any(".v." in name or ".k." in name for name in alike("blocks.0.attn.q.weight", names))
    assert alike("blocks.0.attn.norm_k.weight", names) == [
        "blocks.0.attn.norm_q.weight",
        "blocks.1.attn.norm_q.weight",
    ]
    assert alike("blocks.0.atn.v.weight", names)[0] == "blocks.0.attn.v.weight"
