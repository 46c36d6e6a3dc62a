# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 Another data set: relative depth
#
# **Paper** section 4.2, Table 5. **In:** the networks of a run (trained now if missing), and a data set that they never
# saw. **Out:** per-image scores of relative depth, `runs/<run>/evaluate/<network>/<training>/<data set>-<split>`.
# **Time** at profile ready: a minute after 04 on two CPU cores; on one GPU not measured.
#
# `papermill 06_sevenscenes.ipynb out.ipynb -p eval_dataset 7scenes -p eval_root ../data/7scenes`
#
# **What the outputs show.** The paper trains on ScanNet and scores 13 sequences of 7-Scenes. Neither data set may be
# passed on. The outputs below are therefore a stand-in: the *test rooms of GlossyRooms*, scored as in Table 5. These
# rooms are unseen, but they are of the same kind as the training rooms. Scores of a real kitchen are a recorded table
# at the end. The line above scores real sequences, once you have them ([data/README.md](../data/README.md)).

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
recipe: str = None  # paper (Eq. 3) or robust (recommended, docs/robust.md); sets the labels
labels: str = None  # label strategy of Table 6: uncer, pred, proj, diff, mv, ...; None: that of the recipe
dataset: str = None  # what was trained on: glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
eval_dataset: str = "glossyrooms"  # what is scored: 7scenes for the paper's Table 5
eval_root: str = None  # its folder, as ../data/7scenes; None: the one that ships
split: str = "test"  # of what is scored; of 7scenes the paper's 13 sequences, those that are there
scale: str = "median"  # relative depth, the paper's choice here; none: metres
keyframes: str = None  # a list of frames to score instead of all: test_Key.txt, or Name=file
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed
threshold_m: float = None  # alpha_uncer of Eq. 3, metres; None: as the profile has it

# %%
import numpy as np
from IPython.display import Markdown

import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)
print(
    f"scored on: {d3d.stages.evaluated_dataset(cfg)}, split {cfg.evaluation.split}, scale {cfg.evaluation.scale}"
)

# %% [markdown]
# ## Why relative depth
# "We evaluate the relative depth as the camera intrinsics of different datasets are different." A network that has seen
# one camera cannot tell a longer focal length from a nearer room. Before scoring, each predicted depth map $D$ is
# therefore multiplied by one number, so that its median over the $n$ pixels with truth $D^*$ is that of the truth:
#
# $$\tilde{D} = s D, \qquad s = \frac{\operatorname{median}(D^*)}{\operatorname{median}(D)}$$
#
# The metrics of [05_evaluate](05_evaluate.ipynb) then judge the shape of the room. The cell scales one image, the one
# with most highlight, and compares with d3d and with the stored score.

# %%
results = d3d.stages.results(cfg)  # labels -> one row for each image and kind of pixel; "" is the teacher
((name, frame),) = d3d.figures.frames.reflective_frames(results[""], None, count=1)
scene = next(s for s in d3d.stages.evaluated_dataset(cfg).scenes(cfg.evaluation.split) if s.name == name)
gt = scene.depth(scene.frame_ids.index(frame))
predicted = d3d.figures.figure5.evaluated_depth(cfg, cfg.arch, "").read(name, frame)

near, far = cfg.data.min_depth, cfg.data.max_depth
known = gt > 0
T = gt[known].astype(float)
D = d3d.metrics.resize_depth(predicted, gt.shape).astype(float)[known]
s = np.median(T) / np.median(D)
D = (s * D).clip(near, far)
two = {"abs_rel": np.mean(np.abs(D - T) / T), "sq_rel": np.mean((D - T) ** 2 / T)}

library = d3d.metrics.depth_metrics(predicted, gt, scale="median", min_depth=near, max_depth=far)
np.testing.assert_allclose(list(two.values()), [library[m] for m in two], rtol=1e-9)
if cfg.evaluation.scale == "median":
    stored = results[""].set_index(["scene", "frame", "pixels"]).loc[(name, frame, "all")]
    np.testing.assert_allclose(list(two.values()), stored[list(two)].astype(float), rtol=1e-4)
print(
    f"{name}, frame {frame}: depth times {s:.3f}; Abs Rel {two['abs_rel']:.3f}, Sq Rel {two['sq_rel']:.3f} m"
)

# %% [markdown]
# ## Pictures
# Depth as the networks predict it, before the scaling. The number on an error map is the median error on highlights.

# %%
d3d.figures.figure5.make(cfg, [cfg.arch], count=3).figure

# %% [markdown]
# ## Table 5
# Rows of the paper stand below ours only where all 13 sequences of 7-Scenes were scored and another data set was
# trained on. Only what this run has evaluated is shown.

# %%
made = d3d.tables.of_run(cfg, "5")
table = made.frame[(made.frame["n"] > 0) | (made.frame["source"] == "paper")]
Markdown(f"**{made.caption}.**\n\n{d3d.tables.to_markdown(table)}")

# %%
print(d3d.tables.improvement(cfg, results))

# %% [markdown]
# ## Image by image
# Each point is an image; below the diagonal the student is better than its teacher.

# %%
students = {d3d.evaluation.training_name(labels): r for labels, r in results.items() if labels}
d3d.figures.per_image(results[""], students, shares=cfg.learns)

# %% [markdown]
# ## A real kitchen, recorded
# The networks of profile laptop, trained on rendered rooms (seed 0), on 200 frames of *redkitchen* of 7-Scenes, one of
# Table 5's 13 sequences, with the sensor's depth as truth:
#
# | Abs Rel / Sq Rel (m) | Monodepth2 | HR-Depth | MonoViT |
# | --- | --- | --- | --- |
# | Self-Supervised | .265 / .193 | .263 / .197 | .277 / .234 |
# | Self-Teaching | .304 / .263 | .257 / .188 | .271 / .219 |
# | 3D Distillation | .292 / .226 | .273 / .202 | .267 / .201 |
#
# Source: entry E25 of [experiments](../docs/experiments.md), with the command. The gain does **not** transfer: 3D
# distillation is better than self-supervision for one of the three networks. The step from 30 rendered rooms to a
# kitchen is too large for networks trained for minutes. The paper goes from 1,201 scanned scenes to seven.

# %% [markdown]
# ## Checks
# Relative depth does not know the unit: a depth map four times as large scores the same.

# %%
# NBVAL_CHECK_OUTPUT
first, second = (d3d.metrics.depth_metrics(k * gt[::-1], gt, scale="median", max_depth=100.0) for k in (1, 4))
np.testing.assert_allclose(list(first.values()), list(second.values()))
if cfg.evaluation.scale == "median":
    ours = table[(table["source"] == "ours") & (table["dataset"] == cfg.evaluation.dataset)]
    row = ours[ours["architecture"] == d3d.evaluation.arch_name(cfg.arch)].query(
        "training == 'Self-Supervised'"
    )
    whole = results[""].query("pixels == 'all' and in_split")
    np.testing.assert_allclose(row["abs_rel"].iloc[0], whole["abs_rel"].mean())
print("relative depth has no unit; the table is the mean over images")

# %% [markdown]
# ## Summary
# - Relative depth: one factor an image, the ratio of the medians, before the metrics.
# - The outputs here are of rendered test rooms. The recorded table of a real kitchen shows that a gain on rendered
#   rooms says little about real ones.
#
# ## Exercises
# 1. Compute the factor $s$ of every image of one room. How much does it vary, and what would a wrong focal length do?
# 2. Set `scale = "none"`. Which metrics change most, and for which network?
# 3. Scale with the ratio of the means instead of the medians. Which of both do a few wrong far pixels disturb less?
#
# **Next:** [07_ablation](07_ablation.ipynb) asks which label teaches best.
#
# Every parameter of `d3d.config.PARAMETERS` can be given to papermill (`-p eval_every 10`). A wrong name or value is an
# error that names the near misses. [Profiles](../docs/profiles.md) says what each profile costs.
