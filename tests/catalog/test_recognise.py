"""Signatures: what must be there, what must not, how long it is, behind any prefix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.catalog.recognise import Signature, fold
from transcode.errors import RecipeError

SIGNATURE = Signature(
    all=("blocks.0.attn.q.weight", "head.*.weight"),
    none=("img_emb", "blocks.0.attn.k_img"),
    shapes={"patch.weight": (None, 16, 2)},
)
NAMES = ["blocks.0.attn.q.weight", "blocks.0.attn.k.weight", "head.head.weight", "patch.weight"]


def test_names_that_fit() -> None:
    assert SIGNATURE.fit(NAMES) == ""
    assert SIGNATURE.fit(set(NAMES)) == ""
    assert SIGNATURE.fit([f"model.diffusion_model.{name}" for name in NAMES]) == "model.diffusion_model."


@pytest.mark.parametrize("missing", ["blocks.0.attn.q.weight", "head.head.weight"])
def test_each_of_all_is_needed(missing: str) -> None:
    assert SIGNATURE.fit([name for name in NAMES if name != missing]) is None


@pytest.mark.parametrize("stranger", ["img_emb.proj.weight", "blocks.0.attn.k_img.weight", "img_emb"])
def test_none_of_none_may_be_there(stranger: str) -> None:
    assert SIGNATURE.fit([*NAMES, stranger]) is None
    assert SIGNATURE.fit([*NAMES, f"other.{stranger}"]) == ""  # it is not behind the prefix
    assert SIGNATURE.fit([*NAMES, f"{stranger.split('.')[0]}x.w"]) == ""  # whole components


def test_globs_end_with_a_component() -> None:
    assert Signature(("a.b",)).fit(["a.b.c"]) == ""
    assert Signature(("a.b",)).fit(["a.bc"]) is None
    assert Signature(("a.b",)).fit(["xa.b"]) is None
    assert Signature(("a.*.c",)).fit(["a.x.y.c.d"]) == ""


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((5120, 16, 2), True),
        ((1, 16, 2), True),
        ((5120, 17, 2), False),
        ((16, 2), False),
        ((5120, 16, 2, 1), False),
    ],
)
def test_shapes(shape: tuple[int, ...], fits: bool) -> None:
    shapes = dict.fromkeys(NAMES, (4, 4)) | {"patch.weight": shape}
    assert (SIGNATURE.fit(NAMES, shapes) == "") == fits
    prefixed = {f"m.{name}": value for name, value in shapes.items()}
    assert (SIGNATURE.fit(list(prefixed), prefixed) == "m.") == fits
    # a name that the pattern does not fit is no concern
    assert SIGNATURE.fit(NAMES, {"other.patch.weight": (1,)}) == ""


def test_the_shortest_prefix_of_several_models() -> None:
    both = [*(f"student.{name}" for name in NAMES), *(f"a.{name}" for name in NAMES)]
    assert SIGNATURE.fit(both) == "a."
    assert SIGNATURE.fit([*(f"a.{name}" for name in NAMES), "b.blocks.0.attn.q.weight"]) == "a."


@pytest.mark.parametrize("glob", ["blocks.10.q", "a.123", "00"])
def test_large_indexes_are_not_to_be_relied_on(glob: str) -> None:
    for signature in (
        {"all": (glob,)},
        {"all": ("a",), "none": (glob,)},
        {"all": ("a",), "shapes": {glob: (1,)}},
    ):
        with pytest.raises(RecipeError, match="indexes above 9 cannot be recognised"):
            Signature(**signature)  # type: ignore[arg-type]


def test_mistakes() -> None:
    with pytest.raises(RecipeError, match="needs a pattern that fits"):
        Signature(())
    with pytest.raises(RecipeError, match="never closed"):
        Signature(("a.[",))


def test_fold_by_example() -> None:
    names = [f"blocks.{i}.q" for i in range(60)] + ["fc10.w", "a.10", "10.a", "x.007.y"]
    assert fold(names) == sorted([*(f"blocks.{i}.q" for i in range(10)), "fc10.w", "a.9", "9.a", "x.9.y"])


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b7", "0", "9", "10", "255"]), min_size=1, max_size=4), min_size=1
    )
)
def test_folding_is_of_whole_components(parts: list[list[str]]) -> None:
    names = [".".join(one) for one in parts]
    wanted = {".".join("9" if p.isdigit() and len(p) > 1 else p for p in one) for one in parts}
    assert fold(names) == sorted(wanted)
    assert fold(fold(names)) == fold(names)
