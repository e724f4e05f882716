"""Signatures: what must be there, what must not, how long it is, behind any prefix."""

from __future__ import annotations

import time

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


def test_long_names_and_many_kinds_are_not_looked_at() -> None:
    """No architecture has them, and looking takes the product of names and lengths for every family."""
    assert fold(["a" * 512, "b" * 513, "c." * 5000]) == ["a" * 512]
    names = [f"k{number:06}.w" for number in range(25_000)]
    assert fold(names) == names[:20_000]
    # Indexes are no kinds: a model of any number of blocks and experts is looked at whole.
    experts = [f"layers.{i}.experts.{j}.w" for i in range(100) for j in range(300)]
    assert len(fold(experts)) == 100


class Counted:
    """Stands for a compiled expression, and counts how often it is tried."""

    def __init__(self, regex: object) -> None:
        self.regex = regex
        self.tried = 0

    def match(self, *args: object) -> object:
        self.tried += 1
        return self.regex.match(*args)  # type: ignore[attr-defined]


def test_a_prefix_of_its_own_for_every_tensor_is_tried_a_hundred_times() -> None:
    """Else all names would be looked at for each of ten thousand prefixes: 10**8 of them for one family."""
    signature = Signature(("q.w", "absent.w"))
    names = fold([f"p{number}.q.w" for number in range(10_000)])
    find = signature.__dict__["_find"] = Counted(signature._find)
    absent = signature.__dict__["_all"] = [Counted(signature._all[0])]
    assert signature.fit_folded(names) is None
    assert find.tried == 10_000
    assert absent[0].tried == 100
    # The model itself is found among others that begin as it does.
    assert signature.fit_folded([*names[:5000], "m.q.w", "m.absent.w"]) == "m."


@pytest.mark.parametrize("glob", ["a.*.b.*.c.*.d", "*a*a*a*a*z", "a.b"])
def test_a_name_is_looked_at_in_time_in_proportion_to_its_length(glob: str) -> None:
    """A thousand names of 512 characters; a quadratic look takes 10**8 steps, a cubic one 10**10 and more."""
    names = sorted({f"{'a.b.c.' * 84}{i:03}" for i in range(1000)})
    began = time.process_time()
    Signature((glob, "absent")).fit_folded(names)
    assert time.process_time() - began < 30  # it takes some hundredths
