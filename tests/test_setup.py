"""Setup from nothing: the scripts, the two lists of packages, and the cost of importing d3d."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest
import yaml
from helpers import load_script
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from test_architecture import imports

linux = pytest.mark.skipif(sys.platform != "linux", reason="scripts/setup.sh asks for Linux's libraries")


# --- pyproject.toml, constraints.txt, environment.yml ----------------------------------------------------


@pytest.fixture(scope="module")
def project(repo_dir) -> dict:
    return tomllib.loads((repo_dir / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins(repo_dir) -> dict[str, str]:
    lines = (repo_dir / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.fixture(scope="module")
def environment(repo_dir) -> dict:
    return yaml.safe_load((repo_dir / "environment.yml").read_text())


def extras_of_all(project: dict) -> set[str]:
    (everything,) = project["optional-dependencies"]["all"]
    return Requirement(everything).extras


def test_constraints_are_plain_exact_sorted_pins(repo_dir):
    lines = [line for line in (repo_dir / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    odd = [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9-]*==\d[0-9a-z.]*", line)]
    assert odd == []
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))


def test_every_requirement_has_a_pin_that_it_allows(project, pins):
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for extra in extras_of_all(project) for line in extras[extra]]
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in constraints.txt: make constraints"
        assert pins[name] in requirement.specifier, f"{requirement} does not allow {pins[name]}"


def test_every_package_that_is_imported_is_declared(project):
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for extra in extras_of_all(project) for line in extras[extra]]
    # dask[distributed] declares distributed; torch brings triton for a GPU, and mitsuba its own version of drjit
    requirements = [Requirement(line) for line in lines]
    declared = {
        *("triton", "drjit"),
        *(canonicalize_name(r.name) for r in requirements),
        *(e for r in requirements for e in r.extras),
    }
    found = {i.imported.split(".")[0] for i in imports()} - {"d3d", "glossyrooms"} - sys.stdlib_module_names
    of = packages_distributions()
    undeclared = [
        name for name in found if not declared & {canonicalize_name(d) for d in of.get(name, [name])}
    ]
    assert undeclared == []


def test_all_means_every_extra(project):
    assert extras_of_all(project) == set(project["optional-dependencies"]) - {"all"}


def test_conda_list_holds_no_versions_of_its_own(environment, project):
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-c constraints.txt", "-e .[all]"]
    pinned = dict(entry.split("=") for entry in conda if "=" in entry)
    assert set(pinned) == {"python"}
    assert f"{pinned['python']}.0" in SpecifierSet(project["requires-python"])
    assert "pip" in conda


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="constraints.txt is made with Python 3.11")
def test_constraints_cover_all_that_this_environment_needed(repo_dir, pins):
    try:
        ours = version("d3d") and {name: version(name) for name in ("torch", "open3d", "papermill")}
    except PackageNotFoundError as error:
        pytest.skip(f"this environment was not made by make setup: {error}")
    if any(pins[name] != found for name, found in ours.items()):
        pytest.skip(f"this environment was not made from constraints.txt: {ours}")
    constraints = load_script("constraints")
    assert constraints.closure("d3d[all]") == pins


def test_local_builds_cannot_become_constraints(repo_dir):
    constraints = load_script("constraints")
    with pytest.raises(ValueError, match=r"torch==2\.11\.0\+cu130"):
        constraints.render({"torch": "2.11.0+cu130", "numpy": "2.4.6"})


def test_a_package_that_is_not_there_cannot_be_pinned(repo_dir):
    constraints = load_script("constraints")
    with pytest.raises(ValueError, match="you asks for no-such-package>=1, which is not installed"):
        constraints.closure("no-such-package>=1")


# --- scripts/setup.sh, in a copy with a Python whose venv and pip do nothing -----------------------------

FAKE_PYTHON = """\
#!/bin/bash
case "$1 $2" in
"-m venv")
    folder="${{@: -1}}"
    mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" && (cd "$folder" && pwd -P) >"$folder/bin/activate"
    echo venv >>"{log}" ;;
"-m pip")
    [ "$3" = --version ] || {{ echo "$*" >>"{log}"; exit "${{FAKE_PIP_EXIT:-0}}"; }} ;;
*)
    exec "{python}" "$@" ;;
esac
"""
WRONG_PYTHON = """\
#!/bin/bash
[ "$1" = -c ] || echo "Python 3.9.2"
"""


def write_executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


class Sandbox:
    """A copy of the project's setup with its own PATH: `bin/` holds the fake commands."""

    def __init__(self, folder: Path, repo: Path) -> None:
        self.folder = folder / "project"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.stamp = self.folder / ".venv" / ".setup-stamp"
        self.bin.mkdir()
        (self.folder / "scripts").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh", "scripts/system_libraries.py"):
            shutil.copy(repo / name, self.folder / name)
        for name in ("python3.11", "python3.12", "python3"):
            self.fake(name, FAKE_PYTHON.format(log=self.log, python=sys.executable))

    def fake(self, name: str, text: str) -> None:
        write_executable(self.bin / name, text)

    def lack_library(self) -> None:
        """Make libgl1 missing until the fake apt-get has run."""
        installed = self.folder.parent / "installed"
        (self.folder / "scripts" / "system_libraries.py").write_text(
            "import os, sys\n"
            f"if '--optional' not in sys.argv and not os.path.exists({str(installed)!r}): print('libgl1')\n"
        )
        self.fake("apt-get", f'#!/bin/bash\necho "apt-get $*" >>"{self.log}"\ntouch "{installed}"\n')

    def lack_optional(self) -> None:
        """Make libllvm19 and chromium missing; the fake apt-get finds only chromium."""
        (self.folder / "scripts" / "system_libraries.py").write_text(
            "import sys\n"
            "if '--optional' in sys.argv: print('libllvm19: it is slower\\nchromium: a test is skipped')\n"
        )
        self.fake("apt-get", f'#!/bin/bash\necho "apt-get $*" >>"{self.log}"\n[[ "$*" != *llvm* ]]\n')

    def setup(self, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.folder / "scripts" / "setup.sh"],
            env={"PATH": f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """Return the calls of the fake commands since the last call of this method."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def sandbox(tmp_path, repo_dir) -> Sandbox:
    return Sandbox(tmp_path, repo_dir)


NO_SYSTEM_CHECK = {"D3D_NO_SYSTEM_CHECK": "1"}


@linux
def test_setup_installs_once_and_again_only_when_something_changed(sandbox):
    first = sandbox.setup(**NO_SYSTEM_CHECK)
    assert first.returncode == 0, first.stderr
    venv, pip = sandbox.calls()
    assert venv == "venv"
    assert "--constraint constraints.txt --editable .[all]" in pip
    assert "GB" in first.stdout

    again = sandbox.setup(**NO_SYSTEM_CHECK)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert sandbox.calls() == []

    with (sandbox.folder / "constraints.txt").open("a") as file:
        file.write("zzz==1\n")
    assert sandbox.setup(**NO_SYSTEM_CHECK).returncode == 0
    (pip,) = sandbox.calls()
    assert "--constraint constraints.txt" in pip


@linux
def test_a_failed_or_interrupted_setup_is_not_taken_for_whole(sandbox):
    failed = sandbox.setup(FAKE_PIP_EXIT="1", **NO_SYSTEM_CHECK)
    assert failed.returncode != 0
    assert "pip could not install" in failed.stderr
    assert not sandbox.stamp.exists()
    sandbox.calls()

    assert sandbox.setup(**NO_SYSTEM_CHECK).returncode == 0
    assert len(sandbox.calls()) == 1  # pip only: the environment was complete
    assert sandbox.stamp.exists()

    # A failed update removes the old stamp
    (sandbox.folder / "pyproject.toml").open("a").write("\n# changed\n")
    assert sandbox.setup(FAKE_PIP_EXIT="1", **NO_SYSTEM_CHECK).returncode != 0
    assert not sandbox.stamp.exists()


@linux
def test_an_environment_that_was_moved_is_made_anew(sandbox):
    sandbox.setup(**NO_SYSTEM_CHECK)
    sandbox.calls()
    moved = sandbox.folder.with_name("elsewhere")
    sandbox.folder.rename(moved)
    sandbox.folder = moved
    assert sandbox.setup(**NO_SYSTEM_CHECK).returncode == 0
    assert sandbox.calls()[0] == "venv"


@linux
def test_an_unsupported_python_is_named_with_what_to_install(sandbox):
    for name in ("python3.11", "python3.12", "python3"):
        sandbox.fake(name, WRONG_PYTHON)
    result = sandbox.setup(**NO_SYSTEM_CHECK)
    assert result.returncode != 0
    assert "needs Python 3.11 or 3.12" in result.stderr
    assert "Python 3.9.2" in result.stderr
    assert "apt-get install python3" in result.stderr


@linux
def test_a_named_python_is_not_silently_replaced(sandbox):
    sandbox.fake("mine", WRONG_PYTHON)
    result = sandbox.setup(PYTHON="mine", **NO_SYSTEM_CHECK)
    assert result.returncode != 0
    assert "mine, Python 3.9.2" in result.stderr


@linux
def test_python_without_venv_and_a_missing_library_are_one_command_to_type(sandbox):
    no_venv = FAKE_PYTHON.replace("*)", '"-c import ensurepip, venv") exit 1 ;;\n*)', 1)
    for name in ("python3.11", "python3.12", "python3"):
        sandbox.fake(name, no_venv.format(log=sandbox.log, python=sys.executable))
    sandbox.lack_library()
    sandbox.fake("id", "#!/bin/bash\necho 1000\n")
    result = sandbox.setup()
    assert result.returncode != 0
    commands = [line for line in result.stderr.splitlines() if "apt-get" in line]
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert len(commands) == 1
    assert f"install -y --no-install-recommends {here}-venv libgl1" in commands[0]
    assert sandbox.calls() == []


@linux
def test_root_installs_the_missing_library(sandbox):
    sandbox.lack_library()
    sandbox.fake("id", "#!/bin/bash\necho 0\n")
    result = sandbox.setup()
    assert result.returncode == 0, result.stderr
    assert sandbox.calls()[:2] == ["apt-get update", "apt-get install -y --no-install-recommends libgl1"]


@linux
def test_jupyterlab_does_not_ask_to_be_built_anew(sandbox):
    assert sandbox.setup(**NO_SYSTEM_CHECK).returncode == 0
    page_config = sandbox.folder / ".venv" / "etc" / "jupyter" / "labconfig" / "page_config.json"
    assert json.loads(page_config.read_text()) == {"buildAvailable": False, "buildCheck": False}


@linux
def test_a_library_lost_later_is_noticed(sandbox):
    assert sandbox.setup(**NO_SYSTEM_CHECK).returncode == 0
    sandbox.lack_library()
    sandbox.fake("id", "#!/bin/bash\necho 1000\n")
    result = sandbox.setup()
    assert result.returncode != 0
    assert "libgl1" in result.stderr


@linux
@pytest.mark.parametrize("user", ["root", "someone"])
def test_setup_goes_on_without_what_is_not_demanded(sandbox, user):
    sandbox.lack_optional()
    sandbox.fake("id", f"#!/bin/bash\necho {0 if user == 'root' else 1000}\n")
    result = sandbox.setup()
    assert result.returncode == 0, result.stderr
    by_hand = [line for line in result.stdout.splitlines() if "to add it: " in line]
    assert "without libllvm19 it is slower" in result.stdout
    assert "apt-get install -y --no-install-recommends libllvm19" in by_hand[0]
    assert ("su" in by_hand[0]) == (user != "root")
    tried = [call.split()[-1] for call in sandbox.calls() if call.startswith("apt-get install")]
    if user == "root":  # a package that is not found does not prevent the others
        assert tried == ["libllvm19", "chromium"]
        assert len(by_hand) == 1
    else:
        assert tried == []
        assert "without chromium a test is skipped" in result.stdout
    # Printed only when something is installed, not by every make command
    again = sandbox.setup()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_missing_packages_are_told_from_what_loads(repo_dir, monkeypatch):
    libraries = load_script("system_libraries")
    assert libraries.missing_packages(loads=lambda _: True, exists=lambda _: False) == []
    assert libraries.missing_packages(loads=lambda _: False, exists=lambda _: False) == [
        *("libgl1", "libegl1", "libgomp1", "libxrender1", "libegl-mesa0", "libatomic1", "libgl1-mesa-dri")
    ]
    no_nvidia = libraries.missing_packages(loads=lambda name: "nvidia" not in name, exists=lambda _: True)
    assert no_nvidia == []
    assert not libraries.loads("libnosuchlibrary.so.7")

    monkeypatch.delenv("DRJIT_LIBLLVM_PATH", raising=False)

    def missing(loads, finds=lambda name: f"/usr/bin/{name}"):
        return libraries.missing_optional(loads=loads, finds=finds)

    # LLVM 15 of the OpenGL drivers does not count; a version newer than Debian's does
    assert missing(lambda name: name == "libLLVM-15.so.1") == ["libllvm19"]
    assert missing(lambda name: name == "libLLVM.so.21.1") == []
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", "/opt/llvm/lib/libLLVM.so")
    assert missing(lambda _: False) == []
    assert missing(lambda _: True, finds=lambda _: None) == ["chromium"]
    assert missing(lambda _: True, finds={"google-chrome": "/opt/chrome"}.get) == []
    assert set(libraries.WITHOUT) == {"libllvm19", "chromium"}


# --- make and CI -----------------------------------------------------------------------------------------


def dry_make(repo: Path, target: str, *variables: str) -> str:
    ours = {"ROOT", "RUN", "SEED", "ARGS", "DATASET", "PROFILE", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    result = subprocess.run(
        ["make", "--no-print-directory", "-n", target, *variables],
        cwd=repo,
        env={key: value for key, value in os.environ.items() if key not in ours},
        capture_output=True,
        text=True,
        check=True,
    )
    return " ".join(result.stdout.replace("\\\n", " ").split())


def test_make_demo_hands_on_only_what_is_set(repo_dir):
    assert dry_make(repo_dir, "demo").endswith('-m d3d all --profile "demo" --dataset "glossyrooms"')
    given = dry_make(
        repo_dir, "demo", "DATASET=7scenes", "ROOT=a folder", "PROFILE=smoke", "RUN=r1", "SEED=3"
    )
    assert given.endswith('--profile "smoke" --dataset "7scenes" --root "a folder" --run "r1" --seed "3"')


def test_make_room_asks_for_a_capture_before_the_setup(repo_dir):
    made = subprocess.run(
        ["make", "--no-print-directory", "room", "CAPTURE="],
        cwd=repo_dir,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 2
    assert made.stdout == "make room needs CAPTURE=PATH: a video, or a folder (docs/room.md)\n"
    assert dry_make(repo_dir, "room", "CAPTURE=my room").strip().endswith('-m d3d room "my room"')


def test_make_test_runs_the_longest_files_first_and_hands_on_arguments(repo_dir):
    command = dry_make(repo_dir, "test", "ARGS=tests/test_fusion.py -k threshold", "WORKERS=3")
    assert command.endswith(
        "-m pytest -q -n 3 --dist loadfile --no-loadscope-reorder tests/test_fusion.py -k threshold"
    )


def test_make_rooms_renders_the_shipped_set_unless_told_otherwise(repo_dir):
    assert dry_make(repo_dir, "rooms").endswith("-m glossyrooms.make --out data/glossyrooms")
    assert dry_make(repo_dir, "rooms", "ARGS=--out a --train 2").endswith(
        "data/glossyrooms --out a --train 2"
    )


def test_ci_runs_the_readme_s_commands(repo_dir):
    script = repo_dir / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    commands = script.read_text().splitlines()
    assert "make lint" in commands
    assert "make test" in commands


# --- import d3d ------------------------------------------------------------------------------------------

OPTIONAL = [
    "open3d",
    "pyrender",
    "pycolmap",
    "mitsuba",
    "drjit",
    "pyoidn",
    "accelerate",
    "dask",
    "distributed",
]


def run_python(code: str) -> dict:
    """Run code in a fresh interpreter; return its last line of output, which is JSON."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_import_is_fast_and_leaves_the_heavy_packages_alone():
    found = run_python(
        "import json, sys, time, torch\n"
        "start = time.process_time()\n"  # CPU time: the machine may be busy
        "import d3d\n"
        f"print(json.dumps([time.process_time() - start, [m for m in {OPTIONAL} if m in sys.modules]]))"
    )
    seconds, imported = found
    assert imported == []
    assert seconds < 2


def test_every_module_imports_without_the_optional_packages():
    failed = run_python(
        "import importlib, json, pkgutil, sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL}))\n"  # None: importing it raises ImportError
        "import d3d, glossyrooms\n"
        "failed = {}\n"
        "found = [m for p in (d3d, glossyrooms) for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.')]\n"
        "for module in found:\n"
        "    if not module.name.endswith('__main__'):\n"
        "        try: importlib.import_module(module.name)\n"
        "        except ImportError as error: failed[module.name] = repr(error)\n"
        "print(json.dumps(failed))"
    )
    assert failed == {}


def test_notebooks_run_in_the_python_of_this_environment():
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    cell = nbformat.v4.new_code_cell("import sys; print(sys.prefix)")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.execute(notebook, kernel_name="python3", timeout=120)
    assert cell.outputs[0].text.strip() == sys.prefix
