"""Import the submodules of a package on first use."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable


def submodules(package: str, path: Iterable[str]) -> Callable[[str], object]:
    """Return a ``__getattr__`` that imports the submodules of a package on first use.

    Args:
        package: the package's ``__name__``.
        path: the package's ``__path__``.
    """
    names = {module.name for module in pkgutil.iter_modules(path)}

    def __getattr__(name: str) -> object:
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    __getattr__.names = names
    return __getattr__
