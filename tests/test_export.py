"""Export: every network as ONNX and .pt2, checked against torch; what is refused leaves no file."""

from __future__ import annotations

import json

import pytest
import torch

import d3d
from d3d import models
from d3d.cli import main
from d3d.errors import ConfigError, DataError
from d3d.models import ARCHITECTURES, export
from d3d.models.hub import digest

SIZE = (64, 96)


def trained(arch, seed=0):
    """A network whose depth is not the same everywhere, with running statistics that fit its features."""
    torch.manual_seed(seed)
    model = models.create_model(arch, pretrained=False)
    image = torch.rand(4, 3, *SIZE)
    with torch.no_grad():
        model(image)
        model.eval()
        # the head is linear before its sigmoid: afterwards the logits have mean -3 (2 m) and standard deviation 1
        head, logits = model.decoder.heads[0].conv, torch.logit(model(image)[0])
        head.bias.copy_(-3 - (logits.mean() - head.bias) / logits.std())
        head.weight /= logits.std()
    model.train_size, model.train_focal_px = SIZE, (80.0, 71.0)
    return model


@pytest.fixture(scope="module")
def lite():
    return trained("lite")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_as_onnx_gives_the_same_depth(arch, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = trained(arch)
    path = tmp_path / "network.onnx"
    assert export.export(model, path, name="mine") < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["network.onnx"]  # one file, weights included
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, *SIZE]
    for batch in (1, 2, 5):
        image = torch.rand(batch, 3, *SIZE)
        depth = torch.from_numpy(session.run(["depth"], {"image": image.numpy()})[0])
        wanted = d3d.predict(model, image)
        assert wanted.std() > 0.1 * wanted.mean()
        torch.testing.assert_close(depth, wanted, rtol=1e-3, atol=0)
    about = session.get_modelmeta().custom_metadata_map
    assert (about["name"], about["arch"], about["height"], about["width"]) == ("mine", arch, "64", "96")
    assert (about["max_depth_m"], about["weights_sha256"]) == ("10.0", digest(model))


def test_pt2_gives_the_same_depth(lite, tmp_path):
    path = tmp_path / "network.pt2"
    assert export.export(lite, path, "pt2") < 1e-4
    files = {"about.json": ""}
    run = torch.export.load(path, extra_files=files).module()
    assert json.loads(files["about.json"])["arch"] == "lite"
    for batch in (1, 2, 5):
        image = torch.rand(batch, 3, *SIZE)
        torch.testing.assert_close(run(image), d3d.predict(lite, image), rtol=1e-3, atol=0)


def test_a_file_that_differs_is_not_written(lite, tmp_path, monkeypatch):
    write, read, packages = export.FORMATS["pt2"]

    def wrong(path):
        run = read(path)
        return lambda image: run(image) * 1.002

    monkeypatch.setitem(export.FORMATS, "pt2", (write, wrong, packages))
    with pytest.raises(
        DataError, match=r"network\.pt2 was not written: its relative difference .* is 0\.002"
    ):
        export.export(lite, tmp_path / "network.pt2", "pt2")
    monkeypatch.setitem(
        export.FORMATS, "pt2", (write, lambda path: lambda image: image[:, :1] * torch.nan, ())
    )
    with pytest.raises(DataError, match=r"relative difference .* is nan"):
        export.export(lite, tmp_path / "network.pt2", "pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported(lite, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown format 'onx'. Did you mean 'onnx'"):
        export.export(lite, tmp_path / "a.onnx", "onx")
    with pytest.raises(ConfigError, match=r"must end in \.onnx, not 'a\.pt2'"):
        export.export(lite, tmp_path / "a.pt2", "onnx")
    with pytest.raises(DataError, match="height 60 and width 96"):
        export.export(lite, tmp_path / "a.pt2", "pt2", (60, 96))
    monkeypatch.setattr(lite, "train_size", None)
    with pytest.raises(DataError, match="give height and width"):
        export.export(lite, tmp_path / "a.pt2", "pt2")
    monkeypatch.setitem(export.FORMATS, "pt2", (*export.FORMATS["pt2"][:2], ("onnx_of_tomorrow",)))
    with pytest.raises(ConfigError, match=r"needs onnx_of_tomorrow: pip install 'd3d\[export\]'"):
        export.export(lite, tmp_path / "a.pt2", "pt2", SIZE)
    assert list(tmp_path.iterdir()) == []


def test_the_command(lite, tmp_path, capsys):
    weights = models.save_weights(lite, tmp_path / "w.safetensors", "int8")
    words = ["export", "--model", str(weights), "--format", "pt2", "--out"]
    assert main([*words, str(tmp_path / "a.pt2"), "--height", "96", "--width", "64"]) == 0
    assert "a.pt2: 96x64 (height x width), largest relative difference of depth" in capsys.readouterr().out
    run = torch.export.load(tmp_path / "a.pt2").module()
    assert run(torch.rand(1, 3, 96, 64)).shape == (1, 1, 96, 64)
    assert main([*words, str(tmp_path / "b.onnx")]) == 2
    assert main([*words, str(tmp_path / "b.pt2"), "--height", "96"]) == 2
    assert "give both or neither" in capsys.readouterr().err
