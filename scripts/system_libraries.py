"""Print the Debian packages of the system libraries that open3d, pyrender and mitsuba load and this machine lacks.

With --optional: those that something is slower or untested without, and that some systems do not have; a line
each, with what is lost without it.

Asks the loader itself, not dpkg: a library may come from elsewhere. Standard library only, for it runs
before anything is installed.
"""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import sys

# Each package, and what shows that it is there: any one of these can be loaded.
LIBRARIES = {
    "libgl1": ["libGL.so.1"],
    "libegl1": ["libEGL.so.1"],
    "libgomp1": ["libgomp.so.1"],
    "libxrender1": ["libXrender.so.1"],
    # libEGL.so.1 only dispatches: pyrender needs a driver behind it
    "libegl-mesa0": ["libEGL_mesa.so.0", "libEGL_nvidia.so.0"],
    "libatomic1": ["libatomic.so.1"],
}
# mitsuba compiles its kernels with it, else it renders with its scalar variant. Nothing older: OpenGL's drivers may
# bring LLVM 15, which mitsuba takes and then dies of (glossyrooms/mitsuba_setup.py tries what is there).
LLVM = [f"libLLVM.so.{version}.1" for version in (19, 20, 21, 22)]
# What tests/test_viewer_browser.py starts. Not Ubuntu's chromium-browser: it is a stand-in that asks for a snap
BROWSERS = ["chromium", "google-chrome"]
WITHOUT = {
    "libllvm19": "mitsuba renders rooms with its scalar variant, which is slower; nothing else needs it",
    "chromium": "the test of the viewer in a browser is skipped; nothing else needs it",
}
SOFTWARE_RENDERER = [
    "/usr/lib/*/dri/swrast_dri.so",
    "/usr/lib*/dri/swrast_dri.so",
    "/usr/lib/*/libgallium*.so",
    "/usr/lib*/libgallium*.so",
]


def loads(soname: str) -> bool:
    """Whether the dynamic loader finds the library and all that it needs."""
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


def missing_packages(loads=loads, exists=lambda pattern: bool(glob.glob(pattern))) -> list[str]:
    """Names of the Debian packages to install, none when all is there.

    Args:
        loads: says whether a library can be loaded.
        exists: says whether a file matches a pattern.
    """
    missing = [package for package, sonames in LIBRARIES.items() if not any(map(loads, sonames))]
    if not loads("libEGL_nvidia.so.0") and not any(map(exists, SOFTWARE_RENDERER)):
        missing.append("libgl1-mesa-dri")
    return missing


def missing_optional(loads=loads, finds=shutil.which) -> list[str]:
    """Names of the Debian packages that are not demanded; no LLVM where the user names one.

    Args:
        finds: says where a program is, or None.
    """
    missing = []
    if not os.environ.get("DRJIT_LIBLLVM_PATH") and not any(map(loads, LLVM)):
        missing.append("libllvm19")
    if not any(map(finds, BROWSERS)):
        missing.append("chromium")
    return missing


if __name__ == "__main__":
    if sys.platform == "linux" and "--optional" in sys.argv[1:]:
        for package in missing_optional():
            print(f"{package}: {WITHOUT[package]}")
    elif sys.platform == "linux":
        for package in missing_packages():
            print(package)
