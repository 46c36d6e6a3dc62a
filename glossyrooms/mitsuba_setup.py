"""Load mitsuba and the denoiser, or name the packages to install. Both packages are imported only here.

mitsuba's fast variant compiles its kernels with the machine's LLVM. LLVM 15 (installed by the OpenGL drivers of Debian
12) and LLVM 16 load without an error, but crash the process at the first rendering ("LLVM ERROR: Cannot select").
Therefore a second process first tests the LLVM with a small rendering.
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
# The variant that "auto" stands for. d3d sets it after the first trial, so that worker processes need no trial. A user
# can set it to choose the variant.
VARIANT_VARIABLE = "D3D_MITSUBA_VARIANT"
INSTALL = 'pip install -e ".[rooms]" -c constraints.txt, or: make setup'

Denoise = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_QUALITIES = {name: f"OIDN_QUALITY_{name.upper()}" for name in ("fast", "balanced", "high")}

# A small rendering: arithmetic alone works with LLVM 15 (seen with drjit 1.5.0)
_TRIAL = f"""
import mitsuba as mi
mi.set_variant("{FAST}")
scene = mi.cornell_box()
scene["sensor"]["film"].update(width=4, height=4)
assert mi.render(mi.load_dict(scene), spp=1).numpy().mean() > 0
"""
_TRIAL_LIMIT_S = 120.0  # the trial takes half a second on an idle machine


def load_mitsuba(variant: str = "auto", threads: int | None = None) -> ModuleType:
    """Import mitsuba and set its variant.

    Args:
        variant: "auto" selects llvm_ad_rgb if the machine's LLVM works, else scalar_rgb with a message that says what
            to install. The environment variable D3D_MITSUBA_VARIANT replaces "auto" without a trial. Any other name
            is a variant of mitsuba.
        threads: number of threads in this process; None uses one per core. Use 1 in each of several worker processes.

    Raises:
        ConfigError: mitsuba is not installed or does not load, or the variant is unknown or needs an LLVM that does
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
    """Test in a second process whether mitsuba renders with this machine's LLVM. Return the reason if not, else ""."""
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL], capture_output=True, text=True, timeout=_TRIAL_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"a rendering of 4x4 pixels took more than {_TRIAL_LIMIT_S:.0f} s"
    if trial.returncode == 0:
        return ""
    # An abort prints the error and then the whole kernel; Python prints its error last
    lines = [line.strip() for line in trial.stderr.splitlines() if line.strip()]
    named = [line for line in lines if "LLVM ERROR" in line or "too old" in line or "Unable to load" in line]
    said = (named[:1] or lines[-1:] or [""])[0]
    how = f"signal {-trial.returncode}" if trial.returncode < 0 else f"exit status {trial.returncode}"
    return f"{how}: {said[:200].rstrip(' .!')}"


def _name_llvm() -> None:
    """Name an LLVM in a folder that mitsuba does not search: that of a conda environment, or Fedora's."""
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
    """Return a function that denoises a path traced image with Open Image Denoise on the CPU.

    The function keeps device, filter and images between calls, and only one thread at a time may call it. The same
    input gives the same bits on one machine; another processor may round differently.

    Args:
        threads: number of threads. They are not bound to cores, since several worker processes would be bound to the
            same cores.
        clean_guides: albedo and normals are free of noise, so the denoiser keeps their edges.
        quality: "high", "balanced" or "fast": 0.17, 0.07 and 0.04 s for 192x144 pixels on one core with AVX-512.

    Returns:
        denoise(color_hw3, albedo_hw3, normal_hw3) -> float32 (h, w, 3). Each image is (h, w, 3): colour is linear, not
        negative and unbounded; albedo is in 0..1; normals are in -1..1, in one frame for the whole image. The function
        raises DataError for images of different sizes or with values that are not finite.

    Raises:
        ConfigError: pyoidn is not installed or does not load.
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
            # The filter keeps pointers into these arrays, so they must live as long as the filter
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
