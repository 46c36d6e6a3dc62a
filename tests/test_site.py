"""The documentation site, built as `make docs` builds it, and read in a browser without a network.

The browser is Debian's Chromium without a screen.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPO, load_script
from test_setup import dry_make

CHROMIUM = next(filter(None, map(shutil.which, load_script("system_libraries").BROWSERS)), None)
PAGES = (
    "docs/index",
    "docs/method",
    "docs/commands",
    "docs/api/datasets",
    "docs/api/pipeline",
    "notebooks/03_fuse",
)
NOTEBOOKS = sorted(path.stem for path in (REPO / "notebooks").glob("[0-9]*.py"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Any warning of Sphinx is an error here."""
    folder = tmp_path_factory.mktemp("site")
    command = dry_make(REPO, "docs").partition(".venv/bin/python ")[2].partition(" echo ")[0]
    assert "--fail-on-warning" in command
    own = {"build/doctrees": folder / "doctrees", "build/site": folder / "html"}
    words = [str(own.get(word, word)) for word in shlex.split(command)]
    assert str(folder / "html") in words
    built = subprocess.run([sys.executable, *words], cwd=REPO, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_every_notebook_has_a_page_and_a_link_to_the_next(site: Path) -> None:
    assert "docs/index.html" in (site / "index.html").read_text()
    for name, following in zip(NOTEBOOKS, [*NOTEBOOKS[1:], None], strict=True):
        text = (site / "notebooks" / f"{name}.html").read_text()
        assert (
            following is None or f'href="{following}.html"' in text.partition('class="right-next"')[2][:200]
        )


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium; `make setup` installs it where it may")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1300])
def test_pages_fit_a_phone_and_need_no_network(site: Path, browser, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.locator("article h1").count() == 1
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()


def test_the_page_of_the_method_has_its_equations_and_leads_to_notebooks_and_code(
    site: Path, browser
) -> None:
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.goto((site / "docs" / "method.html").as_uri())
    numbers = page.locator(".eqno").all_inner_texts()
    assert [text[:3] for text in numbers] == ["(1)", "(2)", "(3)", "(4)"]
    # drawn, not left as TeX
    boxes = [element.bounding_box() for element in page.locator(".math-block math").all()]
    assert len(boxes) > 8
    assert all(box["width"] > 50 and box["height"] > 10 for box in boxes)
    assert page.get_by_role("link", name="d3d.fusion").get_attribute("href").startswith("api/core.html#")
    page.locator("a", has_text="Three networks").click()
    assert page.title().startswith("01 ")
    page.close()
