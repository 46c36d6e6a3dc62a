"""Published depth networks of the package transformers, from a local folder: Depth Anything V2, Depth Pro, ZoeDepth.

The package is the extra ``published``. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from d3d import io
from d3d.errors import ConfigError, DataError

# networks whose configuration does not say what they predict, and that predict metres
_METRIC = ("depth_pro", "glpn", "zoedepth")
_NEEDED = ("config.json", "preprocessor_config.json")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class HFFolder:
    """A checked folder of a depth network.

    Attributes:
        kind: model type of transformers, for example "depth_anything".
        holds: "depth" in metres, or "disparity" up to scale and shift.
        why: how ``holds`` is known.
    """

    folder: Path
    kind: str
    holds: str
    why: str

    def identity(self) -> dict[str, Any]:
        """Return the kind of network, and the sha256 of its files."""
        paths = [p for pattern in (*_NEEDED, *_WEIGHTS) for p in sorted(self.folder.glob(pattern))]
        return {"kind": self.kind, "holds": self.holds, "files": {p.name: io.sha256(p) for p in paths}}

    def load(self, device: torch.device) -> HFDepth:
        """Load the network.

        Raises:
            DataError: the weights or the preprocessor cannot be loaded, or weights are missing.
        """
        transformers = _transformers()
        where = {"local_files_only": True}
        try:
            model, found = transformers.AutoModelForDepthEstimation.from_pretrained(
                self.folder, output_loading_info=True, dtype=torch.float32, **where
            )
            processor = transformers.AutoImageProcessor.from_pretrained(self.folder, **where)
        except Exception as error:  # transformers, safetensors and torch raise errors of many kinds
            raise DataError(f"{self.folder}: transformers cannot load the network ({error}).") from error
        # transformers gives random values to missing weights
        if lacking := sorted(found["missing_keys"]):
            more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
            raise DataError(f"{self.folder}: the weights lack {lacking[0]}{more}. Copy the checkpoint again.")
        if not hasattr(processor, "post_process_depth_estimation"):
            name = type(processor).__name__
            raise DataError(
                f"{self.folder}: the preprocessor {name} cannot make depth of a network's output."
            )
        return HFDepth(model.to(device).eval(), processor)


class HFDepth:
    """A depth network of transformers with its preprocessor."""

    def __init__(self, model: torch.nn.Module, processor: Any):
        self.model, self.processor = model, processor

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Predict an image, uint8 (H, W, 3) RGB: float32 (H, W), depth in metres or disparity (`HFFolder.holds`).

        The preprocessor of the checkpoint chooses the size of the network's input, and resizes the output.
        """
        size_hw = image.shape[:2]
        inputs = self.processor(images=Image.fromarray(image), return_tensors="pt")
        post_process = self.processor.post_process_depth_estimation
        sizes = {"target_sizes": [size_hw]}
        if "source_sizes" in inspect.signature(post_process).parameters:  # ZoeDepth removes its padding
            sizes["source_sizes"] = [size_hw]
        with torch.inference_mode():
            outputs = self.model(**inputs.to(next(self.model.parameters()).device))
            result = post_process(outputs, **sizes)[0]["predicted_depth"]
        return result.float().cpu().numpy().reshape(size_hw)


def describe_folder(folder: Path, holds: str = "") -> HFFolder:
    """Check that a folder has a depth network, and find what the network predicts. No weights are loaded.

    Args:
        holds: "depth" or "disparity", if the configuration of the network does not say it.

    Raises:
        ConfigError: ``holds`` is needed, or contradicts the configuration.
        DataError: transformers is not installed; files are missing; or the network is not for depth.
    """
    transformers = _transformers()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with a network. Names of the hub are not looked up.")
    for name in _NEEDED:
        if not (folder / name).is_file():
            raise DataError(
                f"{folder} has no {name}: it is not a checkpoint of transformers. Download all files of the "
                "network's repository into one folder."
            )
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise DataError(f"{folder} has no weights (model.safetensors). Copy the checkpoint again.")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a ValueError for an unknown model, others for a damaged file
        raise DataError(f"{folder}/config.json is not readable by transformers ({error}).") from error
    from transformers.models.auto.modeling_auto import MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES as known

    architectures = config.architectures or [known.get(config.model_type, "")]
    if config.model_type not in known or architectures[0] != known[config.model_type]:
        name = (config.architectures or [config.model_type])[0]
        raise DataError(
            f"{folder} has a network for another task, {name}. Depth networks: {', '.join(known)}."
        )
    kind = config.model_type
    stated = getattr(config, "depth_estimation_type", "metric" if kind in _METRIC else None)
    if stated is None:
        if not holds:
            raise ConfigError(
                f"the configuration of {folder} ({kind}) does not say what the network predicts: add --holds depth "
                "(metres) or --holds disparity."
            )
        return HFFolder(folder, kind, holds, "--holds")
    says = "disparity" if stated == "relative" else "depth"
    if holds and holds != says:
        raise ConfigError(f"--holds {holds}: the network in {folder} predicts {says} ({stated}).")
    why = f"depth_estimation_type is {stated!r}" if hasattr(config, "depth_estimation_type") else kind
    return HFFolder(folder, kind, says, why)


def _transformers() -> Any:
    if importlib.util.find_spec("transformers") is None:
        raise DataError("a published network needs the package transformers: pip install 'd3d[published]'")
    import transformers

    return transformers
