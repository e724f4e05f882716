"""Write the table of models: which family knows each, how it is proven, where others quantize differently.

    python tools/make_models.py    # write docs/guide/models*.md

Read from fixtures/models.yaml (which models), fixtures/families (names and shapes), the catalog, the tests
that make tiny models, and fixtures/skip_lists.yaml. Needs diffusers and transformers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
for place in (ROOT, ROOT / "tools"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import skip_lists  # noqa: E402

__all__ = ["PAGES", "Book", "main", "page"]

PAGES = {"en": "models.md", "zh": "models.zh.md"}
"""In docs/guide: the tables stand between two marks."""

_MARKS = "<!-- models -->\n", "<!-- end of models -->\n"
_LISTS = "<!-- lists -->\n", "<!-- end of lists -->\n"
_ZH = {
    "image": "图像", "video": "视频", "text encoder": "文本编码器", "VAE": "VAE",
    "language model": "语言模型",
    "further": "其他", "model": "模型", "family": "模型族", "spellings": "命名方式", "quantized": "量化",
    "names and shapes": "名称与形状来自", "tiny model": "小模型的类", "names of": "名称同",
}  # fmt: skip
_CHECKOUTS = "tools/check_classes.py"
_TITLES = {"lightx2v": "LightX2V", "comfyui": "convert_to_quant (ComfyUI)", "diffusers": "Diffusers"}


class Book:
    """What the tables are made of.

    Args:
        goldens: what ``tests/catalog/conftest.py`` reads of each file of fixtures/families, by stem.
        facts: those files, as they are, by stem.
        tiny: family -> classes of which tests make tiny models, and their names there.
        own: files whose classes no library has; a tool makes small models of them from checkouts.
    """

    def __init__(
        self,
        goldens: dict[str, Any],
        facts: dict[str, dict[str, Any]],
        tiny: dict[str, set[str]],
        own: frozenset[str] = frozenset(),
    ) -> None:
        self.goldens, self.facts, self.tiny, self.own = goldens, facts, tiny, own
        self._reaches: dict[str, set[str]] = {}
        told = (ROOT / "fixtures" / "models.yaml").read_text("utf-8")
        self.models: dict[str, dict[str, Any]] = yaml.safe_load(told)

    @cached_property
    def compared(self) -> list[tuple[str, skip_lists.Compared]]:
        """Family, and what a program's list says of one of its models; all of them."""
        return [
            (golden.family, one)
            for stem, golden in self.goldens.items()
            for one in skip_lists.compared(stem, golden, self.facts[stem]["source"])
        ]

    def files(self, model: str) -> list[str]:
        """Stems of a model's files, or of those whose names it has.

        Raises:
            KeyError: no model of this name stands in fixtures/models.yaml.
        """
        told = {name: told for kind in self.models.values() for name, told in kind.items()}[model]
        return self.files(told["as"]) if isinstance(told, dict) else told

    def further(self) -> dict[str, list[str]]:
        """Files that no model names, by what they call theirs."""
        told = [told for kind in self.models.values() for told in kind.values() if isinstance(told, list)]
        named = {stem for stems in told for stem in stems}
        others: dict[tuple[str, str], list[str]] = {}
        for stem, golden in self.goldens.items():
            if stem not in named:
                others.setdefault((self.facts[stem]["model"], golden.family), []).append(stem)
        models = [model for model, _ in others]
        return {
            model if models.count(model) == 1 else f"{model}, {family}": stems
            for (model, family), stems in others.items()
        }

    def spellings(self, stems: list[str]) -> list[set[str]]:
        """The spellings that a model converts between: sets of those that become each other, by all names."""
        groups: list[set[str]] = []
        for stem in stems:
            if stem not in self._reaches:
                self._reaches[stem] = {self.goldens[stem].spelling, *self._reached(stem)}
            reach = self._reaches[stem]
            for group in [group for group in groups if group & reach]:
                groups.remove(group)
                reach = reach | group
            groups.append(reach)
        return groups

    def _reached(self, stem: str) -> Iterator[str]:
        from transcode import catalog
        from transcode.catalog.recognise import fold

        golden = self.goldens[stem]
        names = fold(golden.shapes)
        family = catalog.family(golden.family).spelled(golden.spelling)
        facts = _facts(self.facts[stem]["source"])
        for other in family.converts_to():
            for table in family.directions(other):
                holds = not table.conversion.holds or table.conversion.holds_for(facts)
                if holds and all(table.find(name) or table.lacks(name) for name in names):
                    yield other
                    break


def _facts(source: str) -> dict[str, object]:
    """What config.json would say of the class that a fixture is made of."""
    from transformers.models.auto import modeling_auto as auto

    from transcode.stages.facts import ARCHITECTURES

    if "meta-llama" in source:
        return {"model_type": "llama"}
    stated = re.search(r"transformers: (\w+)", source)
    kinds = [
        kind
        for table in (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
        for kind, name in table.items()
        if stated and name == stated[1]
    ]
    known = [kind for kind in kinds if kind in ARCHITECTURES] or kinds  # a class may stand for several
    return {"model_type": known[0], "architecture": ARCHITECTURES.get(known[0])} if known else {}


def tables(book: Book, language: str) -> str:
    """All of them, as Markdown."""

    def word(text: str) -> str:
        return text if language == "en" else _ZH[text]

    parts = []
    for kind, models in book.models.items():
        rows = [_row(book, model, told, word) for model, told in models.items()]
        parts += [f"## {_capital(word(kind))}", _table(_HEADER, rows, word)]
    rows = [[model, *_cells(book, stems)] for model, stems in book.further().items()]
    parts += [f"## {_capital(word('further'))}", _table(_HEADER, rows, word)]
    return "\n\n".join(parts)


_HEADER = ("model", "family", "spellings", "quantized", "names and shapes", "tiny model")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _table(header: tuple[str, ...], rows: list[list[str]], word: Any) -> str:
    lines = [[word(one) for one in header], ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(book: Book, model: str, told: Any, word: Any) -> list[str]:
    if isinstance(told, dict):
        family = book.goldens[book.files(model)[0]].family
        return [model, f"`{family}`", f"{word('names of')} {told['as']}", "", "", ""]
    return [model, *_cells(book, told)]


def _cells(book: Book, stems: list[str]) -> list[str]:
    golden = book.goldens[stems[0]]
    ways = ", ".join(" ↔ ".join(f"`{one}`" for one in sorted(group)) for group in book.spellings(stems))
    sources = dict.fromkeys(_source(book.facts[stem]["source"]) for stem in stems)
    tiny = sorted(book.tiny.get(golden.family, ()))
    if len(tiny) > 1:
        tiny = [name for name in tiny if any(f"`{name}`" in source for source in sources)]
    if book.own & {*stems}:
        tiny.append(_CHECKOUTS)
    return [
        f"`{golden.family}`",
        ways,
        f"{len(golden.quantized)} / {len(golden.shapes)}",
        ", ".join(sources),
        ", ".join(f"`{name}`" for name in tiny),
    ]


def _source(text: str) -> str:
    """Where names are from, without what a page of them all need not say."""
    text = re.split(r"; |, its single|, as it saves|, names as|, on the names|, below", text)[0]
    return re.sub(r"^(diffusers|transformers): (\w+)", r"\1 `\2`", text)


def lists(book: Book, language: str) -> str:
    """Where a program's list and ours differ, and families whose lists are the same."""
    rows: list[list[str]] = []
    same: dict[str, dict[str, None]] = {program: {} for program in skip_lists.PROGRAMS}
    differing: dict[tuple[str, str], str] = {}
    for family, one in book.compared:
        same[one.program][family] = None
        if one.more or one.less:
            differing[one.program, one.entry] = family
    for (program, entry), family in differing.items():
        told = skip_lists.LISTS["differences"][program][entry]
        ways = [
            f"{way}: {', '.join(f'`{pattern}`' for pattern in told[way])}"
            for way in ("more", "less")
            if way in told
        ]
        why = told["why" if language == "en" else "zh"]
        rows.append([_TITLES[program], f"`{family}`", "; ".join(ways), why])
        same[program].pop(family, None)
    alike = [
        [_TITLES[program], ", ".join(f"`{family}`" for family in families)]
        for program, families in same.items()
    ]
    return f"{_bare(2, alike)}\n\n{_bare(4, rows)}"


def _bare(columns: int, rows: list[list[str]]) -> str:
    """A table without words above it."""
    lines = ["|" + " |" * columns, "|" + "---|" * columns, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def page(text: str, book: Book, language: str) -> str:
    """A page with the tables put in."""
    for marks, rows in ((_MARKS, tables(book, language)), (_LISTS, lists(book, language))):
        before, _, rest = text.partition(marks[0])
        _, _, after = rest.partition(marks[1])
        text = f"{before}{marks[0]}\n{rows}\n\n{marks[1]}{after}"
    return text


def book() -> Book:
    """The book of this checkout."""
    import json

    from own_classes import OWN

    from tests.catalog.conftest import _STEMS, FAMILIES, _read
    from tests.stages import test_structure, test_text_encoders, test_unconverted

    tiny: dict[str, set[str]] = {}
    for one in test_structure.TINY.values():
        tiny.setdefault(one.family, set()).add(one.name)
    for family, name in (*(one[:2] for one in test_unconverted.MODELS.values()), test_unconverted.VAE):
        tiny.setdefault(family, set()).add(name)
    for make, family, *_ in test_text_encoders.MODELS.values():
        tiny.setdefault(family, set()).add(type(make()).__name__)
    for family, name in _language_models():
        tiny.setdefault(family, set()).add(name)
    return Book(
        {stem: _read(stem) for stem in _STEMS},
        {stem: json.loads((FAMILIES / f"{stem}.json").read_text("utf-8")) for stem in _STEMS},
        tiny,
        frozenset(own.fixture for own in OWN.values()),
    )


def _language_models() -> Iterator[tuple[str, str]]:
    """Families and classes of transformers of which tests of names, and of GGUF, make random models."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    from tests.stages import test_language_classes as classes
    from tests.stages import test_language_names as names
    from tests.stages import test_llama_header as header

    prefixes = {kind.partition(",")[0] for kind in (*header.MODELS, *header.FURTHER)}
    kinds = {getattr(transformers, f"{prefix}Config").model_type for prefix in prefixes}
    kinds |= {*names.KINDS, *names.OTHERS, *classes.KINDS, *classes.FURTHER, "deepseek_v4"}
    for kind in sorted(kinds):
        for table in (
            auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        ):
            if kind in table:
                yield "deepseek_v4" if kind == "deepseek_v4" else "decoder_llm", table[kind]


def main() -> int:
    """See the module."""
    made = book()
    for language, name in PAGES.items():
        path = ROOT / "docs" / "guide" / name
        path.write_text(page(path.read_text("utf-8"), made, language), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
