"""What mkdocs asks while it builds the site: pages that stand elsewhere in the repository, and links to them.

Each page has one source: what GitHub shows in its folder (formats/README.md, CONTRIBUTING.md ...) is a page
of the site too. Links are written for the repository; here those that lead to such a page, or from one into
``docs``, are made links of the site. A link to another file of the repository is left as its text: the site
has no such page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

__all__ = ["ELSEWHERE", "elsewhere", "on_files", "on_page_markdown", "on_page_read_source", "relinked"]

ROOT = Path(__file__).parents[1]

ELSEWHERE = {
    "BENCHMARKS.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "extend/contributing.md",
    "formats/README.md": "extend/formats.md",
    "tools/MIGRATING.md": "migrating.md",
}
"""Path in the repository -> path of the page in the site."""

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def elsewhere() -> dict[str, str]:
    """The same of every language in which such a page is there: ``README.zh.md`` beside ``README.md``."""
    chinese = {path.replace(".md", ".zh.md"): uri.replace(".md", ".zh.md") for path, uri in ELSEWHERE.items()}
    return {**ELSEWHERE, **{path: uri for path, uri in chinese.items() if (ROOT / path).exists()}}


def relinked(text: str, page: str) -> str:
    """The text of a page with links as the site has them.

    Args:
        text: Markdown, with links as they lead in the repository.
        page: path of the page in the site, in its default language, e.g. ``use/vllm.md``.
    """
    uris = elsewhere()
    homes = {uri: path for path, uri in uris.items()}
    here = homes.get(page, f"docs/{page}")

    def link(match: re.Match[str]) -> str:
        shown, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return match.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        if path in uris:
            path = uris[path]
        elif path.startswith("docs/"):
            path = path.removeprefix("docs/")
        elif (ROOT / path).exists():
            return shown
        else:
            return match.group()  # mkdocs says that it leads nowhere
        return f"[{shown}]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{mark}{anchor})"

    return _LINK.sub(link, text)


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that stand elsewhere; what they hold, :func:`on_page_read_source` says."""
    from mkdocs.structure.files import File

    for uri in elsewhere().values():
        files.append(File(uri, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


on_files.mkdocs_priority = 100  # type: ignore[attr-defined]  # before the languages are told apart


def on_page_read_source(*, page: Any, config: Any) -> str | None:
    """The text of a page that stands elsewhere."""
    homes = {uri: path for path, uri in elsewhere().items()}
    home = homes.get(page.file.src_uri)
    return None if home is None else (ROOT / home).read_text(encoding="utf-8")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Make the links of a page those of the site."""
    return relinked(markdown, re.sub(r"\.zh\.md$", ".md", page.file.src_uri))
