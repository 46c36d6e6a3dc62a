"""The documents: links lead somewhere, the README shows what it says, the site has every module.

tests/test_site.py builds the site.
"""

from __future__ import annotations

import itertools
import re
import shutil
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pytest
import yaml
from helpers import REPO, load_script
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors.index import slugify
from PIL import Image
from test_architecture import modules

from d3d import tables
from d3d.commands import COMMANDS

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "data/**/*.md", "results/*.md", "notebooks/[0-9]*.ipynb")
    for path in REPO.glob(pattern)
)
# A code host resolves these addresses of a README itself
OF_THE_HOST = "../../actions/workflows/"


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


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
        for opening, inline in itertools.pairwise(tokens)
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


# --- workflows of the code host ---------------------------------------------------------------------------

WORKFLOWS = sorted((REPO / ".github" / "workflows").glob("*.yml"))


def commands_of(workflow: dict) -> list[str]:
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [line.strip() for step in steps for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_calls_commands_that_exist_and_is_pinned(path: Path) -> None:
    # YAML 1.1 reads the key "on" as true
    workflow = yaml.safe_load(path.read_text())
    assert {"name", True, "permissions", "jobs"} <= set(workflow)
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert "run" in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]), step
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for command in commands_of(workflow):
        first, *words = command.split()
        if first == "make":
            assert set(words) <= targets, command
        elif first == "python":
            assert (REPO / words[0]).is_file(), command
        else:
            assert first == "sudo" or (REPO / first).is_file(), command


def test_the_workflows_run_what_ci_runs_on_every_python_and_publish_the_site(project: dict) -> None:
    ci, site = (
        yaml.safe_load((REPO / ".github" / "workflows" / f"{n}.yml").read_text()) for n in ("ci", "docs")
    )
    assert ".ci/run" in commands_of(ci)
    pythons = ci["jobs"]["test"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert pythons == named
    assert "make docs" in commands_of(site)
    (upload,) = [s for s in site["jobs"]["build"]["steps"] if "upload-pages-artifact" in s.get("uses", "")]
    assert upload["with"]["path"] == "build/site"
    assert " . build/site" in (REPO / "Makefile").read_text()


# --- the README -------------------------------------------------------------------------------------------


def fenced(language: str) -> str:
    """The first block of code of a language in the README."""
    tokens = MarkdownIt("commonmark").parse((REPO / "README.md").read_text())
    return next(t.content for t in tokens if t.type == "fence" and t.info == language)


@pytest.mark.parametrize("name", tables.pages.PAGES)
def test_the_tables_of_a_page_are_those_of_the_stored_scores(name: str, tmp_path: Path) -> None:
    text = (REPO / name).read_text()
    folders = {folder for _, folder in tables.MARKER.findall(text)}
    # the block "rivals" also reads the results of other losses
    others = {p.name for folder in folders for p in (REPO / "results").glob(f"{folder}-*")}
    for folder in folders | others:
        tables.write_tables(tables.read(REPO / "results" / folder), tmp_path / folder / "tables")
        for path in (REPO / "results" / folder / "tables").iterdir():
            assert path.read_text() == (tmp_path / folder / "tables" / path.name).read_text(), path
    assert tables.page_with_blocks(REPO / name, tmp_path) == text, (
        "run `python -m d3d tables --profile laptop --stored --readme`"
    )


def test_the_lines_of_the_readme_write_a_depth_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(REPO / "docs" / "room.jpg", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(fenced("python"), names)
    depth = names["depth"]
    assert depth.shape == (144, 192)
    assert 0.5 < depth.min() < depth.max() < 8
    with Image.open(tmp_path / "depth.png") as picture:
        assert picture.size == (192, 144)


def test_the_picture_of_the_readme_can_be_drawn_again(tmp_path: Path) -> None:
    script = load_script("before_after")
    errors = script.draw(tmp_path / "picture.png")
    assert errors["monodepth2-selfsupervised"] > 1.5  # metres: the window lies below the floor
    assert abs(errors["monodepth2-distilled"]) < 0.1
    with (
        Image.open(tmp_path / "picture.png") as drawn,
        Image.open(REPO / "docs" / "before_after.png") as kept,
    ):
        assert drawn.size == kept.size
        difference = np.abs(np.asarray(drawn.convert("RGB"), float) - np.asarray(kept.convert("RGB"), float))
    assert difference.mean() < 2  # of 255
    with zipfile.ZipFile(REPO / "data" / "glossyrooms" / script.SPLIT / f"{script.ROOM}.zip") as room:
        assert room.read(f"color/{script.FRAME}.jpg") == (REPO / "docs" / "room.jpg").read_bytes()


def test_the_readme_cites_as_the_citation_file_does(project: dict) -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    entries = fenced("bibtex")
    field = re.compile(r"^ +(\w+) += \{(.*)\},?$", re.MULTILINE)
    of_paper, of_d3d = (dict(field.findall(entry)) for entry in entries.split("@")[1:])
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert (of_paper["title"], of_paper["doi"]) == (paper["title"], paper["doi"])
    assert of_paper["author"] == authors
    assert of_paper["year"] == str(paper["year"])
    assert of_d3d["title"] == citation["title"]
    assert of_d3d["version"] == citation["version"] == project["version"]


def test_the_readme_is_short() -> None:
    text = (REPO / "README.md").read_text()
    prose = re.sub(r"<!-- \w+ \S+:begin -->.*?:end -->", "", text, flags=re.DOTALL)
    prose = prose.replace(fenced("bibtex"), "")
    assert len(prose.split()) <= 850


def test_every_box_of_the_pipeline_leads_to_a_notebook() -> None:
    text = (REPO / "docs" / "pipeline.svg").read_text()
    targets = re.findall(r'<a href="([^"]*)"', text)
    assert len(targets) == text.count('class="pipeline-box"')
    for target in targets:
        assert (REPO / "docs" / target).with_suffix(".ipynb").is_file(), target


# --- pages ------------------------------------------------------------------------------------------------


def test_the_page_of_the_commands_has_all_of_them() -> None:
    text = (REPO / "docs" / "commands.md").read_text()
    assert {name for name in COMMANDS if not re.search(rf"`{name}\b", text)} == set()
    assert set(re.findall(r"^\| `([a-z]+) ", text, re.MULTILINE)) <= set(COMMANDS)


def test_the_page_of_the_notebooks_has_all_of_them() -> None:
    text = (REPO / "docs" / "tutorials.md").read_text()
    named = re.findall(r"^\| \[(\w+)\]\(\.\./notebooks/\1\.ipynb\) ", text, re.MULTILINE)
    assert named == sorted(path.stem for path in (REPO / "notebooks").glob("[0-9]*.py"))
