"""mitsuba and the denoiser: messages if a package or LLVM is missing, and the denoiser's result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d3d.errors import ConfigError, DataError
from glossyrooms import make, mitsuba_setup, reference, truth
from glossyrooms.mitsuba_setup import load_denoiser

HEIGHT, WIDTH = 96, 128


def run_python(code: str, **environment: str) -> tuple[subprocess.CompletedProcess, object]:
    """Run code in a fresh interpreter that has not tried a variant; its last line of output is JSON."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("D3D_MITSUBA_VARIANT", "DRJIT_LIBLLVM_PATH")
    }
    result = subprocess.run(
        [sys.executable, "-c", f"import json, os, sys\nfrom glossyrooms.mitsuba_setup import *\n{code}"],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result, json.loads(result.stdout.splitlines()[-1])


# --- mitsuba ---------------------------------------------------------------------------------------------

RENDER = """
mi = load_mitsuba({arguments})
scene = mi.cornell_box()
scene["sensor"]["film"].update(width=4, height=4)
import numpy as np
mean = float(np.mean(mi.render(mi.load_dict(scene), spp=16)))
print(json.dumps([mi.variant(), os.environ.get("D3D_MITSUBA_VARIANT"), mean]))
"""


LOAD_AND_FAIL = """
try:
    load_mitsuba({arguments})
except Exception as error:
    print(json.dumps(type(error).__name__ + ": " + str(error)))
"""


@pytest.mark.parametrize(
    ("call", "module", "named"),
    [
        ("load_mitsuba", "mitsuba", "rendering rooms needs mitsuba"),
        ("load_mitsuba", "drjit", "rendering rooms needs mitsuba"),
        ("load_denoiser", "pyoidn", "denoising rooms needs pyoidn"),
    ],
)
def test_without_the_package_the_error_says_what_to_install(monkeypatch, call, module, named):
    monkeypatch.setitem(sys.modules, module, None)  # importing it raises ModuleNotFoundError
    with pytest.raises(ConfigError, match=named) as caught:
        getattr(mitsuba_setup, call)()
    assert 'pip install -e ".[rooms]" -c constraints.txt' in str(caught.value)
    assert "make setup" in str(caught.value)


@pytest.mark.parametrize("command", [make, truth, reference], ids=lambda module: module.__name__)
def test_a_command_without_mitsuba_ends_with_one_line(monkeypatch, capsys, tmp_path, command):
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    options = {make: ["--out", str(tmp_path / "set")], truth: ["--out", str(tmp_path / "set")], reference: []}
    assert command.main(options[command]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: rendering rooms needs mitsuba")
    assert not (tmp_path / "set").exists()


def test_without_libatomic_the_error_names_its_package(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "drjit":
                raise ImportError("libatomic.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.delitem(sys.modules, "drjit", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ConfigError, match="apt-get install libatomic1"):
        mitsuba_setup.load_mitsuba()


def test_the_trial_s_answer_is_kept_for_child_processes_and_a_bad_one_is_refused():
    pytest.importorskip("mitsuba")
    _, (variant, kept, mean) = run_python(RENDER.format(arguments="threads=1"))
    assert variant == kept
    assert variant in ("llvm_ad_rgb", "scalar_rgb")
    assert mean > 0.05

    no_trial = "import subprocess\nsubprocess.run = None\n"
    _, found = run_python(no_trial + RENDER.format(arguments="threads=1"), D3D_MITSUBA_VARIANT="scalar_rgb")
    assert found[0] == "scalar_rgb"
    # The same picture, up to the noise of 16 paths a pixel
    assert found[2] == pytest.approx(mean, rel=0.2)

    _, message = run_python(
        LOAD_AND_FAIL.format(arguments=""),
        D3D_MITSUBA_VARIANT="scalar_rbg",
    )
    assert "ConfigError" in message
    assert "Did you mean 'scalar_rgb'" in message


def test_an_llvm_that_cannot_be_loaded_is_named_and_the_scalar_variant_taken(tmp_path):
    pytest.importorskip("mitsuba")
    broken = tmp_path / "libLLVM.so"
    broken.write_text("not a library")
    result, found = run_python(RENDER.format(arguments=""), DRJIT_LIBLLVM_PATH=str(broken))
    assert found[:2] == ["scalar_rgb", "scalar_rgb"]
    assert str(broken) in result.stdout
    assert "let it name the libLLVM.so of LLVM 19" in result.stdout

    _, message = run_python(
        LOAD_AND_FAIL.format(arguments="'llvm_ad_rgb'"),
        DRJIT_LIBLLVM_PATH=str(broken),
    )
    assert "ConfigError" in message
    assert "llvm_ad_rgb cannot use this machine's LLVM" in message


def test_an_llvm_that_ends_the_process_does_not_end_ours():
    """With LLVM 15, which the OpenGL drivers of Debian 12 bring; on some processors it may work."""
    pytest.importorskip("mitsuba")
    library = next(Path("/usr/lib").glob("*/libLLVM-15.so.1"), None)
    if library is None:
        pytest.skip("no LLVM 15 on this machine")
    result, (variant, _, mean) = run_python(RENDER.format(arguments=""), DRJIT_LIBLLVM_PATH=str(library))
    assert mean > 0.05
    if variant == "scalar_rgb":
        assert "signal 6: LLVM ERROR" in result.stdout
        assert str(library) in result.stdout


def test_a_trial_that_ends_in_a_signal_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(
        mitsuba_setup,
        "_TRIAL",
        "import os, sys\n"
        "sys.stderr.write('warning\\nLLVM ERROR: Cannot select: x\\n' + 100 * '    y\\n')\n"
        "sys.stderr.flush()\n"
        "os.abort()\n",
    )
    mitsuba_setup.llvm_problem.cache_clear()
    try:
        assert mitsuba_setup.llvm_problem() == "signal 6: LLVM ERROR: Cannot select: x"
    finally:
        mitsuba_setup.llvm_problem.cache_clear()


def test_an_llvm_of_the_environment_itself_is_found_the_newest_first(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "lib").mkdir()
    for name in ("libLLVM-9.so", "libLLVM.so.19.1", "libLLVM-15.so.1", "libLLVMCore.a"):
        (tmp_path / "lib" / name).touch()
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", "")
    mitsuba_setup._name_llvm()
    assert os.environ["DRJIT_LIBLLVM_PATH"] == str(tmp_path / "lib" / "libLLVM.so.19.1")

    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", "/opt/llvm/libLLVM.so")
    mitsuba_setup._name_llvm()
    assert os.environ["DRJIT_LIBLLVM_PATH"] == "/opt/llvm/libLLVM.so"


def test_threads_below_one_are_refused():
    pytest.importorskip("mitsuba")
    with pytest.raises(ConfigError, match="threads is 0"):
        mitsuba_setup.load_mitsuba(threads=0)
    with pytest.raises(ConfigError, match="threads is 0"):
        load_denoiser(threads=0)


# --- the denoiser ----------------------------------------------------------------------------------------


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """color with noise, albedo, normals, color without noise: a lit wall, dark left, light right, all (h, w, 3).

    The light falls off to the bottom and exceeds 1; the noise is that of few paths: positive, as large as the signal.
    """
    albedo = np.full((HEIGHT, WIDTH, 3), 0.2, np.float32)
    albedo[:, WIDTH // 2 :] = (0.8, 0.7, 0.5)
    normal = np.zeros_like(albedo)
    normal[..., 2] = -1
    light = np.linspace(3, 0.5, HEIGHT, dtype=np.float32)[:, None, None]
    clean = albedo * light
    noise = np.random.default_rng(0).gamma(1, 1, clean.shape[:2])[..., None]
    return (clean * noise).astype(np.float32), albedo, normal, clean


def test_noise_goes_and_the_albedo_s_edge_and_the_light_stay(pictures):
    pytest.importorskip("pyoidn")
    color, albedo, normal, clean = pictures
    denoised = load_denoiser()(color, albedo, normal)
    assert denoised.dtype == np.float32
    assert denoised.shape == color.shape

    before, after = ((np.abs(image - clean) / clean).mean() for image in (color, denoised))
    assert before > 0.7  # the noise is as large as the signal
    assert after < 0.1
    edge = slice(WIDTH // 2 - 1, WIDTH // 2 + 1)
    step, true_step = (np.diff(image[:, edge].mean(0), axis=0) for image in (denoised, clean))
    np.testing.assert_allclose(step, true_step, rtol=0.15)
    assert denoised.max() > 1.8  # nothing is clipped at 1


def test_repeated_calls_other_sizes_and_more_threads_give_the_same_bits(pictures):
    pytest.importorskip("pyoidn")
    *given, _ = pictures
    originals = [image.copy() for image in given]
    denoise = load_denoiser()
    first = denoise(*given)
    kept = first.copy()
    small = denoise(*[image[:40, :50] for image in given])  # views: not contiguous
    assert small.shape == (40, 50, 3)
    np.testing.assert_array_equal(denoise(*given), kept)
    np.testing.assert_array_equal(first, kept)  # a result is the caller's: the next call leaves it alone
    np.testing.assert_array_equal(load_denoiser(threads=2)(*given), kept)
    for image, original in zip(given, originals, strict=True):
        np.testing.assert_array_equal(image, original)


def test_images_that_do_not_fit_or_are_not_finite_are_refused(pictures):
    pytest.importorskip("pyoidn")
    color, albedo, normal, _ = pictures
    denoise = load_denoiser(quality="fast")
    with pytest.raises(DataError, match=r"albedo is \(95, 128, 3\)"):
        denoise(color, albedo[1:], normal)
    with pytest.raises(DataError, match=r"color is \(96, 128\)"):
        denoise(color[..., 0], albedo, normal)
    with pytest.raises(DataError, match=r"color is \(0, 128, 3\)"):
        denoise(color[:0], albedo[:0], normal[:0])
    color[3, 4, 1] = np.nan
    with pytest.raises(DataError, match="color holds 1 values that are not finite"):
        denoise(color, albedo, normal)
    with pytest.raises(ConfigError, match=r"'fsat'.*Did you mean 'fast'"):
        load_denoiser(quality="fsat")
