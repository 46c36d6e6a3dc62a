"""The quality of the mask of triplet mining, on triples with a known answer."""

import numpy as np
import pytest
import torch
from test_training import SIZE, Wall
from test_uncertainty import Toy

from benchmarks import triplet
from d3d.analysis.triplet import MaskFrame, errors_of, frames_with_truth, mask_quality
from d3d.datasets.samples import TripleSamples
from d3d.datasets.triples import find_triples
from d3d.losses import self_supervised_loss
from d3d.pipeline.config import make_config


def triple():
    wall = Wall()
    triples = find_triples(wall.world_T_cams, every=1)
    return TripleSamples([wall], [triples], SIZE, augment=False)[0, 0]


def wall_with_highlight():
    """A wall at 2 m. Its target has a bright patch that the sources do not show."""
    sample, highlight = triple(), np.zeros(SIZE, bool)
    highlight[12:18, 28:36] = True
    sample["target"][:, torch.from_numpy(highlight)] = 1.0
    return MaskFrame(sample, np.full(SIZE, 2.0, np.float32), highlight)


def test_the_mask_finds_a_highlight_where_the_depth_is_right():
    frame = wall_with_highlight()
    found = mask_quality(Toy(lambda x: torch.full_like(x[:, :1], 2.0)), [frame, frame])
    share = frame.highlight.mean()
    assert found.loc["chance", "precision"] == found.loc["chance", "ap"] == pytest.approx(share)
    assert found.loc["triplet, Q1", "share"] == pytest.approx(0.25, abs=0.01)
    assert found.loc["triplet, Q1", "recall"] == 1
    assert found.loc["triplet, Q1", "precision"] == pytest.approx(share / 0.25, rel=0.05)
    assert found.loc["triplet, Q1", "ap"] > 0.5
    # the same depth everywhere finds nothing
    assert found.loc["distance D", "ap"] == pytest.approx(share)
    assert found["recall_over"].isna().all(), "no depth is too far"


def test_depth_that_is_too_far_is_counted_by_itself():
    frame = wall_with_highlight()
    patch = torch.from_numpy(frame.highlight)

    def depth(images):
        far = torch.full_like(images[:, :1], 2.0)
        far[:, :, patch & (torch.arange(SIZE[1]) < 32)] = 3.0
        return far

    found = mask_quality(Toy(depth), [frame])
    assert found.loc["chance", "precision_over"] == pytest.approx(found.loc["chance", "precision"] / 2)
    assert found.loc["distance D", "ap_over"] == 1


def test_the_errors_are_those_of_the_training():
    sample, network = triple(), Toy(lambda x: 1.5 + x[:, :1])
    positive, negative, _ = errors_of(network, sample)
    batch = torch.utils.data.default_collate([sample])
    sources, poses = batch["sources"].transpose(0, 1), batch["source_T_target"].transpose(0, 1)
    disps = network(batch["target"])
    _, parts = self_supervised_loss(
        disps, batch["target"], sources, batch["K"], poses, loss="triplet", margin=9
    )
    assert positive.mean().item() == pytest.approx(parts["photometric"].item(), rel=1e-5)
    q1, q3 = np.quantile((negative - positive).numpy(), (0.25, 0.75))
    expected = (positive - negative).mean().item() + q1 + 9 * (q3 - q1)  # every pixel is in the mask
    assert parts["triplet"].item() == pytest.approx(expected, rel=1e-4)


def test_frames_with_truth_are_targets_at_the_networks_size():
    config = make_config(profile="smoke")
    frames = list(frames_with_truth(config, count=4))
    assert 4 <= len(frames) < 8
    for frame in frames:
        assert frame.gt.shape == frame.highlight.shape == config.data.size_hw
        assert frame.sample["target"].shape[1:] == config.data.size_hw


def test_the_benchmark_prints_masks_and_steps(capsys, monkeypatch):
    monkeypatch.setattr(triplet, "available", lambda: ["lite-distilled"])
    triplet.main(["masks", "--frames", "1"])
    printed = capsys.readouterr().out
    assert printed.count("triplet, Q1 - 1.5 IQR") == printed.count("chance") == 1
    triplet.main(["behind", "--frames", "1"])
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4
    triplet.main(["steps", "--repeat", "1"])
    assert "triplet-stop: " in capsys.readouterr().out
