"""The table of pipelines is read strictly, and names what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from transcode import catalog
from transcode.catalog.components import component_table
from transcode.catalog.pipelines import pipelines
from transcode.errors import RecipeError


def test_families_and_spellings_are_known_and_prefixes_are_those_of_components() -> None:
    table = component_table()
    for pipeline in pipelines().values():
        for folder, part in pipeline.parts.items():
            family = catalog.family(part.family)
            assert part.spelling is None or part.spelling in family.spellings
            if part.prefix is None:
                assert not folder.startswith("text_encoder")
                continue
            (component, *_) = table.held([f"{part.prefix}a.weight"]).all
            assert component.prefix == part.prefix


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pipelines: {A: {unet: {family: sd1}}}", "'class' is missing"),
        ("pipelines: {A: {unet: {class: B}}}", "'family' is missing"),
        ("pipelines: {A: {unet: {class: B, family: sd1, folder: x}}}", "unknown key 'folder'"),
        ("other: {}", "'pipelines' is missing"),
    ],
)
def test_mistakes(text: str, said: str, own_formats: Path) -> None:
    (own_formats / "foreign").mkdir()
    (own_formats / "foreign" / "pipelines.yaml").write_text(f"foreign: pipelines\n{text}\n")
    with pytest.raises(RecipeError, match=said):
        pipelines()
