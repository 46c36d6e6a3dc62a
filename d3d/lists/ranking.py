"""Rank frames by how reflective they look, without ground truth, for a person to review (section 4.1).

On reflections the three networks disagree (3.2.3), and predicted depth lies behind the mesh that is fused from it,
because other views do not see the same highlight (3.2.2). A frame's score is the geometric mean of both, in metres.
Entry E12 of docs/experiments.md measures how well it finds frames that are known to be reflective.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import figures, fusion, io, reconstruction
from d3d.datasets import Scene
from d3d.datasets.scene import HW, FrameList
from d3d.errors import ConfigError, DataError
from d3d.parallel.tasks import advance, run_tasks
from d3d.pipeline import stages
from d3d.pipeline.config import ENSEMBLE, Config
from d3d.pipeline.graph import Key, Stage, declare, ensure
from d3d.pipeline.runs import StageFolder
from d3d.pipeline.scenes import (
    evaluated_data,
    evaluated_dataset,
    evaluated_frames,
    evaluated_name,
    evaluated_scenes,
)
from d3d.pipeline.stages.depth import saved, where, where_networks
from d3d.prediction import DepthStore, map_scenes, saved_network

TOP_SHARE = 0.05  # of a frame's pixels: highlights are few, and a mean over all pixels would hide them
SCORES = ("score", "uncertainty", "disagreement")


@dataclass(frozen=True)
class Evidence:
    """The data that a frame's score is computed from: its image and maps (h, w), metres."""

    image: np.ndarray  # (H, W, 3), large enough for a person to judge
    pred: np.ndarray  # D: the median of the three networks
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
    flat = np.sort(values, axis=None)
    return float(flat[-max(1, round(share * flat.size)) :].mean())


def frame_scores(uncertainty: np.ndarray, excess: np.ndarray) -> dict[str, float]:
    """How reflective a frame looks; all scores in metres.

    Args:
        uncertainty: U (h, w), metres.
        excess: D - P (h, w), metres; only positive values count, as a highlight looks too far away.

    Returns:
        uncertainty and disagreement, each a mean over the top 5 % of pixels; score, their geometric mean, which is
        large only where both are large.
    """
    u, d = top_mean(uncertainty), top_mean(np.maximum(excess, 0))
    return {"score": float(np.sqrt(u * d)), "uncertainty": u, "disagreement": d}


def rank_frames(config: Config) -> pd.DataFrame:
    """Ranks the evaluated frames by how reflective they look; needs poses, but no ground truth.

    Stored scene by scene in ``runs/<run>/rank/<split>``: an interrupted call resumes, a finished ranking is read.

    Returns:
        one row per frame, the most reflective first: rank (from 1), scene, frame, score, uncertainty, disagreement.
    """
    folder = ensure(config, Key("rank"))
    ranking = pd.read_csv(folder / "frames.csv", dtype={"scene": str, "frame": str})
    ranking = ranking.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    ranking.insert(0, "rank", np.arange(1, len(ranking) + 1))
    return ranking


def _rank(config: Config, key: Key, opened: StageFolder) -> None:
    scenes = evaluated_scenes(config)
    wanted = {s.name: evaluated_frames(config, s) for s in scenes}
    stores = _predict(config, scenes, wanted, opened.folder)
    parts = run_tasks(
        rank_scene,
        {s.name: (config, s, wanted[s.name], stores, opened.folder) for s in scenes},
        what=f"rank/{evaluated_name(config)}",
        sizes={name: len(frames) for name, frames in wanted.items()},
        unit="frame",
        **where(config),
    )
    with io.atomic(opened.folder / "frames.csv") as temporary:
        pd.concat(parts[s.name] for s in scenes).to_csv(temporary, index=False, float_format="%.6g")
    opened.finish({"frames.csv": io.sha256(opened.folder / "frames.csv")})


def _rank_settings(config: Config, key: Key) -> dict[str, Any]:
    return {
        "fusion": {k: v for k, v in asdict(config.fusion).items() if not k.startswith("threshold")},
        "evaluation": {"split": config.evaluation.split, "every": config.evaluation.every},
        "precision": config.predict_precision,
    }


declare(
    Stage(
        "rank",
        settings=_rank_settings,
        compute=_rank,
        needs=lambda c, k: tuple(Key("pretrain", arch) for arch in ENSEMBLE),
        data=lambda c, k: evaluated_data(c),
        path=lambda c, k: f"rank/{evaluated_name(c)}",
    )
)


def folder_of(config: Config) -> Path:
    """``runs/<run>/rank/<split>``: the ranking, and the projected depth that it is made from."""
    return stages.stage_folder(config, "rank")


def _stores(config: Config, folder: Path) -> list[DepthStore]:
    """Each self-supervised network's depth of the split: that of its evaluation or, without truth, the ranking's."""
    if any(s.has_depth for s in evaluated_dataset(config).scenes(config.evaluation.split)):
        folders = [stages.stage_folder(config, "evaluate", arch) / "depth" for arch in ENSEMBLE]
    else:
        folders = [folder / "depth" / arch for arch in ENSEMBLE]
    return [DepthStore(of) for of in folders]


def _predict(
    config: Config, scenes: Sequence[Scene], wanted: Mapping[str, Sequence[int]], folder: Path
) -> list[DepthStore]:
    """Depth of the split by each network, made where it is not there yet; where it is stored."""
    stores = _stores(config, folder)
    for arch, store in zip(ENSEMBLE, stores, strict=True):
        if any(s.has_depth for s in scenes):
            stages.evaluate(config, arch)  # tables need it anyway
        else:
            map_scenes(
                saved_network,
                saved(config, Key("pretrain", arch)),
                scenes,
                [wanted[s.name] for s in scenes],
                store,
                config.data.size_hw,
                what=f"rank/{evaluated_name(config)}/{arch}",
                **where_networks(config),
            )
    return stores


def evidence(config: Config, scene: Scene, i: int, stores: Sequence[DepthStore] | None = None) -> Evidence:
    """What a ranked frame was judged by, read from the run's folder."""
    depths = np.stack([store.read_of(scene, i) for store in stores or _stores(config, folder_of(config))])
    return Evidence(
        scene.image(i, _legible(scene.size_hw, 640)),
        np.median(depths, axis=0),
        DepthStore(folder_of(config) / "projected").read_of(scene, i),
        fusion.ensemble_std(depths),
    )


def rank_scene(
    config: Config, scene: Scene, frames: Sequence[int], stores: Sequence[DepthStore], folder: Path
) -> pd.DataFrame:
    """A scene's rows of the ranking, from the mesh of the networks' median depth; both are stored.

    Args:
        frames: indices of the ranked frames.
        stores: each network's depth of these frames.
        folder: of the stage.
    """
    projected = DepthStore(folder / "projected")
    if not projected.has(scene.name):
        projected.write_scene(scene.name, _project(config, scene, frames, stores))
    csv = folder / "scores" / f"{projected.scene_folder(scene.name).name}.csv"
    if not csv.is_file():
        rows = []
        for i in frames:
            depths = np.stack([store.read_of(scene, i) for store in stores])
            excess = behind_mesh(np.median(depths, axis=0), projected.read_of(scene, i))
            scores = frame_scores(fusion.ensemble_std(depths), excess)
            rows.append({"scene": scene.name, "frame": scene.frame_ids[i], **scores})
        with io.atomic(csv) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
    return pd.read_csv(csv, dtype={"scene": str, "frame": str})


def _project(
    config: Config, scene: Scene, frames: Sequence[int], stores: Sequence[DepthStore]
) -> Iterator[tuple[str, np.ndarray]]:
    """The depth of a scene's mesh at each ranked frame (3.2.2).

    The mesh is fused from the median of the networks' depth: it finds more than that of one network (E12).
    """
    f, size_hw = config.fusion, config.data.size_hw
    used = thinned(scene, frames, f.integrate_every)
    Ks = np.stack([scene.K(i, size_hw) for i in frames])
    poses = scene.world_T_cams[list(frames)]
    mesh = reconstruction.reconstruct(
        np.stack([np.median([s.read_of(scene, i) for s in stores], axis=0) for i in used]),
        np.stack([scene.K(i, size_hw) for i in used]),
        scene.world_T_cams[list(used)],
        f.voxel_m,
        f.trunc_m,
        every=1,
        max_depth=config.data.max_depth,
        passes=f.passes,
    )
    for start in range(0, len(frames), 32):  # a few views at a time: memory does not grow with the scene
        part = slice(start, start + 32)
        depths = reconstruction.render_depth(mesh, Ks[part], poses[part], size_hw, f.renderer)
        yield from zip((scene.frame_ids[i] for i in frames[part]), depths, strict=True)
        advance(len(depths))


def thinned(scene: Scene, frames: Sequence[int], every: int) -> list[int]:
    """The first of some frames (indices in order) in each stretch of ``every`` frames of the video.

    Their distance is that of the frames fused of a training scene, also where a scene holds a part of the video.
    """
    numbers, taken, last = scene.numbers, [], -1
    for i in frames:
        if numbers[i] // every != last:
            taken.append(i)
            last = numbers[i] // every
    return taken


def by_rule(ranking: pd.DataFrame, share: float | None = None, score_m: float | None = None) -> FrameList:
    """The frames chosen by a rule alone, without review.

    Args:
        share: the first share of the ranking, from 0 to 1; or
        score_m: all frames whose score is at least this, metres.

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

    Args:
        wanted: the frames on the list.
        at: values of k; those beyond the ranking's length are left out.

    Returns:
        one row per score, and one for an order by chance: "average precision" (mean over wanted frames of the
        precision at their rank), and "first k" for each k.

    Raises:
        DataError: none of the ranked frames is on the list.
    """
    hits = np.array([key in wanted for key in zip(ranking["scene"], ranking["frame"], strict=True)])
    if not hits.any():
        raise DataError("none of the ranked frames is on the list: nothing to find.")
    at = [k for k in at if k <= len(hits)]
    rows = {}
    for name in SCORES:
        sorted_hits = hits[np.argsort(-ranking[name].to_numpy(), kind="stable")]
        precision = np.cumsum(sorted_hits) / np.arange(1, len(hits) + 1)
        rows[name] = {"average precision": precision[sorted_hits].mean()}
        rows[name] |= {f"first {k}": precision[k - 1] for k in at}
    rows["by chance"] = dict.fromkeys(rows["score"], hits.mean())
    return pd.DataFrame(rows).T


def found_known(config: Config, ranking: pd.DataFrame, name: str = "Reflection") -> pd.DataFrame:
    """As `found`, for one of the data set's lists; empty where the list does not exist or no frame of it is ranked."""
    known = evaluated_dataset(config).lists(config.evaluation.split).get(name, frozenset())
    if known.isdisjoint(zip(ranking["scene"], ranking["frame"], strict=True)):
        return pd.DataFrame()
    return found(ranking, known)


def contact_sheet(config: Config, ranking: pd.DataFrame, count: int = 24, apart: int = 3) -> Figure:
    """A picture of the first frames of a ranking, each with its rank and score.

    Args:
        apart: least distance between two frames of a scene in the sheet, in ranked frames: neighbours look alike.
    """
    scenes = {s.name: s for s in evaluated_dataset(config).scenes(config.evaluation.split)}
    places = {}  # of a ranked frame among its scene's
    for name, ids in ranking.groupby("scene")["frame"].agg(set).items():
        places |= {(name, f): k for k, f in enumerate(f for f in scenes[name].frame_ids if f in ids)}
    images, titles, shown = [], [], set()
    for r in ranking.itertuples():
        scene, i = scenes[r.scene], scenes[r.scene].frame_ids.index(r.frame)
        place = places[r.scene, r.frame]
        if len(images) < count and not any((r.scene, place + k) in shown for k in range(-apart + 1, apart)):
            shown.add((r.scene, place))
            images.append(scene.image(i, _legible(scene.size_hw)))
            titles.append(f"{r.rank}: {r.scene} {r.frame}, {r.score:.2f} m")
    title = f"Most reflective by score, of {len(ranking)} frames; neighbours left out"
    return figures.contact_sheet(images, titles, title=title)


def _legible(size_hw: HW, width: int = 320) -> HW:
    """The size of an image for a person to look at: at most this width."""
    h, w = size_hw
    return size_hw if w <= width else (round(h * width / w), width)
