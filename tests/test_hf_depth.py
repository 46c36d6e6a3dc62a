"""`python -m d3d evaluate --predictions-from hf:FOLDER`: tiny networks of transformers with random weights."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from d3d import io
from d3d.cli import main
from d3d.errors import ConfigError, DataError, RunError
from d3d.evaluation import summary
from d3d.metrics import align, depth_metrics
from d3d.models.hf_depth import describe_folder
from d3d.pipeline import runs, stages
from d3d.pipeline.config import make_config
from d3d.pipeline.scenes import evaluated_frames, evaluated_scenes

transformers = pytest.importorskip("transformers", reason="needs the extra published (transformers)")

DINO = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
NECK = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def depth_anything(folder, kind):
    backbone = transformers.Dinov2Config(
        **DINO, out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20,
        **NECK,
    )
    processor = transformers.DPTImageProcessor(
        size={"height": 56, "width": 70}, ensure_multiple_of=14, keep_aspect_ratio=True
    )
    torch.manual_seed(0)
    return save(folder, transformers.DepthAnythingForDepthEstimation(config), processor)


def zoedepth(folder):
    backbone = transformers.BeitConfig(
        image_size=64,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone,
        backbone_hidden_size=32,
        bottleneck_features=8,
        num_relative_features=4,
        **NECK,
    )
    processor = transformers.ZoeDepthImageProcessor(size={"height": 64, "width": 64}, ensure_multiple_of=32)
    torch.manual_seed(0)
    return save(folder, transformers.ZoeDepthForDepthEstimation(config), processor)


def dpt(folder):
    config = transformers.DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        backbone_out_indices=[0, 1, 2, 3],
        is_hybrid=False,
        **NECK,
    )
    processor = transformers.DPTImageProcessor(size={"height": 64, "width": 64})
    torch.manual_seed(0)
    return save(folder, transformers.DPTForDepthEstimation(config), processor)


def depth_pro(folder):
    encoder = {"model_type": "dinov2"} | DINO | {"image_size": 16, "patch_size": 8}
    config = transformers.DepthProConfig(
        patch_size=16,
        **{f"{part}_model_config": dict(encoder) for part in ("image", "patch", "fov")},
        fusion_hidden_size=8,
        intermediate_hook_ids=[3, 1],
        intermediate_feature_dims=[8, 8],
        scaled_images_feature_dims=[8, 8, 8],
        merge_padding_value=0,
        use_fov_model=True,
    )
    torch.manual_seed(0)
    model = transformers.DepthProForDepthEstimation(config)
    return save(folder, model, transformers.DepthProImageProcessor(size={"height": 64, "width": 64}))


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return depth_anything(tmp_path_factory.mktemp("hf") / "metric", "metric")


@pytest.fixture(scope="module")
def relative(tmp_path_factory):
    return depth_anything(tmp_path_factory.mktemp("hf") / "relative", "relative")


@pytest.fixture
def config(tmp_path):
    return make_config(profile="smoke", runs_dir=str(tmp_path / "runs"))


def evaluate(config, *words):
    return main(["evaluate", "--profile", "smoke", "--runs-dir", config.runs_dir, *map(str, words)])


def frames_folder(config, name):
    return runs.run_folder(config) / "predictions" / name / "frames-val"


def test_a_metric_network_is_predicted_and_scored(config, metric, capsys):
    assert evaluate(config, "--predictions-from", f"hf:{metric}") == 0
    assert "| metric       | unknown training data |" in capsys.readouterr().out
    per_image = stages.score_predictions(config, frames_folder(config, "metric") / "depth", "metric")
    # the same by transformers alone
    model = transformers.AutoModelForDepthEstimation.from_pretrained(metric).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(metric)
    (scene,) = evaluated_scenes(config)
    for i in evaluated_frames(config, scene):
        inputs = processor(images=torch.from_numpy(scene.image(i)).permute(2, 0, 1), return_tensors="pt")
        with torch.no_grad():
            raw = model(**inputs).predicted_depth
        depth = processor.post_process_depth_estimation(
            type("Output", (), {"predicted_depth": raw}), target_sizes=[(144, 192)]
        )[0]["predicted_depth"].numpy()
        assert 0 < depth.min() < depth.max() < 20
        row = per_image[(per_image["frame"] == scene.frame_ids[i]) & (per_image["pixels"] == "all")].iloc[0]
        assert row["abs_rel"] == pytest.approx(depth_metrics(depth, scene.depth(i))["abs_rel"], rel=1e-3)
    provenance = io.read_json(frames_folder(config, "metric") / "provenance.json")
    assert provenance["network"]["kind"] == "depth_anything"
    assert provenance["network"]["files"]["model.safetensors"] == io.sha256(metric / "model.safetensors")


def test_a_relative_network_predicts_disparity_and_needs_its_alignment(config, relative, capsys):
    assert evaluate(config, "--predictions-from", f"hf:{relative}") == 2
    said = capsys.readouterr().err
    assert "depth_estimation_type is 'relative'" in said
    assert "add --align affine-disparity" in said
    assert not frames_folder(config, "relative").exists()
    assert evaluate(config, "--predictions-from", f"hf:{relative}", "--align", "affine-disparity") == 0
    assert "unknown training data, aligned: affine-disparity |" in capsys.readouterr().out
    (scene,) = evaluated_scenes(config)
    i = evaluated_frames(config, scene)[0]
    disparity = np.load(
        frames_folder(config, "relative") / "depth" / scene.name / f"{scene.frame_ids[i]}.npy"
    )
    gt = scene.depth(i)
    a, b = np.polyfit(disparity.ravel().astype(float), 1 / gt.ravel().astype(float), 1)
    expected = 1 / np.clip(a * disparity + b, 0.1, 10)
    np.testing.assert_allclose(align(disparity, gt, "affine-disparity", disparity=True), expected, rtol=1e-6)


@pytest.mark.parametrize("make", [zoedepth, depth_pro])
def test_other_metric_networks(config, tmp_path, make):
    folder = make(tmp_path / "network")
    depth, holds = stages.predict_published(config, folder)
    assert holds == "depth"
    assert summary(stages.score_predictions(config, depth, "network"))["images"] == 6
    for path in depth.glob("*/*.npy"):  # also without the padding of ZoeDepth
        assert np.load(path).shape == (144, 192)


def test_an_interrupted_prediction_resumes(config, metric, monkeypatch):
    predict, seen = stages.predictions.HFDepth.predict, []

    def until_the_third(self, image):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(image)
        return predict(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(stages.predictions.HFDepth, "predict", until_the_third)
        with pytest.raises(KeyboardInterrupt):
            stages.predict_published(config, metric)
    there = sorted(frames_folder(config, "metric").glob("depth/*/*"))
    assert len(there) == 2
    before = [p.stat().st_mtime_ns for p in there]
    stages.predict_published(config, metric)
    assert [p.stat().st_mtime_ns for p in there] == before
    assert len(sorted(frames_folder(config, "metric").glob("depth/*/*.npy"))) == 6
    with monkeypatch.context() as patch:
        patch.setattr("d3d.models.hf_depth.HFFolder.load", None)  # finished: the network is not loaded
        stages.predict_published(config, metric)


def test_another_network_of_the_same_name_is_refused(config, metric, tmp_path):
    stages.predict_published(config, metric)
    other = depth_anything(tmp_path / "metric", "metric")
    weights = other / "model.safetensors"
    save_file({name: values + 1 for name, values in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(RunError, match=r"network.files.model.safetensors"):
        stages.predict_published(config, other)


def test_a_network_that_does_not_say_what_it_predicts_needs_holds(config, metric, tmp_path):
    folder = dpt(tmp_path / "dpt")
    with pytest.raises(ConfigError, match=r"\(dpt\) does not say what the network predicts: add --holds"):
        describe_folder(folder)
    assert describe_folder(folder, "disparity").holds == "disparity"
    assert describe_folder(metric, "depth").holds == "depth"
    with pytest.raises(ConfigError, match=r"predicts depth \(metric\)"):
        describe_folder(metric, "disparity")


# --- what is refused ---------------------------------------------------------------------------------------


def test_transformers_is_optional(config, metric, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert evaluate(config, "--predictions-from", f"hf:{metric}") == 1
    assert "pip install 'd3d[published]'" in capsys.readouterr().err


@pytest.fixture
def broken(metric, tmp_path):
    return shutil.copytree(metric, tmp_path / "broken")


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(config, folder, message):
    with pytest.raises(DataError, match=message):
        stages.predict_published(config, folder)
    assert not frames_folder(config, folder.name).exists()


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_is_missing(config, broken, name):
    (broken / name).unlink()
    refused(config, broken, "has no weights" if name.startswith("model") else f"has no {name}")


def test_no_folder(config, tmp_path):
    refused(config, tmp_path / "depth-anything", "Names of the hub are not looked up")


def without_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors[sorted(tensors)[0]]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: edit(f, architectures=["DepthAnythingForSegmentation"]),
            r"for another task, DepthAnythingForSegmentation\. Depth networks: .*zoedepth",
        ),
        (
            lambda f: edit(f, model_type="dinov2", architectures=["Dinov2Model"]),
            "for another task, Dinov2Model",
        ),
        (lambda f: edit(f, model_type="unheard-of"), "not readable by transformers"),
        (lambda f: (f / "config.json").write_text("{"), "not readable by transformers"),
        (lambda f: edit(f, head_hidden_size=16), "cannot load the network"),
        (without_a_tensor, r"the weights lack backbone\.\S+\. Copy"),
        (lambda f: (f / "model.safetensors").write_bytes(b"none"), "cannot load the network"),
    ],
)
def test_a_network_for_another_task_or_broken(config, broken, damage, message):
    damage(broken)
    refused(config, broken, message)
