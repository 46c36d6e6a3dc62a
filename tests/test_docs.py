"""The documents: relative links lead somewhere, and the site has every module.

`make docs` builds the site; it ends with an error where Sphinx warns. .ci/run calls it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from helpers import REPO
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors.index import slugify
from test_architecture import modules

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "data/**/*.md", "results/*.md", "notebooks/[0-9]*.ipynb")
    for path in REPO.glob(pattern)
)
# A code host resolves these addresses of a README itself
OF_THE_HOST = "../../actions/workflows/"


@cache
def markdown_of(path: Path) -> str:
    """The Markdown of a document; of a notebook, that of its text cells."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def links_in(text: str) -> Iterator[str]:
    """Targets of the links and pictures in Markdown, also of those in HTML."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for child in [token, *(token.children or ())]:
            if child.type in ("html_block", "html_inline"):
                yield from re.findall(r'(?:href|src)="([^"]*)"', child.content)
            for name in ("href", "src"):
                if name in child.attrs:
                    yield str(child.attrs[name])


@cache
def anchors_in(path: Path) -> frozenset[str]:
    """The anchors that a code host gives the headings of a document."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown_of(path))
    titles = [
        "".join(part.content for part in inline.children if part.type in ("text", "code_inline"))
        for opening, inline in zip(tokens, tokens[1:], strict=False)
        if opening.type == "heading_open"
    ]
    seen: Counter[str] = Counter()
    found = []
    for slug in map(slugify, titles):
        found.append(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(found)


def broken(path: Path, link: str) -> str:
    """Why a link of a document leads nowhere; "" if it is fine or leads to another site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    if link.startswith(OF_THE_HOST) and path.name == "README.md":
        workflow = REPO / ".github" / "workflows" / link.removeprefix(OF_THE_HOST).split("/")[0]
        return "" if workflow.is_file() else f"{link}: no such workflow"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_relative_to(REPO) or not target.exists():
        return f"{link}: no such file"
    if parts.fragment and parts.fragment not in anchors_in(target):
        return f"{link}: no such heading"
    return ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(REPO).as_posix())
def test_every_relative_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    assert [reason for link in links_in(markdown_of(path)) if (reason := broken(path, link))] == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = '[a](no.md) ![b](docs/no.png) [c](docs/lists.md#no) <a href="no.html">d</a> [e](docs/lists.md#the-file)'
    readme = REPO / "README.md"
    assert [broken(readme, link) for link in links_in(text)] == [
        "no.md: no such file",
        "docs/no.png: no such file",
        "docs/lists.md#no: no such heading",
        "no.html: no such file",
        "",
    ]


def test_every_module_is_on_one_page_of_the_api() -> None:
    text = "\n".join(path.read_text() for path in (REPO / "docs" / "api").glob("*.md"))
    found = Counter(re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE))
    wanted = {name for name in modules() if name.startswith("d3d.")} - {"d3d.__main__", "d3d._lazy"}
    assert set(found) == wanted
    assert [name for name, count in found.items() if count > 1] == []
