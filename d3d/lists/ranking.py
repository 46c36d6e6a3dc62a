"""Rank frames by reflectiveness for a manual review, without ground truth (section 4.1).

On reflections the networks of the ensemble disagree (3.2.3), and the predicted depth lies behind the fused mesh
(3.2.2). A frame's score is the geometric mean of both distances, in metres. Entry E12 of docs/experiments.md measures
the accuracy of the ranking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import figures, fusion, io, reconstruction
from d3d.datasets import Scene
from d3d.datasets.scene import HW, FrameList
from d3d.errors import ConfigError, DataError
from d3d.evaluation import on_list
from d3d.parallel.tasks import advance, run_tasks
from d3d.pipeline import scenes, stages
from d3d.pipeline.config import Config
from d3d.pipeline.graph import Key, ensure, stage
from d3d.pipeline.runs import StageFolder
from d3d.pipeline.stages.depth import saved, where, where_networks
from d3d.prediction import DepthStore, map_scenes, saved_network

TOP_SHARE = 0.05  # share of a frame's pixels to average: highlights are small
SCORES = ("score", "uncertainty", "disagreement")


@dataclass(frozen=True)
class Evidence:
    """The data behind a frame's score: its image and maps (h, w), metres."""

    image: np.ndarray  # (H, W, 3), larger than the maps, for display
    pred: np.ndarray  # D: the median of the ensemble's networks
    proj: np.ndarray  # P: projected from the mesh of D; 0 where nothing is hit
    uncertainty: np.ndarray  # U

    @property
    def excess(self) -> np.ndarray:
        """Distance of predicted depth behind the mesh, D - P; 0 where the mesh is not hit."""
        return behind_mesh(self.pred, self.proj)


def behind_mesh(pred: np.ndarray, proj: np.ndarray) -> np.ndarray:
    """Compute D - P in metres; 0 where the mesh is not hit."""
    return np.where(proj > 0, pred - proj, 0)


def top_mean(values: np.ndarray, share: float = TOP_SHARE) -> float:
    """Average the largest values: a share of all values, at least one value."""
    return float(np.sort(values, axis=None)[-max(1, round(share * values.size)) :].mean())


def frame_scores(pred: np.ndarray, proj: np.ndarray, uncertainty: np.ndarray) -> dict[str, float]:
    """Score the reflectiveness of a frame from D, P and U (h, w); all in metres.

    Returns:
        uncertainty and disagreement: the means of U and of max(D - P, 0) over the 5 % largest values; score: their
        geometric mean.
    """
    u, d = top_mean(uncertainty), top_mean(np.maximum(behind_mesh(pred, proj), 0))
    return {"score": float(np.sqrt(u * d)), "uncertainty": u, "disagreement": d}


def rank_frames(config: Config) -> pd.DataFrame:
    """Rank the evaluated frames by reflectiveness; needs poses, but no ground truth.

    The results are in ``runs/<run>/rank/<split>``. An interrupted call resumes; a finished ranking is reused.

    Returns:
        One row per frame, the most reflective first: rank (from 1), scene, frame, score, uncertainty, disagreement.
    """
    folder = ensure(config, Key("rank"))
    ranking = pd.read_csv(folder / "frames.csv", dtype={"scene": str, "frame": str})
    ranking = ranking.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    ranking.insert(0, "rank", np.arange(1, len(ranking) + 1))
    return ranking


def _rank_settings(config: Config, key: Key) -> dict[str, Any]:
    return {
        "fusion": {k: v for k, v in asdict(config.fusion).items() if not k.startswith("threshold")},
        "evaluation": {"split": config.evaluation.split, "every": config.evaluation.every},
        "precision": config.predict_precision,
    }


@stage(
    "rank",
    settings=_rank_settings,
    needs=lambda c, k: tuple(Key("pretrain", arch) for arch in c.ensemble),
    data=lambda c, k: scenes.evaluated_data(c),
    path=lambda c, k: f"rank/{scenes.evaluated_name(c)}",
)
def _rank(config: Config, key: Key, opened: StageFolder) -> None:
    folder, name, ranked = (
        opened.folder,
        f"rank/{scenes.evaluated_name(config)}",
        scenes.evaluated_scenes(config),
    )
    wanted = {s.name: scenes.evaluated_frames(config, s) for s in ranked}
    stores = _stores(config, folder)
    for arch, store in zip(config.ensemble, stores, strict=True):
        if not store.folder.is_relative_to(folder):
            stages.evaluate(config, arch)  # its depth is reused here
            continue
        map_scenes(
            saved_network,
            saved(config, Key("pretrain", arch)),
            ranked,
            list(wanted.values()),
            store,
            config.data.size_hw,
            what=f"{name}/{arch}",
            **where_networks(config),
        )
    parts = run_tasks(
        rank_scene,
        {s.name: (config, s, wanted[s.name], stores, folder) for s in ranked},
        what=name,
        sizes={name: len(frames) for name, frames in wanted.items()},
        unit="frame",
        **where(config),
    )
    with io.atomic(folder / "frames.csv") as temporary:
        pd.concat(parts[s.name] for s in ranked).to_csv(temporary, index=False, float_format="%.6g")
    opened.finish({"frames.csv": io.sha256(folder / "frames.csv")})


def folder_of(config: Config) -> Path:
    """Return ``runs/<run>/rank/<split>``, the folder of the ranking and its projected depth."""
    return stages.stage_folder(config, "rank")


def _stores(config: Config, folder: Path) -> list[DepthStore]:
    """The depth of each self-supervised network: from its evaluation; without ground truth, from the ranking."""
    if any(s.has_depth for s in scenes.evaluated_dataset(config).scenes(config.evaluation.split)):
        return [
            DepthStore(stages.stage_folder(config, "evaluate", arch) / "depth") for arch in config.ensemble
        ]
    return [DepthStore(folder / "depth" / arch) for arch in config.ensemble]


def evidence(config: Config, scene: Scene, i: int) -> Evidence:
    """Read the data behind the score of a ranked frame."""
    folder = folder_of(config)
    image = scene.image(i, _legible(scene.size_hw, 640))
    return Evidence(image, *_maps(scene, i, _stores(config, folder), folder))


def _maps(scene: Scene, i: int, stores: Sequence[DepthStore], folder: Path) -> tuple[np.ndarray, ...]:
    """D, P and U of a ranked frame."""
    depths = np.stack([store.read_of(scene, i) for store in stores])
    projected = DepthStore(folder / "projected").read_of(scene, i)
    return np.median(depths, axis=0), projected, fusion.ensemble_std(depths)


def rank_scene(
    config: Config, scene: Scene, frames: Sequence[int], stores: Sequence[DepthStore], folder: Path
) -> pd.DataFrame:
    """Make the rows of one scene, and store its depth projected from the mesh of the networks' median depth.

    Args:
        frames: indices of the ranked frames.
        stores: depth of these frames, for each network.
        folder: folder of the stage.
    """
    projected = DepthStore(folder / "projected")
    if not projected.has(scene.name):
        projected.write_scene(scene.name, _project(config, scene, frames, stores))
    rows = pd.DataFrame([frame_scores(*_maps(scene, i, stores, folder)) for i in frames])
    rows.insert(0, "scene", scene.name)
    rows.insert(1, "frame", [scene.frame_ids[i] for i in frames])
    return rows


def _project(
    config: Config, scene: Scene, frames: Sequence[int], stores: Sequence[DepthStore]
) -> Iterator[tuple[str, np.ndarray]]:
    """Render a scene's mesh (3.2.2) for each ranked frame. The mesh of a single network is less accurate (E12)."""
    f, size_hw, numbers = config.fusion, config.data.size_hw, scene.numbers
    # one frame of every ``integrate_every`` video frames, as in a training scene
    used = [next(stretch) for _, stretch in groupby(frames, lambda i: numbers[i] // f.integrate_every)]
    mesh = reconstruction.reconstruct(
        np.stack([np.median([s.read_of(scene, i) for s in stores], axis=0) for i in used]),
        np.stack([scene.K(i, size_hw) for i in used]),
        scene.world_T_cams[used],
        f.voxel_m,
        f.trunc_m,
        every=1,
        max_depth=config.data.max_depth,
        passes=f.passes,
    )
    for start in range(0, len(frames), 32):  # in parts: memory does not grow with the number of views
        part = list(frames[start : start + 32])
        Ks = np.stack([scene.K(i, size_hw) for i in part])
        depths = reconstruction.render_depth(mesh, Ks, scene.world_T_cams[part], size_hw, f.renderer)
        yield from zip((scene.frame_ids[i] for i in part), depths, strict=True)
        advance(len(depths))


def by_rule(ranking: pd.DataFrame, share: float | None = None, score_m: float | None = None) -> FrameList:
    """Choose frames without a review: the first share (0 to 1) of the ranking, or scores of at least ``score_m``.

    Raises:
        ConfigError: both or neither are given, or the share is invalid.
    """
    if (share is None) == (score_m is None):
        raise ConfigError(f"give share or score_m, one of both, not share={share!r} and score_m={score_m!r}.")
    if share is not None and not 0 < share <= 1:
        raise ConfigError(f"share = {share!r} must be above 0 and at most 1.")
    chosen = ranking.head(round(share * len(ranking))) if share else ranking[ranking["score"] >= score_m]
    return frozenset(zip(chosen["scene"], chosen["frame"], strict=True))


def with_lists(config: Config, lists: str | Path) -> Config:
    """Return the configuration with the parameter ``lists`` set; its tables then have rows for these lists."""
    return replace(config, evaluation=replace(config.evaluation, lists=str(lists)))


def found(ranking: pd.DataFrame, wanted: FrameList, at: Sequence[int] = (20, 50, 100)) -> pd.DataFrame:
    """Compute the average precision of each score for a known list, and its precision over the first k frames.

    Returns:
        One row per score, and one for a random order: "average precision" (mean precision at the ranks of the wanted
        frames), and "first k" for each k in ``at`` up to the length of the ranking.

    Raises:
        DataError: no ranked frame is on the list.
    """
    hits = on_list(ranking, wanted)
    if not hits.any():
        raise DataError("none of the ranked frames is on the list: nothing to find.")
    rows = {}
    for name in SCORES:
        sorted_hits = hits[np.argsort(-ranking[name].to_numpy(), kind="stable")]
        precision = np.cumsum(sorted_hits) / np.arange(1, len(hits) + 1)
        rows[name] = {"average precision": precision[sorted_hits].mean()}
        rows[name] |= {f"first {k}": precision[k - 1] for k in at if k <= len(hits)}
    rows["by chance"] = dict.fromkeys(rows["score"], hits.mean())
    return pd.DataFrame(rows).T


def found_known(config: Config, ranking: pd.DataFrame, name: str = "Reflection") -> pd.DataFrame:
    """Call `found` for a list of the data set; empty if the list does not exist or no frame on it is ranked."""
    known = scenes.evaluated_dataset(config).lists(config.evaluation.split).get(name, frozenset())
    return found(ranking, known) if on_list(ranking, known).any() else pd.DataFrame()


def contact_sheet(config: Config, ranking: pd.DataFrame, count: int = 24, apart: int = 3) -> Figure:
    """Draw the first frames of a ranking, each with its rank and score.

    Frames of a scene are at least ``apart`` ranked frames from each other, because neighbours look alike.
    """
    by_name = {s.name: s for s in scenes.evaluated_dataset(config).scenes(config.evaluation.split)}
    indices = [by_name[s].frame_ids.index(f) for s, f in zip(ranking["scene"], ranking["frame"], strict=True)]
    ranked = ranking.assign(frame_index=indices)
    ranked["place"] = ranked.groupby("scene")["frame_index"].rank()
    shown: list[Any] = []  # rows
    for r in ranked.itertuples():
        if len(shown) < count and all(r.scene != s.scene or abs(r.place - s.place) >= apart for s in shown):
            shown.append(r)
    images = [by_name[r.scene].image(r.frame_index, _legible(by_name[r.scene].size_hw)) for r in shown]
    titles = [f"{r.rank}: {r.scene} {r.frame}, {r.score:.2f} m" for r in shown]
    title = f"Most reflective by score, of {len(ranking)} frames; neighbours left out"
    return figures.contact_sheet(images, titles, title=title)


def _legible(size_hw: HW, width: int = 320) -> HW:
    """The size of an image for display, at most ``width`` pixels wide."""
    h, w = size_hw
    return size_hw if w <= width else (round(h * width / w), width)
