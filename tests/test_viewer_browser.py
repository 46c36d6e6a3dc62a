"""Notebooks 02 and 03 in JupyterLab in a real browser: turn the mesh, move the threshold, see the picture change.

The browser is Debian's Chromium without a screen, drawing WebGL in software. What it asks of any other host than the
local one is refused and fails the test: viewer and mesh must work without a network.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import jupytext
import nbformat
import pytest
from helpers import load_script, notebook_environment
from known_run import known_run

playwright = pytest.importorskip("playwright.sync_api")

REPO = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, load_script("system_libraries").BROWSERS)), None)
TOKEN = "a-token-of-this-test"
SECONDS = 90  # for what a busy machine does slowly

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; `make setup` installs it where it may"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a JupyterLab with notebooks 02 and 03 over a run with known depth. Return its address.

    ``NAME`` in it stands for the notebook's name.
    """
    folder = tmp_path_factory.mktemp("lab")
    known_run(folder / "runs")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (folder / "work").mkdir()
    for name in ("02_project", "03_fuse"):
        notebook = jupytext.read(REPO / "notebooks" / f"{name}.py")
        notebook.metadata["kernelspec"] = kernel
        nbformat.write(notebook, folder / "work" / f"{name}.ipynb")
    settings = folder / "settings" / "@jupyterlab"
    for plugin, values in {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        # every output is in the page, not only those in sight
        "notebook-extension/tracker": {"windowingMode": "none"},
    }.items():
        path = settings / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    # dash, which comes with open3d, makes JupyterLab offer to build itself anew from the network
    page_config = folder / "config" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True)
    page_config.write_text(json.dumps({"buildAvailable": False, "buildCheck": False}))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {
        **notebook_environment(folder / "runs"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        **{f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")},
        "IPYTHONDIR": str(folder / "ipython"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
    command += [
        f"--ServerApp.root_dir={folder / 'work'}",
        "--LabApp.workspaces_dir",
        str(folder / "workspaces"),
    ]
    log = folder / "lab.log"
    with open(log, "wb") as out:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api?token={TOKEN}", server, log)
        # a workspace of its own: in a shared one JupyterLab opens the other notebook, too, whose kernel is idle earlier
        yield f"{address}/lab/workspaces/NAME/tree/NAME.ipynb?token={TOKEN}"
    finally:
        server.terminate()  # it ends its kernels
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    start = time.monotonic()
    while time.monotonic() - start < SECONDS:
        assert server.poll() is None, f"JupyterLab ended:\n{log.read_text()}"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab does not answer:\n{log.read_text()}")


@pytest.fixture
def page(lab: str, request: pytest.FixtureRequest) -> Iterator[playwright.Page]:
    """The notebook that the test names, run from top to bottom by its menu."""
    elsewhere = []

    def only_local(route: playwright.Route) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in ("data", "blob", "about") or url.hostname == "127.0.0.1":
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(SECONDS * 1000)
        page.route("**/*", only_local)
        page.goto(lab.replace("NAME", request.param))
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # JupyterLab loses what is run before
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        yield page
        browser.close()
    assert not elsewhere, "the notebook asked for something on the network"


def wait_for(page: playwright.Page, element: playwright.Locator) -> playwright.Locator:
    """Wait for an element. A failed cell ends the wait with its error."""
    failed = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    element.or_(failed).first.wait_for()
    assert failed.count() == 0, failed.first.inner_text()
    return element


def picture_of(page: playwright.Page) -> str:
    """A digest of the live picture's bytes."""
    encoded = page.evaluate(
        """async () => {
            const image = document.querySelector("img.widget-image");
            const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
            return Array.from(bytes);
        }"""
    )
    return hashlib.sha256(bytes(encoded)).hexdigest()


def wait_until_other(seen, before):
    """Wait until ``seen()`` differs from ``before``. Return the new value."""
    start = time.monotonic()
    while time.monotonic() - start < SECONDS:
        if (now := seen()) != before:
            return now
        time.sleep(0.1)
    raise AssertionError("nothing changed")


def threshold_in_words(page: playwright.Page) -> float:
    text = page.locator(".widget-html [role=status]").inner_text()
    return float(re.search(r"threshold ([\d.]+) m", text)[1])


@pytest.mark.parametrize("page", ["03_fuse"], indirect=True)
def test_the_threshold_is_moved_by_keyboard_and_the_picture_follows(page: playwright.Page) -> None:
    wait_for(page, page.locator("img.widget-image"))
    before, words = picture_of(page), threshold_in_words(page)
    handle = page.locator(".widget-hslider", has_text="threshold").locator(".noUi-handle")
    handle.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    after = wait_until_other(lambda: threshold_in_words(page), words)
    assert after > words
    assert wait_until_other(lambda: picture_of(page), before) != before


@pytest.mark.parametrize("page", ["02_project"], indirect=True)
def test_the_mesh_is_turned_by_mouse_and_by_keyboard(page: playwright.Page) -> None:
    wait_for(page, page.locator("iframe[title^='mesh of']"))
    canvas = page.frame_locator("iframe[title^='mesh of']").locator("canvas")
    canvas.scroll_into_view_if_needed()

    def pixels() -> bytes:
        return canvas.screenshot()

    box = canvas.bounding_box()
    before = pixels()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 150, y + 20, steps=4)
    page.mouse.up()
    dragged = wait_until_other(pixels, before)
    page.keyboard.press("ArrowLeft")
    assert wait_until_other(pixels, dragged) != before
