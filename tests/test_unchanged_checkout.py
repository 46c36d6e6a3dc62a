"""The tests have separate folders, and a session that writes into the checkout fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LONGEST
from unchanged_checkout import differences, snapshot

from d3d.pipeline import runs
from d3d.pipeline.config import make_config

TESTS = Path(__file__).parent
CONFTEST = """
from pathlib import Path
from unchanged_checkout import UnchangedCheckout

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(UnchangedCheckout(Path(__file__).parent))
"""


def run_tests(folder: Path, body: str, *options: str) -> subprocess.CompletedProcess:
    """Run a test in a separate checkout that holds a file `kept.txt` and a finished run."""
    (folder / "runs" / "mine").mkdir(parents=True)
    for name in ("kept.txt", "runs/mine/DONE"):
        (folder / name).write_text("before")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(
        f"from pathlib import Path\ndef test_it(tmp_path):\n    here = Path(__file__).parent\n    {body}\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("options", [(), ("-p", "xdist.plugin", "-n", "2")], ids=["one-process", "xdist"])
def test_a_session_that_changes_the_checkout_fails_and_names_the_files(tmp_path, options):
    (tmp_path / "gone.txt").touch()
    body = "(here / 'runs/mine/frames').mkdir(), (here / 'kept.txt').write_text('after'), (here / 'gone.txt').unlink()"
    result = run_tests(tmp_path, body, *options)
    assert result.returncode == 1, result.stdout
    assert "1 passed" in result.stdout
    for said in ("made: runs/mine/frames/", "changed: kept.txt", "removed: gone.txt"):
        assert said in result.stdout


def test_a_session_that_writes_elsewhere_passes(tmp_path):
    result = run_tests(tmp_path / "checkout", "(tmp_path / 'a').write_text('x')")
    assert result.returncode == 0, result.stdout
    assert "checkout has changed" not in result.stdout


def test_a_change_of_the_content_alone_is_seen(tmp_path):
    (tmp_path / "a").write_text("one")
    before = snapshot(tmp_path)
    assert differences(before, snapshot(tmp_path)) == []
    (tmp_path / "a").write_text("two")
    os.utime(tmp_path / "a", ns=(1, before["a"][1] + 1))
    (tmp_path / "__pycache__").mkdir()
    assert differences(before, snapshot(tmp_path)) == ["changed: a"]


def test_runs_and_caches_lie_outside_the_checkout_and_the_home_folder(repo_dir, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    folder = runs.run_folder(make_config(profile="smoke"))
    assert folder.is_relative_to(base)
    inherited = [sys.executable, "-c", "import os; print(os.environ['D3D_RUNS'])"]
    assert Path(subprocess.check_output(inherited, text=True).strip()) == folder.parent
    for name in ("D3D_CACHE", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "IPYTHONDIR"):
        path = Path(os.environ[name])
        assert path.is_dir()
        assert not path.is_relative_to(repo_dir)
        assert not path.is_relative_to(Path.home())


def test_the_files_to_start_with_exist():
    assert [name for name in LONGEST if not (TESTS / f"test_{name}.py").is_file()] == []
