"""Uncertainties with a known answer, their networks and stages, and their ability to find wrong pixels."""

import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training import SIZE, TinyNet, Wall
from torch import nn

from d3d import fusion, models, uncertainty
from d3d.analysis import uncertainty as comparison
from d3d.datasets.samples import LabelSamples
from d3d.errors import ConfigError, DataError
from d3d.figures import uncertainty as uncertainty_figures
from d3d.losses import laplacian_nll, log_depth_loss
from d3d.models.layers import ConvBlock
from d3d.pipeline import runs, stages
from d3d.pipeline.config import TrainConfig, make_config
from d3d.pipeline.stages import labels as label_stages
from d3d.pipeline.stages import trainings
from d3d.training import WEIGHTS, RegressionTask, train
from d3d.uncertainty import COLOURS, PASSES, UNCERTAINTY, measure

ARCHS = models.ARCHITECTURES


class Toy(nn.Module):
    """A network whose depth is a given function of the image, in metres."""

    arch, min_depth, max_depth, log_scale = "toy", 0.1, 10.0, False

    def __init__(self, depth, dropout=None):
        super().__init__()
        self.depth, self.on = depth, nn.Parameter(torch.ones(()))
        self.dropout = nn.Identity() if dropout is None else nn.Dropout2d(dropout)

    def features(self, images):
        return [images]

    def decode(self, features, scales=(0,)):
        depth = self.depth(self.dropout(features[0])) * self.on
        return {0: (1 / depth - 0.1) / 9.9}

    def forward(self, images, scales=(0,)):
        return self.decode(self.features(images), scales)


def images(batch=2, h=8, w=12):
    return torch.rand(batch, 3, h, w, generator=torch.Generator().manual_seed(4))


# --- each uncertainty ---------------------------------------------------------------------------------------


def test_every_name_that_labels_may_have_is_an_uncertainty():
    assert set(UNCERTAINTY) == set(fusion.UNCERTAINTIES)
    with pytest.raises(ConfigError, match=r"unknown uncertainty 'mcdrop'\. Did you mean 'mcdropout'"):
        measure("mcdrop", [Toy(lambda x: x)], images())


@pytest.mark.parametrize("name", ["ensemble", "snapshots"])
def test_spread_of_networks_that_see_1_to_4_metres(name):
    networks = [Toy(lambda x, k=k: torch.full_like(x[:, :1], k)) for k in (1.0, 2.0, 3.0, 4.0)]
    got = measure(name, networks, images())
    assert got.shape == (2, 1, 8, 12)
    torch.testing.assert_close(got, torch.full_like(got, math.sqrt(1.25)))


def test_a_network_that_mirrors_with_its_image_has_no_flip_spread(monkeypatch):
    monkeypatch.setattr(uncertainty, "COLOURS", 0)
    pixelwise = Toy(lambda x: 1 + x[:, :1])
    torch.testing.assert_close(
        measure("tta", [pixelwise], images()), torch.zeros(2, 1, 8, 12), atol=1e-6, rtol=0
    )


def test_what_sees_left_and_right_apart_is_unsure_as_far_as_they_differ():
    columns = torch.arange(12.0).expand(2, 1, 8, 12)
    by_column = Toy(lambda x: 1 + 0.1 * columns)
    # one view of 2 + COLOURS sees the mirrored column
    p = 1 / (2 + COLOURS)
    expected = 0.1 * (columns - columns.flip(-1)).abs() * math.sqrt(p * (1 - p))
    torch.testing.assert_close(measure("tta", [by_column], images()), expected)


def test_colour_changes_are_the_same_for_every_image_and_seed():
    brightness = Toy(lambda x: 1 + x.mean(1, keepdim=True))
    x = images()
    spread_of_two = measure("tta", [brightness], x, seed=3)
    assert (spread_of_two > 1e-3).all()
    assert torch.equal(spread_of_two[1:], measure("tta", [brightness], x[1:], seed=3))
    assert not torch.equal(spread_of_two, measure("tta", [brightness], x, seed=4))


def test_dropout_of_probability_zero_leaves_nothing_to_be_unsure_of():
    toy = Toy(lambda x: 1 + x[:, :1], dropout=0.0)
    assert not measure("mcdropout", [toy], images()).any()


def test_dropout_of_one_channel_spreads_between_kept_and_dropped():
    toy = Toy(lambda x: 1 + x[:, :1], dropout=0.5)
    got = measure("mcdropout", [toy], torch.ones(1, 3, 8, 12), seed=1)
    # k of the passes keep the channel: 1 + 1/0.5 = 3 m instead of 1 m
    possible = [2 * math.sqrt(k / PASSES * (1 - k / PASSES)) for k in range(1, PASSES)]
    assert min(abs(got[0, 0, 0, 0].item() - p) for p in possible) < 1e-5
    assert torch.allclose(got, got[0, 0, 0, 0])


def test_dropout_is_of_its_seed_alone_and_leaves_no_trace():
    network = models.create_model("monodepth2", pretrained=False, dropout=0.3)
    x, state = images(3, 64, 64), torch.get_rng_state()
    first = measure("mcdropout", [network], x, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, measure("mcdropout", [network], x, seed=1))
    torch.testing.assert_close(first[1:2], measure("mcdropout", [network], x[1:2], seed=1))
    assert not torch.equal(first, measure("mcdropout", [network], x, seed=2))
    assert not any(m.training for m in network.modules())


def test_predicted_scale_becomes_metres_and_ends_at_the_farthest_depth():
    toy = Toy(lambda x: torch.full_like(x[:, :1], 2.0))
    toy.log_scale, plain = True, toy.decode
    b = torch.full((2, 1, 8, 12), 0.25)
    b[0] = 50.0
    toy.decode = lambda features, scales=(0,): plain(features) | {"log_scale": b.log()}
    got = measure("regression", [toy], images())
    assert got[0].eq(10.0).all()
    torch.testing.assert_close(got[1], torch.full((1, 8, 12), 2 * math.sqrt(2) * 0.25))


def test_a_network_that_cannot_is_told_apart():
    plain = models.create_model("monodepth2", pretrained=False)
    with pytest.raises(DataError, match=r"has no dropout: train it with create_model\(arch, dropout=p\)"):
        measure("mcdropout", [plain], images(1, 64, 64))
    with pytest.raises(DataError, match=r"predicts no scale"):
        measure("regression", [plain], images(1, 64, 64))


# --- the loss of regression ---------------------------------------------------------------------------------


def test_the_best_scale_is_the_mean_residual():
    generator = torch.Generator().manual_seed(0)
    pred, label = (1 + torch.rand(2, 1, 5, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    residual = (pred.log() - label.log()).abs().mean()
    log_b = residual.log().expand_as(pred).clone().requires_grad_()
    (slope,) = torch.autograd.grad(laplacian_nll(pred, log_b, label), log_b)
    assert abs(slope.sum()) < 1e-12
    best = laplacian_nll(pred, log_b, label)
    assert best.item() == pytest.approx(1 + math.log(2 * residual.item()))
    for off in (-0.1, 0.1):
        assert laplacian_nll(pred, log_b + off, label) > best


def test_with_scale_one_it_is_eq_4_and_missing_labels_do_not_count():
    pred, label = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[2.0, 2.0, 0.0]]]])
    zero = torch.zeros_like(pred)
    assert laplacian_nll(pred, zero, label).item() == pytest.approx(
        log_depth_loss(pred, label).item() + math.log(2)
    )
    log_b = torch.tensor([[[[0.0, 0.0, -200.0]]]], requires_grad=True)
    laplacian_nll(pred, log_b, label).backward()
    assert log_b.grad.isfinite().all()
    assert log_b.grad[0, 0, 0, 2] == 0
    with pytest.raises(DataError, match="differ in shape"):
        laplacian_nll(pred, zero[..., :1], label)


def test_gradcheck_of_the_scaled_loss():
    generator = torch.Generator().manual_seed(1)

    def rand():
        return torch.rand(1, 1, 3, 4, dtype=torch.float64, generator=generator)

    pred, log_b = (1 + rand()).requires_grad_(), (rand() - 1).requires_grad_()
    label = 3 + rand()  # never equal: there |.| has no slope
    assert torch.autograd.gradcheck(lambda p, s: laplacian_nll(p, s, label), (pred, log_b))


def test_training_finds_how_far_labels_are_off(tmp_path):
    """Labels are randomly too large or too small by a factor of exp(0.3), so b = 0.3 for any prediction in between."""

    class Two(TinyNet):
        log_scale = True

        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(8, 2, 3, padding=1)
            nn.init.constant_(self.head.bias, -3.0)

        def forward(self, image, scales=(0,)):
            disp, log_scale = self.head(self.body(image)).split(1, dim=1)
            return {0: torch.sigmoid(disp), "log_scale": log_scale}

    def label(scene, i):
        return (2 * np.exp(np.random.default_rng(i).choice([-0.3, 0.3], SIZE))).astype(np.float32)

    wall = Wall()
    samples = LabelSamples([wall], [(0, i) for i in range(10)], label, SIZE)
    settings = TrainConfig(steps=250, batch_size=5, learning_rate=3e-2, pretrained=False)
    network = train(Two, RegressionTask(samples), settings, tmp_path)
    image = torch.from_numpy(wall.image(4, SIZE).transpose(2, 0, 1)[None] / 255).float()
    with torch.no_grad():
        b = network(image)["log_scale"].exp()
    assert b.median().item() == pytest.approx(0.3, rel=0.1)
    assert "scale" in (tmp_path / "loss.csv").read_text().splitlines()[0]


# --- networks with dropout, or with a scale -----------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_dropout_adds_no_weights_and_acts_in_training_alone(arch):
    plain = models.create_model(arch, pretrained=False)
    dropping = models.create_model(arch, pretrained=False, dropout=0.4)
    assert list(dropping.state_dict()) == list(plain.state_dict())
    dropping.load_state_dict(plain.state_dict())
    x = images(1, 64, 64)
    with torch.no_grad():
        assert torch.equal(plain.eval()(x)[0], dropping.eval()(x)[0])
        for block in (m for m in dropping.modules() if isinstance(m, ConvBlock)):
            block.train()
        assert not torch.equal(dropping(x)[0], dropping(x)[0])
    with pytest.raises(ConfigError, match=r"dropout=1.0 must be in \[0, 1\)"):
        models.create_model(arch, pretrained=False, dropout=1.0)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("options", [{"dropout": 0.25}, {"log_scale": True}])
def test_a_saved_network_comes_back_as_it_was(arch, options, tmp_path):
    model = models.create_model(arch, pretrained=False, init_depth_m=2.0, **options).eval()
    loaded = models.load_model(models.save_weights(model, tmp_path / "w.safetensors"))
    assert (loaded.dropout, loaded.log_scale) == (model.dropout, model.log_scale)
    x = images(2, 64, 64)
    with torch.no_grad():
        before, after = model(x), loaded(x)
    assert list(after) == [0, 1, 2, 3, *(["log_scale"] if "log_scale" in options else [])]
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert after[0].shape == (2, 1, 64, 64)
    if "dropout" in options:
        assert torch.equal(measure("mcdropout", [model], x), measure("mcdropout", [loaded], x))
    else:
        # at the start b is a tenth: 14 % of the depth
        assert measure("regression", [loaded], x).median().item() == pytest.approx(0.28, rel=0.3)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_scale_gets_a_gradient_and_other_scales_go_without_it(arch):
    model = models.create_model(arch, pretrained=False, log_scale=True)
    outputs = model(images(2, 64, 64), (0,))
    outputs["log_scale"].mean().backward()
    assert model.decoder.heads[0].log_scale.weight.grad.any()
    assert not model.decoder.heads[0].conv.weight.grad.any(), "the disparity has a convolution of its own"
    with torch.no_grad():
        assert list(model(images(2, 64, 64), (1,))) == [1]


# --- stages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cfg(tmp_path_factory, trained_run):
    folder = tmp_path_factory.mktemp("runs")
    trained_run(folder, "r")
    return make_config(profile="smoke", runs_dir=str(folder), run="r", labels="uncer-tta")


def first(config):
    scene = stages.training_scenes(config)[0]
    return scene.scene, scene.targets[0]


def test_labels_by_another_uncertainty(cfg):
    label = stages.fuse(cfg)
    at = first(cfg)
    std, threshold = stages.uncertainty(cfg, "tta").read_of(*at), cfg.fusion.threshold_m
    pred, proj = stages.predict(cfg).read_of(*at), stages.project(cfg).read_of(*at)
    assert 0 < (std >= threshold).mean() < 1
    assert np.array_equal(label.read_of(*at), fusion.fuse(pred, proj, std, threshold))
    network = stages.load_network(cfg, cfg.arch)
    scene, i = at
    image = torch.from_numpy(scene.image(i, cfg.data.size_hw).transpose(2, 0, 1)[None] / 255).float()
    assert np.abs(measure("tta", [network], image)[0, 0].numpy() - std).max() < 0.001
    assert stages.uncertainty_cost(cfg, "tta")["trainings"] == 0
    assert not (runs.run_folder(cfg) / "variant").exists()


@pytest.mark.parametrize("name", ["mcdropout", "regression"])
def test_what_needs_a_network_of_its_own_trains_it_once(cfg, name, monkeypatch, capsys):
    store = stages.uncertainty(cfg, name)
    assert f"[variant/monodepth2/{name}] is missing" in capsys.readouterr().out
    std = store.read_of(*first(cfg))
    assert std.shape == cfg.data.size_hw
    assert (std > 0).all()
    folder = runs.run_folder(cfg) / "variant" / "monodepth2" / name
    assert (folder / "DONE").is_file()
    cost = stages.uncertainty_cost(cfg, name)
    assert cost["trainings"] == 1
    assert cost["training_s"] > 0 < cost["prediction_s"]
    monkeypatch.setattr(trainings, "train", None)
    assert stages.uncertainty(cfg, name).folder == store.folder


def test_snapshots_that_were_not_kept_are_those_of_the_same_training_again(cfg):
    std = stages.uncertainty(cfg, "snapshots").read_of(*first(cfg))
    folder = runs.run_folder(cfg)
    again = folder / "variant" / "monodepth2" / "snapshots"
    steps = [f.name for f in sorted(again.glob("snapshot-*"))]
    assert steps == [f"snapshot-{k:06}.safetensors" for k in (3, 4, 5)]
    ours, theirs = (load_file(f / WEIGHTS) for f in (again, folder / "pretrain" / "monodepth2"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    scene, i = first(cfg)
    image = torch.from_numpy(scene.image(i, cfg.data.size_hw).transpose(2, 0, 1)[None] / 255).float()
    kept = [models.load_model(again / name) for name in (*steps, WEIGHTS)]
    assert np.abs(measure("snapshots", kept, image)[0, 0].numpy() - std).max() < 0.001


def test_snapshots_that_a_pretraining_has_kept_cost_no_training(cfg, tmp_path):
    folder = tmp_path / "r"
    shutil.copytree(runs.run_folder(cfg), folder, ignore=shutil.ignore_patterns("uncertainty", "variant"))
    teacher = folder / "pretrain" / "monodepth2"
    for step in (3, 4, 5):
        shutil.copy(teacher / WEIGHTS, teacher / f"snapshot-{step:06}.safetensors")
    copy = make_config(profile="smoke", runs_dir=str(tmp_path), run="r")
    assert not stages.uncertainty(copy, "snapshots").read_of(*first(copy)).any()  # they are all alike
    assert stages.uncertainty_cost(copy, "snapshots")["trainings"] == 0
    assert not (folder / "variant").exists()


def test_an_interrupted_uncertainty_goes_on_after_the_last_whole_scene(cfg, tmp_path, monkeypatch):
    shutil.copytree(runs.run_folder(cfg), tmp_path / "r", ignore=shutil.ignore_patterns("uncertainty"))
    copy = make_config(profile="smoke", runs_dir=str(tmp_path), run="r")
    (whole,) = stages.training_scenes(copy)
    twins = [type(whole)(whole.scene.subset(tuple(range(18)), name), whole.triples) for name in ("a", "b")]
    for module in (label_stages, stages.depth):
        monkeypatch.setattr(module, "training_scenes", lambda config: twins)
    calls = []

    def counted(*args):
        calls.append(len(args[2]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(label_stages, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        stages.uncertainty(copy, "tta")
    folder = tmp_path / "r" / "uncertainty" / "monodepth2" / "tta"
    assert (folder / "a" / "index.json").is_file()
    assert not (folder / "DONE").exists()
    store = stages.uncertainty(copy, "tta")
    assert sum(calls[3:]) == len(twins[1].targets), "only the second scene is done again"
    i = twins[1].targets[0]
    assert np.array_equal(store.read_of(twins[0].scene, i), store.read_of(twins[1].scene, i))


def test_what_determines_a_variant_is_in_its_configuration(cfg):
    def of(name, **values):
        config = make_config(profile="smoke", **values)
        return stages.identity_of(config, "uncertainty", "monodepth2", name)

    def variant_of(name, **values):
        return of(name, **values)["needs"][f"variant/monodepth2/{name}"]

    assert variant_of("mcdropout")["settings"]["dropout"] == uncertainty.DROPOUT
    assert of("snapshots")["settings"]["snapshots"] == uncertainty.SNAPSHOTS
    # the teacher is pretrained, the regression a student: it learns the teacher's depth
    assert "needs" not in variant_of("mcdropout")
    assert list(variant_of("regression")["needs"]) == ["predict/monodepth2"]
    second = stages.identity_of(make_config(profile="smoke", round=2), "variant", "monodepth2", "mcdropout")
    assert list(second["needs"]) == ["fuse/monodepth2/uncer"]


# --- how well it finds what is wrong ------------------------------------------------------------------------


def test_average_precision_by_hand():
    # ranked: yes, no, yes, no; then one that ties with a no
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.5])
    positive = np.array([True, False, True, False, False, True])
    recall, precision = comparison.precision_recall(scores, positive)
    assert recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2, 1 / 2])
    assert comparison.average_precision(recall, precision) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


def test_a_constant_finds_by_chance_and_infinite_scores_are_found_last():
    positive = np.array([True, False, False, True])
    assert comparison.average_precision(*comparison.precision_recall(np.zeros(4), positive)) == 0.5
    scores = np.array([1.0, -np.inf, -np.inf, 2.0])
    assert comparison.average_precision(*comparison.precision_recall(scores, positive)) == 1


def test_average_precision_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 40, 500) / 7, rng.random(500) < 0.1
    ours = comparison.average_precision(*comparison.precision_recall(scores, positive))
    assert ours == pytest.approx(sklearn.average_precision_score(positive, scores))


@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        (np.zeros(3), np.zeros(3, bool), "no positive pixel"),
        (np.array([np.nan, 1]), np.array([True, False]), "not a number"),
        (np.zeros(3), np.zeros(2, bool), "must be"),
    ],
)
def test_what_cannot_be_scored_is_named(scores, positive, message):
    with pytest.raises(DataError, match=message):
        comparison.precision_recall(scores, positive)


def hand_made():
    """A wall at 2 m, an over-estimated highlight of 4 pixels and a right one of 2 pixels. The mesh is right."""
    gt = np.full((4, 8), 2.0, np.float32)
    highlight = np.zeros((4, 8), bool)
    highlight[1, 1:7] = True
    pred = gt.copy()
    pred[1, 1:5] = 4.0
    over = pred > 3
    scores = {"right": over * 1.0, "wrong": ~highlight * 1.0, "half": highlight * 0.5}
    return comparison.ScoredFrame(pred, gt.copy(), scores, gt, highlight)


def test_compared_by_hand():
    found = comparison.compare_frames([hand_made(), hand_made()], share=4 / 32)
    table = found.table
    assert found.chance == {"highlight": 6 / 32, "over-estimated highlight": 4 / 32}
    assert table.loc["right", "ap_over"] == 1
    assert table.loc["half", "ap_highlight"] == 1
    assert table.loc["half", "ap_over"] == pytest.approx(4 / 6)
    assert table.loc["wrong", "ap_over"] == pytest.approx(4 / 32)
    # where all of it is found the label is the truth; D is wrong by 2 m on 4 pixels of 32
    assert table.loc["right", "sq_rel"] == 0
    assert table.loc["wrong", "sq_rel"] == pytest.approx(2**2 / 2 * 4 / 32)
    assert table.loc["wrong", "sq_rel_highlight"] == pytest.approx(2**2 / 2 * 4 / 6)
    assert found.labels.loc["pred", "sq_rel"] == pytest.approx(0.25)
    assert found.labels.loc["proj", "sq_rel"] == 0
    picture = uncertainty_figures.precision_recall(found)
    assert [len(axis.lines) for axis in picture.axes] == [4, 4]


def test_pixels_without_truth_do_not_count():
    frame = hand_made()
    gt = frame.gt.copy()
    gt[1, 1] = 0
    found = comparison.compare_frames(
        [comparison.ScoredFrame(frame.pred, frame.proj, frame.scores, gt, frame.highlight)]
    )
    assert found.chance["over-estimated highlight"] == 3 / 31


def test_the_comparison_of_a_run_reads_what_is_there_and_says_what_it_cost(cfg):
    stages.fuse(cfg)
    found = comparison.compare(cfg, frames=4, names=("tta",))
    assert list(found.table.index) == ["tta", *comparison.REFERENCES]
    assert found.frames == 4
    assert found.table.loc["tta", "trainings"] == 0
    assert found.table.loc["tta", "prediction_s"] > 0
    assert "tta" in comparison.available(cfg)
    assert "ensemble" not in comparison.available(cfg)


def test_a_run_without_any_uncertainty_says_so(tmp_path):
    empty = make_config(profile="smoke", runs_dir=str(tmp_path), run="e")
    with pytest.raises(DataError, match="no uncertainty of monodepth2"):
        comparison.compare(empty)
