"""Print the Debian packages of the system libraries that open3d, pyrender and mitsuba need and this machine lacks.

With --optional: print the missing optional packages, one per line, with the consequence of going without the package.

The script asks the dynamic loader, not dpkg, since a library may come from another source. It uses the standard library
only, since it runs before any package is installed.
"""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import sys

# Package -> libraries; the package is present if any one of them can be loaded
LIBRARIES = {
    "libgl1": ["libGL.so.1"],
    "libegl1": ["libEGL.so.1"],
    "libgomp1": ["libgomp.so.1"],
    "libxrender1": ["libXrender.so.1"],
    # libEGL.so.1 only dispatches calls: pyrender also needs a driver
    "libegl-mesa0": ["libEGL_mesa.so.0", "libEGL_nvidia.so.0"],
    "libatomic1": ["libatomic.so.1"],
}
# mitsuba compiles its kernels with LLVM; without it, mitsuba renders with its scalar variant. Older versions do not
# count: with LLVM 15, which OpenGL drivers may install, mitsuba crashes (glossyrooms/mitsuba_setup.py tries it first).
LLVM = [f"libLLVM.so.{version}.1" for version in (19, 20, 21, 22)]
# Browsers for tests/test_viewer_browser.py. Ubuntu's chromium-browser is only a placeholder for a snap
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
    """Return whether the dynamic loader finds the library and its dependencies."""
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


def missing_packages(loads=loads, exists=lambda pattern: bool(glob.glob(pattern))) -> list[str]:
    """Return the names of the missing Debian packages.

    Args:
        loads: function that tells whether a library can be loaded.
        exists: function that tells whether a file matches a pattern.
    """
    missing = [package for package, sonames in LIBRARIES.items() if not any(map(loads, sonames))]
    if not loads("libEGL_nvidia.so.0") and not any(map(exists, SOFTWARE_RENDERER)):
        missing.append("libgl1-mesa-dri")
    return missing


def missing_optional(loads=loads, finds=shutil.which) -> list[str]:
    """Return the names of the missing optional Debian packages; LLVM is left out if the user names a library.

    Args:
        loads: function that tells whether a library can be loaded.
        finds: function that returns the path of a program, or None.
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
