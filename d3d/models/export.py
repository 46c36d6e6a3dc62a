"""Export a network to a file for other programs: ONNX, or .pt2 of torch.export. The depth of the file is checked.

Both formats map images (batch, 3, height, width), float32 RGB in [0, 1], to depth (batch, 1, height, width) in metres.
The size of the images is fixed, the batch is not.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from d3d.errors import ConfigError, DataError, unknown
from d3d.geometry import disp_to_depth
from d3d.io import atomic
from d3d.models.base import DepthNetwork, check_size
from d3d.models.hub import digest

TOLERANCE = 1e-3  # largest relative difference of depth
Run = Callable[[Tensor], Tensor]


class _Depth(nn.Module):
    """A module that maps an image to depth in metres."""

    def __init__(self, network: DepthNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        disp = self.network(image, scales=(0,))[0]
        return disp_to_depth(disp, self.network.min_depth, self.network.max_depth)


def _write_onnx(program: ExportedProgram, about: dict[str, str], path: Path) -> None:
    import onnx

    names = {"input_names": ["image"], "output_names": ["depth"]}
    # not optimised: this takes minutes for MonoViT, and onnxruntime optimises the file when it opens it
    torch.onnx.export(program, f=path, external_data=False, verbose=False, optimize=False, **names)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, about)
    onnx.save(model, path)


def _run_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _write_pt2(program: ExportedProgram, about: dict[str, str], path: Path) -> None:
    torch.export.save(program, path, extra_files={"about.json": json.dumps(about)})


def _run_pt2(path: Path) -> Run:
    return torch.export.load(path).module()


# format and suffix -> function to write a program, function to read it, packages
FORMATS = {
    "onnx": (_write_onnx, _run_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "pt2": (_write_pt2, _run_pt2, ()),
}


def export(
    model: DepthNetwork,
    path: str | Path,
    format: str = "onnx",
    size_hw: tuple[int, int] | None = None,
    name: str = "",
) -> float:
    """Export a network as a function from images to depth, and compare its depth with the depth of the network.

    Args:
        model: network to export.
        path: file that ends in the suffix of the format. It is only written if the depth agrees.
        format: one of `FORMATS`.
        size_hw: height and width of the images; by default the size of the training.
        name: name of the network, for the metadata.

    Returns:
        The largest relative difference of depth.

    Raises:
        ConfigError: the format is unknown, the suffix differs, or a package is missing.
        DataError: the size is unknown or does not fit the network, or the depth differs by more than `TOLERANCE`.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    path = Path(path)
    if path.suffix != f".{format}":
        raise ConfigError(f"the name of a file of format {format} must end in .{format}, not {path.name!r}.")
    size_hw = size_hw or model.train_size
    if size_hw is None:
        raise DataError("the size of this network's training is unknown: give height and width.")
    check_size(*size_hw)
    write, read, packages = FORMATS[format]
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise ConfigError(f"format {format} needs {', '.join(missing)}: pip install 'd3d[export]'.")
    depth = _Depth(model.cpu().float().eval()).eval()
    with torch.no_grad(), atomic(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn about themselves; the file is checked below
            write(_program(depth, size_hw), _about(model, size_hw, name), temporary)
        run, differences = read(temporary), []
        for batch in (1, 3):  # the program was made with another batch size
            image = _example(batch, size_hw)
            wanted, found = depth(image), run(image)
            differences.append(((found - wanted) / wanted).abs().max())
        difference = float(torch.stack(differences).max())  # NaN if a difference is NaN
        if not difference <= TOLERANCE:
            raise DataError(
                f"{path} was not written: its relative difference to the depth of the network is {difference:.2g}."
            )
    return difference


def _program(depth: nn.Module, size_hw: tuple[int, int]) -> ExportedProgram:
    return torch.export.export(depth, (_example(2, size_hw),), dynamic_shapes=({0: Dim("batch")},))


def _example(batch: int, size_hw: tuple[int, int]) -> Tensor:
    """Make smooth random images (photographs are smooth, too)."""
    coarse = torch.rand(
        batch, 3, *(size // 16 for size in size_hw), generator=torch.Generator().manual_seed(0)
    )
    return F.interpolate(coarse, size_hw, mode="bilinear", align_corners=False)


def _about(model: DepthNetwork, size_hw: tuple[int, int], name: str) -> dict[str, str]:
    """Return the metadata of the file; all values are text."""
    return {
        "name": name or model.arch,
        "arch": model.arch,
        "input": "image: RGB in [0, 1], (batch, 3, height, width)",
        "output": "depth: metres along the camera's axis, (batch, 1, height, width)",
        "height": str(size_hw[0]),
        "width": str(size_hw[1]),
        "min_depth_m": repr(model.min_depth),
        "max_depth_m": repr(model.max_depth),
        "train_size_hw": repr(model.train_size),
        "train_focal_px": repr(model.train_focal_px),
        "weights_sha256": digest(model),
    }
