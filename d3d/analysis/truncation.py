"""The effect of truncation and voxel size in TSDF fusion on projected depth and on the labels of Eq. 3."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from d3d import fusion, io, reconstruction
from d3d.analysis.labels import evenly_at_least, sq_rel_by_pixels, training_scenes
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.pipeline.scenes import TrainingScene
from d3d.prediction import DepthStore
from d3d.progress import track

TRUNCATIONS_M = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5)
VOXELS_M = (0.025, 0.05, 0.075, 0.1)


def truncation_sweep(
    config: Config,
    arch: str = "",
    truncations_m: Sequence[float] | None = None,
    voxels_m: Sequence[float] | None = None,
    frames: int = 30,
) -> pd.DataFrame:
    """Compute Sq Rel of projected depth and of the labels of Eq. 3 at several truncations and voxel sizes.

    The function fuses the stored predicted depth of each training scene with ground truth again, in memory. It stores
    the rows of each finished scene in the run's ``sweeps/``. An interrupted sweep resumes with the next scene.

    Args:
        truncations_m: truncations for the run's voxel size; smaller values are skipped. By default `TRUNCATIONS_M`.
        voxels_m: voxel sizes for the run's truncation; larger values are skipped. By default `VOXELS_M`.
        frames: approximate number of target frames of each scene.

    Returns:
        sweep ("truncation" or "voxel"), trunc_m, voxel_m, pixels ("all", "highlight", "diffuse"), images, and the mean
        Sq Rel over images of pred (D), proj (P, with D where the mesh has no surface) and label (L).

    Raises:
        DataError: no training scene has ground truth.
    """
    arch, f = arch or config.arch, config.fusion
    scenes = training_scenes(config, truth=True)
    truncations_m = TRUNCATIONS_M if truncations_m is None else truncations_m
    voxels_m = VOXELS_M if voxels_m is None else voxels_m
    tried = [("truncation", t, f.voxel_m) for t in truncations_m if t >= f.voxel_m]
    tried += [("voxel", f.trunc_m, v) for v in voxels_m if v <= f.trunc_m]
    predicted, uncertain = stages.predict(config, arch), stages.uncertainty(config)
    threshold = stages.threshold(config, "uncer", arch)
    names = [s.scene.name for s in scenes]
    key = {
        "project": stages.identity_of(config, "project", arch),
        "tried": [list(t) for t in tried],
        "threshold_m": threshold,
        "frames": frames,
        "scale": config.evaluation.scale,
        "predict": {n: predicted.sha256(n) for n in names},
        "uncertainty": {n: uncertain.sha256(n) for n in names},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    folder = stages.folder_of(config, "sweeps", f"truncation-{arch}-{digest}")
    parts = []
    with track(what="truncation sweep", total=len(tried) * len(scenes), unit="mesh") as bar:
        for s in scenes:
            path = folder / f"{predicted.scene_folder(s.scene.name).name}.csv"
            if path.is_file():
                bar.update(len(tried))
            else:
                rows = []
                for sweep, trunc_m, voxel_m in tried:
                    other = replace(config, fusion=replace(f, trunc_m=trunc_m, voxel_m=voxel_m))
                    about = {"sweep": sweep, "trunc_m": trunc_m, "voxel_m": voxel_m}
                    scored = _scored(other, s, predicted, uncertain, threshold, frames)
                    rows += [about | row for row in scored]
                    bar.update()
                with io.atomic(path) as temporary:
                    pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
            parts.append(pd.read_csv(path))
    io.write_json(folder / "key.json", key)
    groups = pd.concat(parts).groupby(["sweep", "trunc_m", "voxel_m", "pixels"], sort=False)
    means = groups[["pred", "proj", "label"]].mean()
    means.insert(0, "images", groups.size())
    return means.reset_index()


def _scored(
    config: Config,
    s: TrainingScene,
    predicted: DepthStore,
    uncertain: DepthStore,
    threshold_m: float,
    frames: int,
) -> Iterator[dict[str, Any]]:
    """Fuse and render one scene, and score it: one row for each frame and kind of pixel."""
    size_hw, targets = config.data.size_hw, list(evenly_at_least(s.targets, frames))
    mesh = stages.mesh_of(config, s, predicted)
    Ks = np.stack([s.scene.K(i, size_hw) for i in targets])
    poses = s.scene.world_T_cams[targets]
    projs = reconstruction.render_depth(mesh, Ks, poses, size_hw, config.fusion.renderer)
    for i, proj in zip(targets, projs, strict=True):
        pred = predicted.read_of(s.scene, i)
        maps = {
            "pred": pred,
            "proj": np.where(proj > 0, proj, pred),
            "label": fusion.fuse(pred, proj, uncertain.read_of(s.scene, i), threshold_m),
        }
        truth = s.scene.depth(i), s.scene.highlight_mask(i)
        scores = pd.DataFrame({name: sq_rel_by_pixels(config, depth, *truth) for name, depth in maps.items()})
        about = {"scene": s.scene.name, "frame": s.scene.frame_ids[i]}
        for kind, row in scores.iterrows():
            yield {**about, "pixels": kind, **row}
