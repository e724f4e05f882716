"""The table of names in LoRA files, and mistakes in it."""

import pytest

from transcode.catalog.lora import _suffix, lora_names
from transcode.errors import RecipeError


def test_every_style_has_both_factors_and_no_ending_is_twice():
    names = lora_names()
    endings = [regex.pattern for style in names.styles for regex in style.roles.values()]
    endings += [regex.pattern for regex in (*names.alpha, *names.differences)]
    endings += [regex.pattern for kinds in names.unsupported.values() for regex in kinds]
    assert len(set(endings)) == len(endings)
    assert all({"up", "down"} <= style.roles.keys() for style in names.styles)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("lora: names", "lora: other", r"names\.yaml:\d+: lora: 'other' is not the name of the file"),
        ("down: .lora_A.weight, ", "", r"names\.yaml:\d+: styles\.diffusers_v2: 'down' is missing"),
        ("alpha: [.alpha]", "alpha: .alpha", r"alpha: must be a list"),
        ("retry:", "retry:\n  '(': x", r"retry.*'\(' is not a valid pattern"),
        ("\nprefixes:", "\nprefixs:", r"'prefixes' is missing"),
        ("retry:", "more: 1\nretry:", r"unknown key 'more'"),
    ],
)
def test_mistakes_are_told_with_their_line(own_formats, before, after, told):
    from transcode.catalog.folders import _PACKAGE

    text = (_PACKAGE.parent / "formats" / "lora" / "names.yaml").read_text()
    assert before in text
    (own_formats / "lora").mkdir(parents=True)
    (own_formats / "lora" / "names.yaml").write_text(text.replace(before, after, 1))
    with pytest.raises(RecipeError, match=told):
        lora_names()


def test_vectors_of_pefts_ia3_are_an_adapters_and_a_weight_is_not() -> None:
    names = lora_names()
    assert names.holds("base_model.model.layers.0.q.ia3_l")
    assert not names.holds("layers.0.q.weight")


def test_the_end_of_all_that_an_expression_fits():
    for pattern, end in {
        r"(.+)\.up\.weight": ".up.weight",
        r"(a|b)\.w": ".w",
        r"a|b\.up": "",
        r"x\dabc": "abc",
        r"a\d": "",
        "a[12]": "",
        "ab?": "",
    }.items():
        assert _suffix(pattern) == end
