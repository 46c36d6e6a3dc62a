"""Initial weights: the source and the hash for each network, and each error."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

import d3d
from d3d import models
from d3d.errors import ConfigError, DataError
from d3d.models import InitialWeights, find_initial_weights, initial

# The finder looks at the names of the tensors only: `create_model` compares the shapes when it loads them
RESNET = ("conv1.weight", "layer1.0.conv1.weight", "fc.weight")
MPVIT = ("patch_embed_stages.0.a", "mhca_stages.2.mhca_blks.2.MHCA_layers.5.b")
LITE0_FILE = "efficientnet-lite0-57934424.pth"
DEEPER = (*RESNET, "layer1.0.conv3.weight")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """Remove the model hub, the caches, the package of weights, and remembered lookups and messages."""

    def refused(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(initial, "_file_of_package", lambda *_: None)
    for function in (initial._find_imagenet, initial.say_once):
        function.cache_clear()
    yield
    for function in (initial._find_imagenet, initial.say_once):
        function.cache_clear()


def written(path: Path, names=RESNET, value: float = 0.0) -> Path:
    """Write a file of tensors with these names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.full((1,), value) for name in names}
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def paths(weights) -> dict[str, Path | None]:
    """Return the file of each network that has one."""
    found = {a: find_initial_weights(a, False, weights).path for a in models.ARCHITECTURES}
    return {a: path for a, path in found.items() if path is not None}


# --- random, ImageNet ---------------------------------------------------------------------------------------


def test_random_when_nothing_is_asked_for(capsys):
    for arch in models.ARCHITECTURES:
        assert find_initial_weights(arch, pretrained=False) == InitialWeights("random")
        assert find_initial_weights(arch, pretrained=False, weights="", strict=True).source == "random"
    assert not capsys.readouterr().out


@pytest.mark.parametrize("arch", models.ARCHITECTURES)
def test_weights_that_cannot_be_had_are_said_once_or_an_error(arch, capsys):
    for _ in range(2):
        found = find_initial_weights(arch)
        assert (found.source, found.sha256, found.path) == ("random", None, None)
        assert ("no route to host" in found.note) == (arch in ("monodepth2", "hrdepth"))
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 1
    with pytest.raises(ConfigError) as caught:
        find_initial_weights(arch, strict=True)
    file = {"monovit": "mpvit_small.pth", "lite": LITE0_FILE}.get(arch, "resnet18-f37072fd.pth")
    for text in (said, str(caught.value)):
        assert all(word in text for word in (arch, file, "--weights", "--no-pretrained"))


def test_a_download_is_a_file_with_a_hash(monkeypatch, tmp_path, capsys):
    import contextlib

    file = written(tmp_path / "snapshot" / "model.safetensors")
    asked = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a: asked.append(a) or str(file))
    for arch in ("monodepth2", "hrdepth"):
        found = find_initial_weights(arch, strict=True)
        assert found == InitialWeights(
            "timm/resnet18.tv_in1k (ImageNet)", digest(file), file, licence="BSD-3-Clause"
        )
    assert asked == [("timm/resnet18.tv_in1k", "model.safetensors")]
    assert not capsys.readouterr().out


def test_caches_are_looked_at_before_the_hub(monkeypatch, tmp_path):
    small = written(tmp_path / "hub" / "checkpoints" / "mpvit_small.pth", MPVIT)
    assert find_initial_weights("monovit") == InitialWeights("mpvit_small (ImageNet)", digest(small), small)
    theirs = written(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    assert find_initial_weights("hrdepth").path == theirs
    initial._find_imagenet.cache_clear()
    cached = written(tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(cached))
    assert find_initial_weights("hrdepth").source == "timm/resnet18.tv_in1k (ImageNet)"


# --- files --------------------------------------------------------------------------------------------------


def test_a_file_is_offered_only_to_the_networks_it_fits(tmp_path):
    resnet, mpvit = written(tmp_path / "a.pth"), written(tmp_path / "b.safetensors", MPVIT)
    assert paths(resnet) == {"monodepth2": resnet, "hrdepth": resnet}
    assert paths(str(mpvit)) == {"monovit": mpvit}
    both = {"monodepth2": resnet, "hrdepth": resnet, "monovit": mpvit}
    assert paths(f"{resnet}, {mpvit}") == both
    own = models.save_weights(models.create_model("hrdepth", pretrained=False), tmp_path / "w.safetensors")
    assert paths(own) == {"hrdepth": own}


def test_a_network_without_a_file_follows_pretrained(tmp_path, capsys):
    resnet = written(tmp_path / "a.pth")
    assert find_initial_weights("monovit", True, resnet).source == "random"
    assert "monovit" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"mpvit_small\.pth with weights=FILE"):
        find_initial_weights("monovit", True, resnet, strict=True)
    found = find_initial_weights("monovit", False, resnet, strict=True)
    assert found.source == "random"
    assert "holds a ResNet-18 encoder" in found.note


def test_the_content_is_the_identity_not_the_path(tmp_path):
    first, second = written(tmp_path / "a.pth"), tmp_path / "elsewhere.bin"
    second.write_bytes(first.read_bytes())
    found = [find_initial_weights("monodepth2", True, path) for path in (first, second)]
    assert [f.path for f in found] == [first, second]
    assert found[0].sha256 == found[1].sha256 == digest(first)
    assert found[0].source == found[1].source == "a ResNet-18 encoder from a file"
    written(first, value=1.0)
    assert find_initial_weights("monodepth2", True, first).sha256 == digest(first) != found[0].sha256


def test_a_file_for_a_network_by_name(tmp_path, monkeypatch):
    a, b = written(tmp_path / "a.pth"), written(tmp_path / "b, c.pth", value=1.0)
    assert paths(f"hrdepth={a}") == {"hrdepth": a}
    assert paths(f"hrdepth={a},monodepth2={a}")["monodepth2"] == a
    named = {"monodepth2": a, "hrdepth": written(tmp_path / "d.pth")}
    assert paths(f"{a},hrdepth={tmp_path / 'd.pth'}") == named  # before the file that fits as well
    assert paths(b)["hrdepth"] == b  # a path with a comma
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths("monodepth2=~/a.pth")["monodepth2"] == a


def test_a_folder_with_a_file_for_each(tmp_path):
    folder = tmp_path / "weights"
    public = written(folder / "resnet18-f37072fd.pth")
    small = written(folder / "mpvit_small.pth", MPVIT)
    assert paths(folder) == {"monodepth2": public, "hrdepth": public, "monovit": small}
    own = written(folder / "hrdepth.safetensors")
    assert paths(str(folder)) == {"monodepth2": public, "hrdepth": own, "monovit": small}
    encoder = written(folder / "monodepth2" / "encoder.pth", [f"encoder.{name}" for name in RESNET])
    assert paths(folder)["monodepth2"] == encoder
    assert paths(f"monodepth2={folder / 'monodepth2'}")["monodepth2"] == encoder
    assert paths(f"monovit={folder}") == {"monovit": small}
    stage = tmp_path / "pretrain" / "monodepth2"
    trained = models.save_weights(
        models.create_model("monodepth2", pretrained=False), stage / "weights.safetensors"
    )
    for given in (stage, stage.parent, f"monodepth2={stage}"):
        assert paths(given) == {"monodepth2": trained}


# --- errors -------------------------------------------------------------------------------------------------


def test_a_file_that_fits_no_network_names_what_it_holds(tmp_path):
    decoder = ("convs.X_31_attention.conv_se.weight",)
    for names, holds in (
        (DEEPER, "ResNet encoder deeper than 18 layers"),
        (decoder, "hrdepth decoder"),
        (("token", "head.bias"), r"tensors of an unknown network \(token, head\.bias"),
    ):
        path = written(tmp_path / "x.pth", names)
        for arch in models.ARCHITECTURES:  # early: also for a network that has another file
            with pytest.raises(DataError, match=rf"x\.pth fits no network: it holds .*{holds}"):
                find_initial_weights(arch, False, path)
    written(tmp_path / "folder" / "mpvit_small.pth", DEEPER)
    with pytest.raises(DataError, match=r"mpvit_small\.pth fits no network"):
        find_initial_weights("hrdepth", False, tmp_path / "folder")
    save_file({"a": torch.zeros(1)}, tmp_path / "y.safetensors", {"format": "d3d", "arch": "dinodepth"})
    with pytest.raises(DataError, match="lacks"):
        find_initial_weights("hrdepth", False, tmp_path / "y.safetensors")


def test_a_file_named_for_a_network_that_it_does_not_fit(tmp_path):
    path = written(tmp_path / "a.pth")
    for arch in models.ARCHITECTURES:
        with pytest.raises(DataError, match=r"a\.pth holds a ResNet-18 encoder, not weights for monovit"):
            find_initial_weights(arch, True, f"monovit={path}")
    written(tmp_path / "monovit.pth")
    with pytest.raises(DataError, match="not weights for monovit"):
        find_initial_weights("hrdepth", True, tmp_path)


def test_two_files_for_one_network(tmp_path):
    a, b = written(tmp_path / "a.pth"), written(tmp_path / "b.pth")
    for given in (f"{a},{b}", f"hrdepth={a},hrdepth={b}"):
        with pytest.raises(ConfigError, match=r"two files for .*a\.pth and .*b\.pth"):
            find_initial_weights("monovit", False, given)
    written(tmp_path / "hrdepth.pth")
    written(tmp_path / "hrdepth.safetensors")
    with pytest.raises(ConfigError, match="two files for hrdepth"):
        find_initial_weights("hrdepth", False, tmp_path)


def test_other_mistakes(tmp_path):
    path = written(tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="Did you mean 'hrdepth'"):
        find_initial_weights("hr-depth")
    with pytest.raises(ConfigError, match="Did you mean 'monodepth2'"):
        find_initial_weights("hrdepth", True, f"monodepth={path}")
    with pytest.raises(DataError, match=r"no checkpoint at .*gone\.pth"):
        find_initial_weights("hrdepth", True, f"{path},{tmp_path / 'gone.pth'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no known file.*hrdepth\.pth.*mpvit_small\.pth"):
        find_initial_weights("hrdepth", True, tmp_path / "empty")
    path.write_bytes(b"<html>404")
    with pytest.raises(DataError, match="not a readable PyTorch checkpoint"):
        find_initial_weights("hrdepth", True, path)


# --- create_model and load_model ----------------------------------------------------------------------------


def test_create_model_demands_a_file_for_its_network(tmp_path):
    path = written(tmp_path / "a.pth")
    with pytest.raises(
        DataError, match=r"The files given as weights are not for monovit: .*holds a ResNet-18 encoder"
    ):
        models.create_model("monovit", weights=path)


def test_load_model_takes_a_file_or_the_folder_of_a_training(tmp_path):
    model = models.create_model("monodepth2", pretrained=False)
    path = models.save_weights(model, tmp_path / "distill" / "monodepth2" / "uncer" / "weights.safetensors")
    for given in (path, path.parent, str(path.parent)):
        loaded = d3d.load_model(given)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    with pytest.raises(DataError, match=r"holds no weights\.safetensors.*finished training"):
        d3d.load_model(tmp_path)
    with pytest.raises(
        ConfigError, match=r"unknown network 'monodepth3'.*ends in \.safetensors.*runs/<run>/distill"
    ):
        d3d.load_model("monodepth3")
    with pytest.raises(
        DataError, match=r"no file or folder 'runs/monodepth3'.*\.safetensors.*runs/<run>/distill"
    ):
        d3d.load_model("runs/monodepth3")
