"""Rank frames by how reflective they look, without ground truth, for a person to review (section 4.1).

On reflections the networks of the ensemble disagree (3.2.3), and predicted depth lies behind the mesh that is fused
from it, because other views do not see the same highlight (3.2.2). A frame's score is the geometric mean of both, in
metres. Entry E12 of docs/experiments.md measures how well it finds frames that are known to be reflective.
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

TOP_SHARE = 0.05  # of a frame's pixels: highlights are few, and a mean over all pixels would hide them
SCORES = ("score", "uncertainty", "disagreement")


@dataclass(frozen=True)
class Evidence:
    """The data that a frame's score is computed from: its image and maps (h, w), metres."""

    image: np.ndarray  # (H, W, 3), large enough for a person to judge
    pred: np.ndarray  # D: the median of the ensemble's networks
    proj: np.ndarray  # P: projected from the mesh of D; 0 where nothing is hit
    uncertainty: np.ndarray  # U

    @property
    def excess(self) -> np.ndarray:
        """Distance of predicted depth behind the mesh, D - P; 0 where the mesh is not hit."""
        return behind_mesh(self.pred, self.proj)


def behind_mesh(pred: np.ndarray, proj: np.ndarray) -> np.ndarray:
    """D - P, metres; 0 where the mesh is not hit."""
    return np.where(proj > 0, pred - proj, 0)


def top_mean(values: np.ndarray, share: float = TOP_SHARE) -> float:
    """Mean of the largest values: a share of all values, at least one."""
    return float(np.sort(values, axis=None)[-max(1, round(share * values.size)) :].mean())


def frame_scores(pred: np.ndarray, proj: np.ndarray, uncertainty: np.ndarray) -> dict[str, float]:
    """How reflective a frame looks, from D, P and U (h, w); all in metres.

    Returns:
        uncertainty and disagreement, the means of U and of max(D - P, 0) over the top 5 % of pixels (a highlight
        looks too far away); score, their geometric mean, which is large only where both are large.
    """
    u, d = top_mean(uncertainty), top_mean(np.maximum(behind_mesh(pred, proj), 0))
    return {"score": float(np.sqrt(u * d)), "uncertainty": u, "disagreement": d}


def rank_frames(config: Config) -> pd.DataFrame:
    """Rank the evaluated frames by how reflective they look; needs poses, but no ground truth.

    Stored scene by scene in ``runs/<run>/rank/<split>``: an interrupted call resumes, a finished ranking is read.

    Returns:
        one row per frame, the most reflective first: rank (from 1), scene, frame, score, uncertainty, disagreement.
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
            stages.evaluate(config, arch)  # tables need it anyway
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
    """``runs/<run>/rank/<split>``: the ranking, and the projected depth that it is made from."""
    return stages.stage_folder(config, "rank")


def _stores(config: Config, folder: Path) -> list[DepthStore]:
    """Each self-supervised network's depth of the split: that of its evaluation or, without truth, the ranking's."""
    if any(s.has_depth for s in scenes.evaluated_dataset(config).scenes(config.evaluation.split)):
        return [
            DepthStore(stages.stage_folder(config, "evaluate", arch) / "depth") for arch in config.ensemble
        ]
    return [DepthStore(folder / "depth" / arch) for arch in config.ensemble]


def evidence(config: Config, scene: Scene, i: int) -> Evidence:
    """The data that a ranked frame was judged by, read from the run's folder."""
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
    """A scene's rows of the ranking. Its depth, projected from the mesh of the networks' median depth, is stored.

    Args:
        frames: indices of the ranked frames.
        stores: each network's depth of these frames.
        folder: of the stage.
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
    """The depth of a scene's mesh (3.2.2) at each ranked frame. A mesh of one network finds less (E12)."""
    f, size_hw, numbers = config.fusion, config.data.size_hw, scene.numbers
    # one frame of each stretch of the video: as dense as a training scene, also where not every frame is kept
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
    for start in range(0, len(frames), 32):  # a few views at a time: memory does not grow with the scene
        part = list(frames[start : start + 32])
        Ks = np.stack([scene.K(i, size_hw) for i in part])
        depths = reconstruction.render_depth(mesh, Ks, scene.world_T_cams[part], size_hw, f.renderer)
        yield from zip((scene.frame_ids[i] for i in part), depths, strict=True)
        advance(len(depths))


def by_rule(ranking: pd.DataFrame, share: float | None = None, score_m: float | None = None) -> FrameList:
    """The frames chosen without review: the first share (0 to 1) of the ranking, or a score of at least ``score_m``.

    Raises:
        ConfigError: not exactly one of both, or an invalid share.
    """
    if (share is None) == (score_m is None):
        raise ConfigError(f"give share or score_m, one of both, not share={share!r} and score_m={score_m!r}.")
    if share is not None and not 0 < share <= 1:
        raise ConfigError(f"share = {share!r} must be above 0 and at most 1.")
    chosen = ranking.head(round(share * len(ranking))) if share else ranking[ranking["score"] >= score_m]
    return frozenset(zip(chosen["scene"], chosen["frame"], strict=True))


def with_lists(config: Config, lists: str | Path) -> Config:
    """The configuration with the parameter ``lists`` set, so that its tables have rows for these lists, too."""
    return replace(config, evaluation=replace(config.evaluation, lists=str(lists)))


def found(ranking: pd.DataFrame, wanted: FrameList, at: Sequence[int] = (20, 50, 100)) -> pd.DataFrame:
    """Average precision, and precision of the first k frames, of each score for a known list.

    Returns:
        one row per score, and one for an order by chance: "average precision" (mean over wanted frames of the
        precision at their rank), and "first k" for each k in ``at`` up to the ranking's length.

    Raises:
        DataError: none of the ranked frames is on the list.
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
    """As `found`, for one of the data set's lists; empty where the list does not exist or no frame of it is ranked."""
    known = scenes.evaluated_dataset(config).lists(config.evaluation.split).get(name, frozenset())
    return found(ranking, known) if on_list(ranking, known).any() else pd.DataFrame()


def contact_sheet(config: Config, ranking: pd.DataFrame, count: int = 24, apart: int = 3) -> Figure:
    """A picture of the first frames of a ranking, each with its rank and score.

    Two frames of a scene are at least ``apart`` ranked frames from each other: neighbours look alike.
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
    """The size of an image for a person to look at: at most this width."""
    h, w = size_hw
    return size_hw if w <= width else (round(h * width / w), width)
