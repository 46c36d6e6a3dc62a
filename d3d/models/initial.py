"""Find a network's initial weights: a file that the user gives, ImageNet weights, or random values.

`find_initial_weights` decides before the network is built, so that a run can record the source and the hash.
"""

from __future__ import annotations

import functools
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from d3d.errors import ConfigError, DataError, unknown
from d3d.io import sha256
from d3d.models.checkpoints import is_d3d_weights, read_metadata
from d3d.models.naming import MPVIT_SMALL, RESNET18, recognise
from d3d.models.registry import NETWORKS
from d3d.models.tensors import read_tensors
from d3d.progress import say

RANDOM = "random"
_PROBE_SECONDS = 4.0


@dataclass(frozen=True)
class InitialWeights:
    """What a network starts from.

    Attributes:
        source: "random", the public name of ImageNet weights, or what a given file holds. Never a path.
        sha256: hash of the file's content; None for random values.
        path: the file, to be passed to `create_model` as `weights`; None for random values.
        note: why the start is random, if ImageNet weights or given files were asked for.
    """

    source: str
    sha256: str | None = None
    path: Path | None = None
    note: str = ""


@dataclass(frozen=True)
class _ImageNet:
    """Public ImageNet weights of an encoder: the usual name of their file, and where the hub has them, if it does."""

    file: str
    repo: str | None = None


_IMAGENET = {
    # timm's plain "resnet18" is another training recipe; the paper's baselines used torchvision's weights
    RESNET18: _ImageNet("resnet18-f37072fd.pth", "timm/resnet18.tv_in1k"),
    MPVIT_SMALL: _ImageNet("mpvit_small.pth"),
}


def find_initial_weights(
    arch: str, pretrained: bool = True, weights: str | Path | None = None, strict: bool = False
) -> InitialWeights:
    """Find the initial weights of one network.

    A file in `weights` that fits the network comes first. Without one, `pretrained` decides: ImageNet weights
    from the caches of the Hugging Face hub and of torch.hub, or else from the hub.

    Args:
        arch: one of `ARCHITECTURES`.
        pretrained: start the encoder from ImageNet weights if no file is given for this network.
        weights: local files for one network or several; see `given_files`.
        strict: raise an error if the ImageNet weights cannot be found. Otherwise the network starts from
            random values, and one line says so, once a process.

    Raises:
        ConfigError: unknown `arch`; two files for one network; `strict`, and no ImageNet weights.
        DataError: a file in `weights` cannot be read, or fits no network.
    """
    if arch not in NETWORKS:
        raise unknown("arch", arch, NETWORKS)
    given = given_files(weights)
    if arch in given:
        path = given[arch]
        what = _content(path)
        return InitialWeights(f"{what.holds} from a file", what.sha256, path)
    if not pretrained:
        files = ", ".join(
            f"{path} looks like {_content(path).holds}" for path in dict.fromkeys(given.values())
        )
        return InitialWeights(RANDOM, note=f"no weights for {arch} are given: {files}." if files else "")
    imagenet = _IMAGENET[NETWORKS[arch].encoder_kind]
    found, tried = _find_imagenet(imagenet)
    if found is not None:
        return found
    advice = (
        f"Give a local {imagenet.file} with weights=FILE (--weights FILE), or choose random initial values with "
        "pretrained=False (--no-pretrained)."
    )
    if strict:
        raise ConfigError(f"no ImageNet weights for the encoder of {arch}: {tried}. {advice}")
    _say_once(
        f"No ImageNet weights for the encoder of {arch}: {tried}. It starts from random values, which trains "
        f"worse. {advice}"
    )
    return InitialWeights(RANDOM, note=tried)


def given_files(weights: str | Path | None) -> dict[str, Path]:
    """Return the file for each network that a value of the option `weights` gives.

    Args:
        weights: a file, a folder, or several of both with commas between them.

            - A file is for the networks that its content fits: a ResNet-18 for monodepth2 and hrdepth, an
              MPViT-small for monovit, a file of `save_weights` for its own network.
            - `<arch>=FILE` is for this network only, and comes before a file that also fits. FILE may be a folder,
              also one with weights.safetensors or encoder.pth.
            - In a folder, files are found by name: `<arch>.safetensors`, `<arch>.pth`,
              `<arch>/weights.safetensors` (as in a run's `pretrain` folder), `<arch>/encoder.pth`,
              resnet18-f37072fd.pth and mpvit_small.pth.

    Returns:
        arch -> file. A network without a file is left out.

    Raises:
        ConfigError: an unknown name before "=", or two files for one network.
        DataError: a file or folder is missing, cannot be read, or fits no network.
    """
    named: dict[str, Path] = {}  # files for one network by name
    fitting: dict[str, Path] = {}  # files for every network that they fit

    def add(files: dict[str, Path], arch: str, path: Path) -> None:
        if arch not in (what := _content(path)).archs:
            raise DataError(f"{path} holds {what.holds}, not weights for {arch}.")
        if files.setdefault(arch, path) != path:
            raise ConfigError(f"weights: two files for {arch}, {files[arch]} and {path}. Give one.")

    for arch, path in _entries(weights):
        if path.is_dir():
            names = _folder_names(arch)
            found = [(only, path / name) for name, only in names.items() if (path / name).is_file()]
            if arch:  # for this network only, also the files that another network could use
                found = [(arch, file) for only, file in found if only or arch in _content(file).archs]
            if not found:
                raise DataError(f"weights: {path} holds none of {', '.join(names)}.")
        else:
            found = [(arch, path)]
        for only, file in found:
            if only:
                add(named, only, file)
                continue
            what = _content(file)
            if not what.archs:
                raise DataError(
                    f"{file} fits no network: it holds {what.holds}. Needed: ImageNet weights of a "
                    f"{' or '.join(sorted(_IMAGENET))}, or a file of save_weights."
                )
            for each in what.archs:
                add(fitting, each, file)
    return fitting | named


def _entries(weights: str | Path | None) -> list[tuple[str, Path]]:
    """The value of `weights` as (arch or "", path) pairs."""
    if weights is None or not str(weights).strip():
        return []
    whole = Path(weights).expanduser()
    texts = [str(weights)] if whole.exists() else str(weights).split(",")  # a path may hold a comma
    entries = []
    for text in filter(None, map(str.strip, texts)):
        arch, equals, file = text.partition("=")
        if not equals or "/" in arch or Path(text).expanduser().exists():
            arch, file = "", text
        elif arch not in NETWORKS:
            raise unknown("arch in weights", arch, NETWORKS)
        entries.append((arch, Path(file).expanduser()))
    return entries


def _folder_names(arch: str) -> dict[str, str]:
    """File names that a folder is searched for -> the network they are for, or "" if the content decides."""
    names = {"weights.safetensors": arch, "encoder.pth": arch} if arch else {"weights.safetensors": ""}
    for a in (arch,) if arch else NETWORKS:
        own = (f"{a}.safetensors", f"{a}.pth", f"{a}/weights.safetensors", f"{a}/encoder.pth")
        names |= dict.fromkeys(own, a)
    return names | {imagenet.file: "" for imagenet in _IMAGENET.values()}


class _Content(NamedTuple):
    holds: str
    archs: tuple[str, ...]  # the networks that it fits
    sha256: str


def _content(path: Path) -> _Content:
    """What a file holds; it is read again only if it has changed."""
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}.")
    status = path.stat()
    return _read_content(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _read_content(path: Path, mtime_ns: int, size: int) -> _Content:
    if is_d3d_weights(path):
        arch = read_metadata(path)["arch"]
        return _Content(f"a {arch} network", (arch,) if arch in NETWORKS else (), sha256(path))
    tensors = read_tensors(path)
    kind = recognise(tensors)
    holds = f"a {kind}" if kind else f"tensors of an unknown network ({', '.join(list(tensors)[:3])}, ...)"
    archs = tuple(arch for arch, network in NETWORKS.items() if network.encoder_kind == kind)
    return _Content(holds, archs, sha256(path))


@functools.cache  # asked once a process: all stages of a run must see the same answer
def _find_imagenet(imagenet: _ImageNet) -> tuple[InitialWeights | None, str]:
    """ImageNet weights from a cache or the hub, or None and what was tried."""
    source, path, failure = imagenet.repo, None, "no model hub offers this file"
    cached = Path(torch.hub.get_dir()) / "checkpoints" / imagenet.file
    if imagenet.repo:
        path = _from_hub_cache(imagenet.repo)
    if path is None and cached.is_file():
        path, source = cached, cached.stem
    if path is None and imagenet.repo:
        path, failure = _download(imagenet.repo)
        failure = f"{imagenet.repo} is not cached, and its download failed ({failure})"
    if path is None:
        shown = str(cached).replace(str(Path.home()), "~", 1)  # the text is recorded: no path of this machine
        return None, f"{shown} does not exist, and {failure}"
    return InitialWeights(f"{source} (ImageNet)", sha256(path), path), ""


def _from_hub_cache(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo, name) for name in ("model.safetensors", "pytorch_model.bin"))
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _download(repo: str) -> tuple[Path | None, str]:
    """The file of a repository, or None and why the hub does not give it."""
    from huggingface_hub import hf_hub_download

    if reason := _hub_unreachable(repo):
        return None, reason
    try:
        return Path(hf_hub_download(repo, "model.safetensors")), ""
    except Exception as error:  # whatever a hub client, a proxy or a full disk may raise
        return None, f"{type(error).__name__}: {error}"


def _hub_unreachable(repo: str) -> str:
    """Why the model hub cannot be reached, or "" if it answers.

    The hub's client retries for a minute before it gives up; one request of our own answers in seconds. It
    runs in a daemon thread because looking up a name can outlast any socket timeout.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    url = f"{constants.ENDPOINT}/{repo}/resolve/main/config.json"
    answer: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "d3d"})
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                answer.append("")
        except Exception as error:
            answer.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 1)
    return answer[0] if answer else f"no answer within {_PROBE_SECONDS + 1:g} s"


@functools.cache
def _say_once(message: str) -> None:
    say(message)
