"""What the documents say is so: commands run, what is printed is printed, quoted errors are the code's,
and the Chinese pages say what the English ones do."""

from __future__ import annotations

import ast
import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import make_reference
import pytest
import run_documents
import site_hooks

ROOT = Path(__file__).parents[1]
PAGES = run_documents.pages()
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
ENGLISH = run_documents.originals()
ENGLISH_IDS = [str(page.relative_to(ROOT)) for page in ENGLISH]

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", ENGLISH, ids=ENGLISH_IDS)
def test_every_command_runs(page: Path, tmp_path: Path):
    run_documents.run_page(page, tmp_path / "page")


def said(text: str, tmp_path: Path, monkeypatch, **options) -> str:
    """Run a page of this text; returns what it is afterwards."""
    monkeypatch.setattr(run_documents, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text)
    run_documents.run_page(page, tmp_path / "folder" / "page", **options)
    return page.read_text()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("```sh\ntranscode inspect nothing\n```\n", r"page.md:2: .*ends with 2, not 0"),
        ("\n```sh\n# remark\ntranscode --version\nfalse && true\n```\n", r"page.md:5: .*ends with 1"),
        ("```console\n$ transcode --version\ntranscode, version 9\n```\n", r"prints something else"),
        ("<!-- exit: 2 -->\n```sh\ntranscode --version\n```\n", r"ends with 0, not 2"),
        ("```yaml\nsteps: [{quantise: int8}]\n```\n", r"unknown step"),
        ("```python\nraise ValueError('x')\n```\n", r"page.md:1: ValueError"),
        ("<!-- with: a=nothing -->\n```sh\ntrue\n```\n", r"no kind 'nothing'"),
    ],
)
def test_what_is_not_so_is_told(text, what, tmp_path, monkeypatch):
    with pytest.raises(run_documents.Trouble, match=what):
        said(text, tmp_path, monkeypatch)


def test_what_is_printed_is_written_into_the_page(tmp_path, monkeypatch):
    page = "```console\n$ echo one; echo two; \\\n  echo three\nold\n...\nold\n$ echo four\n```\nend\n"
    new = "```console\n$ echo one; echo two; \\\n  echo three\none\n...\nthree\n$ echo four\nfour\n```\nend\n"
    assert said(page, tmp_path, monkeypatch, update=True) == new
    assert said(new, tmp_path, monkeypatch) == new


def test_times_may_differ(tmp_path, monkeypatch):
    said("```console\n$ echo in 3.1 s '(5.2 MB/s)'\nin 88 s (1 kB/s)\n```\n", tmp_path, monkeypatch)


def test_names_of_the_hub_lie_in_a_cache_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "mine"))
    command = "```sh\ntranscode inspect org/model\n```\n"
    there = f"<!-- with: hf:org/model=wan_t2v -->\n{command}"
    said(f"<!-- exit: 2 -->\n{command}\n{there}", tmp_path, monkeypatch)
    assert os.environ["HF_HUB_CACHE"] == str(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_the_reference_is_current(capsys):
    assert make_reference.main(["--check"]) == 0, capsys.readouterr().err


def test_a_reference_that_is_not_current_is_told(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "docs" / "reference", tmp_path / "reference")
    (tmp_path / "zh.yaml").write_text("Nobody says this.: 没有人这么说。\n")
    page = tmp_path / "reference" / "schemes.md"
    page.write_text(page.read_text().replace("## nvfp4", "## nvfp5"))
    monkeypatch.setattr(make_reference, "ROOT", tmp_path)
    monkeypatch.setattr(make_reference, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(make_reference, "TRANSLATIONS", tmp_path / "zh.yaml")
    assert make_reference.main(["--check"]) == 1
    told = capsys.readouterr().err
    assert "schemes.md is not current" in told
    assert "reference/commands.md is not current" not in told
    assert "no translation of 'Schemes'" in told
    assert "nothing says 'Nobody says this.' any more" in told


def texts() -> list[str]:
    """Every text of the code that is not a docstring, f-strings by their pieces."""
    found: list[str] = []
    for file in (ROOT / "transcode").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                pieces = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                found.append("".join(map(str, pieces)))
    return found


def quoted() -> list[tuple[str, str]]:
    pages = sorted((ROOT / "docs").glob("troubleshooting*.md"))
    return [
        (p.name, t) for p in pages for t in re.findall(r"^### `([^`]+)`", p.read_text("utf-8"), re.MULTILINE)
    ]


def test_errors_that_are_quoted_are_those_of_the_code():
    known = texts()
    assert len(quoted()) > 25
    for page, error in quoted():
        fragments = [fragment.strip() for fragment in error.split("…") if fragment.strip()]
        pattern = re.compile(".*".join(map(re.escape, fragments)))
        assert any(pattern.search(text) for text in known), f"{page}: nothing in transcode says {error!r}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path):
    """Inside the repository; those of the built site are checked by mkdocs, anchors included."""
    for match in _LINK.finditer(page.read_text(encoding="utf-8")):
        path, _, _ = (match[1] or match[2]).partition("#")
        if path and "://" not in path:
            assert (page.parent / path).exists(), f"{page.name}: {path}"


def test_links_are_those_of_the_site():
    text = (
        "[a](../CONTRIBUTING.md#rules) [b](use/vllm.md) [c](../Makefile) [d](https://x.y) [e](#f) [g](h.md)"
    )
    assert site_hooks.relinked(text, "how.md") == (
        "[a](extend/contributing.md#rules) [b](use/vllm.md) c [d](https://x.y) [e](#f) [g](h.md)"
    )
    # a page that stands elsewhere links as it stands in the repository
    assert site_hooks.relinked("[a](docs/reliability.md)", "changelog.md") == "[a](reliability.md)"
    assert site_hooks.relinked("[a](formats/README.md)", "extend/contributing.md") == "[a](formats.md)"
    assert site_hooks.relinked("[a](../formats/README.zh.md#b)", "how.md") == "[a](extend/formats.zh.md#b)"


def test_the_readme_is_one_screen():
    words = len((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert words < 900, words


# Chinese ----------------------------------------------------------------------------------------------------

_REMARK = re.compile(r"(^|\s+)# .*$")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) ", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def kept(text: str) -> dict[str, object]:
    """What a translation of a page has in common with it; remarks in commands and recipes are translated."""
    held = []
    for block in run_documents.blocks(text):
        lines = block.lines
        if block.language in ("sh", "python", "yaml"):
            lines = [_REMARK.sub("", line) for line in lines]
        held.append((block.language, block.notes, lines))
    prose = re.sub(r"<!--.*?-->|<a id=.*?></a>", "", _FENCED.sub("", text))
    targets = [re.sub(r"\.zh\.(md|svg)\b", r".\1", one or two) for one, two in _LINK.findall(prose)]
    plain = _LINK.sub(lambda match: match.group().partition("](")[0], prose)
    return {
        "blocks": held,
        "levels of headings": _HEADING.findall(prose),
        "links": Counter(targets),
        "code": {" ".join(span.split()) for span in _SPAN.findall(plain)},
        "rows of tables": [line.count("|") for line in prose.splitlines() if line.startswith("|")],
        "numbers": set(_NUMBER.findall(_SPAN.sub("", plain))),
    }


def test_every_page_is_in_chinese():
    chinese = {page for page in PAGES if page.name.endswith(".zh.md")}
    assert chinese == {run_documents.translation(page) for page in ENGLISH}


TRANSLATED = [
    *ENGLISH,
    *(page for page in map(ROOT.joinpath, site_hooks.ELSEWHERE) if run_documents.translation(page).exists()),
]


def test_pages_that_stand_elsewhere_are_in_chinese_where_users_need_them():
    names = {str(page.relative_to(ROOT)) for page in TRANSLATED}
    assert {"formats/README.md", "tools/MIGRATING.md"} <= names


@pytest.mark.parametrize("page", TRANSLATED, ids=[str(page.relative_to(ROOT)) for page in TRANSLATED])
def test_the_chinese_page_holds_what_the_english_one_does(page: Path):
    """So what is run, linked and counted of the one is so of the other."""
    chinese = run_documents.translation(page).read_text(encoding="utf-8")
    english = page.read_text(encoding="utf-8")
    mine, theirs = kept(chinese), kept(english)
    for what, value in theirs.items():
        # sentences of the reference are those of docs/zh.yaml, which quote differently
        if page.parent.name != "reference" or what not in ("code", "numbers"):
            assert mine[what] == value, what
    # a page that was copied and not translated; tables are mostly names
    prose = "\n".join(line for line in english.splitlines() if not line.startswith("|"))
    assert len(re.findall("[\u4e00-\u9fff]", chinese)) > 0.03 * len(prose), "is not in Chinese"


PAGE = """# A

See [b](b.md#c), ![d](img/d.svg) and `--flag`: 3 of them.

| a | b |
|---|---|

<!-- exit: 1 -->
```sh
transcode run a b    # remark
```

```console
$ transcode --version
1
```
"""


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("blocks", "run a b", "run a c"),
        ("blocks", "```console\n$ transcode --version\n1", "```console\n$ transcode --version\n2"),
        ("blocks", "exit: 1", "exit: 2"),
        ("levels of headings", "# A", "## A"),
        ("links", "b.md#c", "b.md#d"),
        ("code", "--flag", "--flags"),
        ("rows of tables", "|---|---|", "|---|---|\n| c | d |"),
        ("numbers", "3 of", "4 of"),
    ],
)
def test_a_page_that_drifts_is_noticed(what, old, new):
    assert PAGE.count(old) == 1
    translated = PAGE.replace("b.md", "b.zh.md").replace("d.svg", "d.zh.svg").replace("remark", "\u6ce8")
    assert kept(translated) == kept(PAGE)
    drifted = kept(PAGE.replace(old, new))
    assert [key for key, value in kept(PAGE).items() if drifted[key] != value] == [what]


def test_what_is_printed_is_written_into_the_chinese_page_too(tmp_path, monkeypatch):
    chinese = tmp_path / "page.zh.md"
    chinese.write_text("# \u9875\n\n```sh\ntrue  # \u6ce8\n```\n```console\n$ echo one\nold\n```\n", "utf-8")
    english = "```sh\ntrue  # remark\n```\n```console\n$ echo one\nold\n```\n"
    said(english, tmp_path, monkeypatch, update=True)
    assert chinese.read_text("utf-8") == (
        "# \u9875\n\n```sh\ntrue  # \u6ce8\n```\n```console\n$ echo one\none\n```\n"
    )


PICTURES = sorted(path for path in (ROOT / "docs" / "img").glob("*.svg") if not path.name.endswith(".zh.svg"))


@pytest.mark.parametrize("picture", PICTURES, ids=[path.name for path in PICTURES])
def test_pictures_differ_in_their_words_only(picture: Path):
    def drawn(path: Path) -> list[object]:
        return [
            (element.tag, {key: value for key, value in element.attrib.items() if key != "font-family"})
            for element in ET.parse(path).iter()
        ]

    def phrases(path: Path) -> set[str]:
        return {str(e.text) for e in ET.parse(path).iter() if e.tag.endswith(("}text", "}title"))}

    chinese = picture.with_name(f"{picture.stem}.zh.svg")
    assert drawn(chinese) == drawn(picture)
    assert not {text for text in phrases(chinese) & phrases(picture) if " " in text}
