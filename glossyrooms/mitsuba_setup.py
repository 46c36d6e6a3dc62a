"""Getting mitsuba and the denoiser going, or saying what to install; both are imported only here.

mitsuba's fast variant compiles its kernels with the machine's LLVM. One that it takes but cannot work with raises no
exception, it ends the process: LLVM 15, which Debian 12's OpenGL drivers bring, and 16 are accepted and then abort with
"LLVM ERROR: Cannot select" in the first kernel of a rendering. So another process tries it first.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from d3d.errors import ConfigError, DataError, unknown
from d3d.progress import say

FAST, SLOW = "llvm_ad_rgb", "scalar_rgb"
# Which variant "auto" means. Written once it is known, so that worker processes need not try again; who sets it
# beforehand chooses.
VARIANT_VARIABLE = "D3D_MITSUBA_VARIANT"
INSTALL = 'pip install -e ".[rooms]" -c constraints.txt, or: make setup'

Denoise = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_QUALITIES = {name: f"OIDN_QUALITY_{name.upper()}" for name in ("fast", "balanced", "high")}

# A rendering, however small: LLVM 15 still adds up numbers (seen with drjit 1.5.0)
_TRIAL = f"""
import mitsuba as mi
mi.set_variant("{FAST}")
scene = mi.cornell_box()
scene["sensor"]["film"].update(width=4, height=4)
assert mi.render(mi.load_dict(scene), spp=1).numpy().mean() > 0
"""
_TRIAL_LIMIT_S = 120.0  # it takes half a second; a machine may be busy


def load_mitsuba(variant: str = "auto", threads: int | None = None) -> ModuleType:
    """mitsuba with its variant set.

    Args:
        variant: "auto" is llvm_ad_rgb where the machine's LLVM can do it, else scalar_rgb (said in a line, with what to
            install). The environment variable D3D_MITSUBA_VARIANT decides what "auto" is without a trial.
            Any other name is a variant of mitsuba's.
        threads: how many threads mitsuba may use in this process; None leaves it at one a core. Worker processes
            side by side want one each.

    Raises:
        ConfigError: mitsuba is not installed or does not load; the variant is unknown, or needs an LLVM that does
            not work.
    """
    _name_llvm()
    try:
        import drjit
        import mitsuba
    except ModuleNotFoundError as error:
        raise ConfigError(f"rendering rooms needs mitsuba ({error}). Install it: {INSTALL}.") from error
    except ImportError as error:
        raise ConfigError(
            f"mitsuba is installed but does not load: {error}. If that names libatomic.so.1: "
            f"apt-get install libatomic1; else install it again: {INSTALL}."
        ) from error
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}: mitsuba needs at least 1, or None for one a core.")

    asked = os.environ.get(VARIANT_VARIABLE, variant) if variant == "auto" else variant
    if asked != "auto" and asked not in mitsuba.variants():
        raise unknown("mitsuba variant", asked, mitsuba.variants())
    if asked == "auto":
        problem = llvm_problem()
        if problem:
            say(
                f"mitsuba cannot use this machine's LLVM ({problem}): rendering with {SLOW}, which is slower. "
                + _remedy()
            )
        asked = os.environ[VARIANT_VARIABLE] = SLOW if problem else FAST
    elif (
        asked.startswith("llvm") and os.environ.get(VARIANT_VARIABLE) != FAST and (problem := llvm_problem())
    ):
        raise ConfigError(
            f"mitsuba's variant {asked} cannot use this machine's LLVM ({problem}). {_remedy()}"
        )

    mitsuba.set_variant(asked)
    if threads is not None:
        drjit.set_thread_count(threads)
    return mitsuba


@functools.cache
def llvm_problem() -> str:
    """Why mitsuba cannot render with this machine's LLVM, "" if it can; tried in another process (half a second)."""
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL], capture_output=True, text=True, timeout=_TRIAL_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"a rendering of 4x4 pixels took more than {_TRIAL_LIMIT_S:.0f} s"
    if trial.returncode == 0:
        return ""
    # An abort prints the whole kernel; what it was comes first, or, from Python, last
    lines = [line.strip() for line in trial.stderr.splitlines() if line.strip()]
    named = [line for line in lines if "LLVM ERROR" in line or "too old" in line or "Unable to load" in line]
    said = (named[:1] or lines[-1:] or [""])[0]
    how = f"signal {-trial.returncode}" if trial.returncode < 0 else f"exit status {trial.returncode}"
    return f"{how}: {said[:200].rstrip(' .!')}"


def _name_llvm() -> None:
    """Point mitsuba to an LLVM where it does not look: a conda environment's own, or Fedora's folder."""
    if os.environ.get("DRJIT_LIBLLVM_PATH"):
        return
    for folder in (Path(sys.prefix) / "lib", Path("/usr/lib64")):
        versions = {
            int(found[1]): path
            for path in folder.glob("libLLVM*.so*")
            if (found := re.match(r"libLLVM(?:-|\.so\.)(\d+)", path.name))
        }
        if versions:
            os.environ["DRJIT_LIBLLVM_PATH"] = str(versions[max(versions)])
            return


def _remedy() -> str:
    path = os.environ.get("DRJIT_LIBLLVM_PATH")
    if path:
        return f"DRJIT_LIBLLVM_PATH is {path}: let it name the libLLVM.so of LLVM 19, which is tested, or unset it."
    return (
        "Install LLVM 19, which is tested (on Debian: apt-get install libllvm19), or let the environment variable "
        "DRJIT_LIBLLVM_PATH name its libLLVM.so."
    )


def load_denoiser(threads: int = 1, clean_guides: bool = True, quality: str = "high") -> Denoise:
    """A function that takes the noise out of a path-traced picture, with Open Image Denoise on the CPU.

    The function keeps device, filter and images between calls and is for one thread at a time. The same input gives the
    same bits, whatever was denoised before; another processor may round otherwise.

    Args:
        threads: how many threads it may use. They are not tied to cores: worker processes side by side would all
            be tied to the same ones.
        clean_guides: whether albedo and normals are free of noise themselves, as first hits on textures are; edges in
            them then stay as they are.
        quality: "high", "balanced" or "fast". For 192x144 pixels .17, .07 and .04 s of one core of a CPU with AVX-512.

    Returns:
        denoise(color_hw3, albedo_hw3, normal_hw3) -> float32 (h, w, 3). All three are (h, w, 3): color linear and
        not negative, without an upper limit; albedo in 0..1; normals in -1..1 of one frame for the whole picture.

    Raises:
        ConfigError: pyoidn is not installed or does not load. The function raises DataError for images that do not
            fit each other or are not finite.
    """
    if threads < 1:
        raise ConfigError(f"threads is {threads}: the denoiser needs at least 1.")
    if quality not in _QUALITIES:
        raise unknown("quality of the denoiser", quality, _QUALITIES)
    try:
        import pyoidn

        device = pyoidn.Device(pyoidn.OIDN_DEVICE_TYPE_CPU)
    except ModuleNotFoundError as error:
        raise ConfigError(f"denoising rooms needs pyoidn ({error}). Install it: {INSTALL}.") from error
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"pyoidn is installed but does not load: {error}. Install it again: {INSTALL}."
        ) from error
    device.set_int("numThreads", threads)
    device.set_bool("setAffinity", False)
    device.commit()
    if problem := device.get_error():
        raise ConfigError(f"Open Image Denoise does not run on this machine: {problem}")

    denoiser = pyoidn.Filter(device, pyoidn.OIDN_FILTER_TYPE_RT)
    denoiser.set_bool("hdr", True)
    denoiser.set_bool("cleanAux", clean_guides)
    denoiser.set_quality(getattr(pyoidn, _QUALITIES[quality]))
    images: dict[str, np.ndarray] = {}

    def denoise(color_hw3: np.ndarray, albedo_hw3: np.ndarray, normal_hw3: np.ndarray) -> np.ndarray:
        given = {"color": color_hw3, "albedo": albedo_hw3, "normal": normal_hw3}
        shape = np.shape(color_hw3)
        for name, image in given.items():
            if np.ndim(image) != 3 or np.shape(image) != (*shape[:2], 3) or 0 in shape:
                raise DataError(
                    f"{name} is {np.shape(image)}: the denoiser takes three images (h, w, 3) of one size."
                )
            if not np.isfinite(image).all():
                raise DataError(
                    f"{name} holds {np.sum(~np.isfinite(image))} values that are not finite: nothing to denoise from."
                )
        if not images or images["color"].shape != shape:
            # The filter keeps pointers into these arrays: they live as long as it does
            images.update({name: np.empty(shape, np.float32) for name in (*given, "output")})
            for name, image in images.items():
                denoiser.set_image(name, image, pyoidn.OIDN_FORMAT_FLOAT3)
            denoiser.commit()
        for name, image in given.items():
            images[name][:] = image
        denoiser.execute()
        if problem := device.get_error():
            raise DataError(f"Open Image Denoise failed on images {shape}: {problem}")
        return images["output"].copy()

    return denoise
