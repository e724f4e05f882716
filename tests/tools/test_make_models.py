"""The table of models is true: each has names and shapes, and no list of others differs unsaid."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

pytest.importorskip("diffusers", reason="diffusers is not installed")

import make_models
import skip_lists

from transcode import catalog


@pytest.fixture(scope="module")
def book() -> make_models.Book:
    return make_models.book()


def test_every_model_has_files_of_one_family_and_each_file_one_model(book):
    named = []
    for models in book.models.values():
        for model, told in models.items():
            stems = book.files(model)
            assert len({book.goldens[stem].family for stem in stems}) == 1, model
            named += told if isinstance(told, list) else []
    assert len(named) == len(set(named))
    assert {*named, *(stem for stems in book.further().values() for stem in stems)} == book.goldens.keys()


def test_models_of_one_family_are_told_apart_by_names_or_said_to_be_alike(book):
    """Names and shapes of two models are not the same, or one says `as` the other."""
    seen: dict[tuple[str, frozenset[tuple[str, tuple[int, ...]]]], str] = {}
    for stem, golden in book.goldens.items():
        facts = golden.spelling, frozenset(golden.shapes.items())
        assert facts not in seen, (stem, seen.get(facts))
        seen[facts] = stem


@pytest.mark.parametrize("language", make_models.PAGES)
def test_the_page_is_what_the_tool_writes(language, book):
    text = (make_models.ROOT / "docs" / "guide" / make_models.PAGES[language]).read_text("utf-8")
    assert make_models.page(text, book, language) == text


def test_spellings_that_stand_beside_an_arrow_are_those_of_the_catalog(book):
    assert book.spellings(["flux.1_dev"]) == [{"original", "diffusers"}]
    assert book.spellings(["wan2.1_fun_control_14b"]) == [{"lightx2v"}]  # Diffusers has no place for ref_conv
    assert book.spellings(["qwen_image"]) == [{"diffusers"}]
    assert {"gguf", "original"} <= book.spellings(["llama_3_8b"])[0]


def test_no_list_of_others_differs_without_a_reason(book):
    """By LightX2V's converter, convert_to_quant, and Diffusers' classes, over all names; each is needed."""
    needed = {
        (program, entry, way, pattern)
        for program, entries in skip_lists.LISTS["differences"].items()
        for entry, told in entries.items()
        for way in ("more", "less")
        for pattern in told.get(way, ())
    }
    for _, one in book.compared:
        assert not skip_lists.unexplained(one), one.entry
        for program, entry, way, pattern in set(needed):
            if (program, entry) == (one.program, one.entry) and any(
                fnmatchcase(name, pattern) for name in getattr(one, way)
            ):
                needed.discard((program, entry, way, pattern))
    assert not needed
    lists = {(program, entry) for program in ("lightx2v", "comfyui") for entry in skip_lists.LISTS[program]}
    assert lists <= {(one.program, one.entry) for _, one in book.compared}


def test_a_gate_of_ltx_is_kept_for_comfyui_and_quantized_for_lightx2v(book):
    """convert_to_quant --ltxv2 keeps it; LightX2V builds it of the class of quantized layers."""
    for stem in ("ltx_2.3", "ltx_2.3_diffusers"):
        golden = book.goldens[stem]
        family = catalog.family(golden.family).spelled(golden.spelling)
        name = "transformer_blocks.7.attn1.to_gate_logits.weight"
        assert not family.is_target(name, golden.shapes[name], "comfyui")[0]
        assert family.is_target(name, golden.shapes[name], "lightx2v")[0]
