"""Methods for the Hugging Face hub: `save_pretrained`, `from_pretrained`, `push_to_hub`.

A folder of `save_pretrained` holds model.safetensors (a file of `save_weights`), config.json (its metadata) and
README.md (the model card).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HFValidationError
from torch import nn

from d3d.errors import DataError
from d3d.io import write_json
from d3d.models.checkpoints import read_metadata, read_network, save_weights
from d3d.models.shipped import available

HUB_WEIGHTS = "model.safetensors"  # the hub counts the parameters of files with this name
_LICENCE, _TAGS = "mit", ["depth-estimation", "monocular-depth"]
_CARD = """---
library_name: d3d
pipeline_tag: depth-estimation
license: {licence}
---

# A {arch} network of d3d

Input: RGB images in [0, 1]. Output: depth in metres, {low:g} to {high:g} m. Nothing more is known about its training.

    from d3d.models import DepthNetwork
    model = DepthNetwork.from_pretrained(FOLDER_OR_REPOSITORY)
    depth = d3d.predict(model, image)
"""


class Card(NamedTuple):
    """The model card of a shipped network, and the `digest` of the described weights."""

    text: str
    digest: str


def digest(model: nn.Module) -> str:
    """Compute the sha256 of a network's parameters and buffers, independent of device and memory layout."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


class HubNetwork(ModelHubMixin, library_name="d3d", license=_LICENCE, tags=_TAGS):
    """Base class with the methods for the Hugging Face hub."""

    card: Card | None = None  # card of a shipped network

    def _save_pretrained(self, save_directory: Path) -> None:
        path = save_weights(self, save_directory / HUB_WEIGHTS)
        write_json(save_directory / "config.json", read_metadata(path))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> HubNetwork:
        """Load a network from a folder of `save_pretrained` or a repository of the Hugging Face hub.

        `DepthNetwork.from_pretrained` loads any network. `Lite.from_pretrained` only loads Lite.

        Args:
            pretrained_model_name_or_path: folder, or id of a repository ("user/name").
            **options: revision, token, cache_dir, force_download, local_files_only of `ModelHubMixin`.

        Returns:
            The network on the CPU, in eval mode.

        Raises:
            DataError: the value is neither a folder nor an id; or model.safetensors is missing or broken.
            ConfigError: the file holds another network.
        """
        if (
            str(pretrained_model_name_or_path) in available()
            and not Path(pretrained_model_name_or_path).exists()
        ):
            raise DataError(
                f"{str(pretrained_model_name_or_path)!r} ships with d3d: load it with d3d.load_model(NAME)."
            )
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        except HFValidationError:
            given = f"{str(pretrained_model_name_or_path)!r} is neither a folder nor the id of a repository"
            raise DataError(
                f"{given} of the Hugging Face hub (user/name). Networks that ship: d3d.load_model(NAME)."
            ) from None

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
    ) -> HubNetwork:
        if Path(model_id).is_dir():
            path = Path(model_id, HUB_WEIGHTS)
            if not path.is_file():
                raise DataError(
                    f"{model_id} holds no {HUB_WEIGHTS}, so it is not a folder of save_pretrained. For the folder of a "
                    "training or for a single file, use d3d.load_model."
                )
        else:
            path = hf_hub_download(
                model_id,
                HUB_WEIGHTS,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return read_network(path, {network.arch: network for network in _concrete(cls)})

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the card of the shipped network if its weights are unchanged, else a generic card."""
        if self.card is not None and self.card.digest == digest(self):
            return ModelCard(self.card.text)
        about = {"arch": self.arch, "low": self.min_depth, "high": self.max_depth}
        return ModelCard(_CARD.format(licence=_LICENCE, **about))


def _concrete(network: type) -> list[type]:
    """List the class and its subclasses that are networks with a name."""
    below = [n for sub in network.__subclasses__() for n in _concrete(sub)]
    return [network, *below] if network.__dict__.get("arch") else below
