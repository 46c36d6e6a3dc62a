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
# # 05 Evaluation: before and after
#
# **Paper** section 4, Tables 2 to 4 and Figure 5. **In:** the self-supervised network and its distilled student
# (trained now if it is missing). **Out:** per-image scores and tables, `runs/<run>/evaluate` and `/tables`. **Time** at
# profile ready: a minute after 04 on two CPU cores; on one GPU not measured.
#
# `papermill 05_evaluate.ipynb out.ipynb -p arch hrdepth`

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
recipe: str = None  # paper (Eq. 3) or robust (recommended, docs/robust.md); sets the labels
labels: str = None  # label strategy of Table 6: uncer, pred, proj, diff, mv; None: that of the recipe
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed
threshold_m: float = None  # alpha_uncer of Eq. 3, metres; None: as the profile has it

# %%
import numpy as np
from IPython.display import Markdown

import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)

# %% [markdown]
# ## The result, recorded
# Each network was trained in three ways. *Self-Supervised* minimises the photometric loss. *Self-Teaching* is a student
# of the network's own depth. *3D Distillation* is a student of the fused label. All were scored on rooms that none of
# them has seen. These scores are stored in [results](../results), so this table needs no training. It is for the images
# that show reflections, as the paper's Table 3; best bold, second best in italics.

# %%
recorded = d3d.tables.read(d3d.tables.results_folder(d3d.config.make_config(profile="laptop")))
Markdown(d3d.tables.to_markdown(d3d.tables.make_table(recorded, "3")))

# %% [markdown]
# The paper's summary of Tables 2 to 4: by how many percent does 3D distillation change the Sq Rel of self-teaching? The
# gain is largest on the images that show reflections; those that show none lose nothing.

# %%
import pandas as pd

tables = pd.concat(d3d.tables.make_table(recorded, key) for key in "234")
sq_rel = tables.pivot_table("sq_rel", ["set", "architecture"], "training", sort=False)
(100 * (sq_rel["3D Distillation"] / sq_rel["Self-Teaching"] - 1)).unstack().round(0).astype(int)

# %% [markdown]
# ## The seven metrics
# For one image with the true depth $D^*$ at $n$ pixels $x$ and the prediction $D$:
#
# $$\text{Abs Rel} = \frac{1}{n} \sum_x \frac{|D - D^*|}{D^*} \qquad
# \text{Sq Rel} = \frac{1}{n} \sum_x \frac{(D - D^*)^2}{D^*} \qquad
# \text{RMSE} = \sqrt{\frac{1}{n} \sum_x (D - D^*)^2}$$
#
# $$\text{RMSE log} = \sqrt{\frac{1}{n} \sum_x (\log D - \log D^*)^2} \qquad
# \delta_k = \frac{1}{n} \Big|\Big\{x : \max\Big(\frac{D}{D^*}, \frac{D^*}{D}\Big) < 1.25^k\Big\}\Big|, \ k = 1, 2, 3$$
#
# Sq Rel and RMSE are in metres. Sq Rel divides by $D^*$, not by its square, as everywhere in the field. $D$ is first
# resized to the size of $D^*$ and clamped to 0.1 .. 10 m. A table has the mean over images, not over pixels.
#
# The image below is the one with most highlight. The cell computes the metrics, then calls d3d, then compares both with
# the stored score.

# %%
results = d3d.stages.results(cfg)  # labels -> one row for each image and kind of pixel; "" is the teacher
((name, frame),) = d3d.figures.frames.reflective_frames(results[""], None, count=1)
scene = next(s for s in d3d.stages.evaluated_dataset(cfg).scenes(cfg.evaluation.split) if s.name == name)
i = scene.frame_ids.index(frame)
gt, highlight = scene.depth(i), scene.highlight_mask(i)
predicted = d3d.figures.figure5.evaluated_depth(cfg, cfg.arch, "").read(name, frame)

near, far = cfg.data.min_depth, cfg.data.max_depth
known = gt > 0
D = d3d.metrics.resize_depth(predicted, gt.shape).astype(float).clip(near, far)[known]
T = gt[known].astype(float)
ratio = np.maximum(D / T, T / D)
seven = {
    "abs_rel": np.mean(np.abs(D - T) / T),
    "sq_rel": np.mean((D - T) ** 2 / T),
    "rmse": np.sqrt(np.mean((D - T) ** 2)),
    "rmse_log": np.sqrt(np.mean((np.log(D) - np.log(T)) ** 2)),
    "a1": np.mean(ratio < 1.25),
    "a2": np.mean(ratio < 1.25**2),
    "a3": np.mean(ratio < 1.25**3),
}

library = d3d.metrics.depth_metrics(predicted, gt, min_depth=near, max_depth=far)
stored = results[""].set_index(["scene", "frame", "pixels"]).loc[(name, frame, "all")]
if cfg.evaluation.scale == "none":  # absolute depth; relative depth is in 06
    np.testing.assert_allclose(list(seven.values()), [library[m] for m in seven], rtol=1e-9)
    np.testing.assert_allclose(list(seven.values()), stored[list(seven)].astype(float), rtol=1e-4)
pd.DataFrame([seven, library], index=["these lines", "d3d.metrics.depth_metrics"]).round(4)

# %% [markdown]
# Why the paper looks at Sq Rel: it squares the error, so a few pixels that are far off dominate it. How much of this
# image's Sq Rel lies on its highlights?

# %%
if highlight is not None:
    off = (D - T) ** 2 / T
    share, part = highlight[known].mean(), off[highlight[known]].sum() / off.sum()
    print(f"{name}, frame {frame}: {share:.0%} of the pixels are highlights; they have {part:.0%} of Sq Rel.")

# %% [markdown]
# ## This run: teacher and student
# The same table for the networks of this run: the whole split, then the images of each list that the data set has
# ([00_data](00_data.ipynb)). *Mirror* lists images of mirrors, which the paper leaves unsolved. Rows of the paper stand
# below ours only where data set and split are the paper's.

# %%
table = d3d.tables.run_table(cfg, [(cfg.arch, labels) for labels in results])
Markdown(d3d.tables.to_markdown(table))

# %%
print(d3d.tables.improvement(cfg, results))

# %% [markdown]
# The same means over highlight pixels only, and over the others:

# %%
d3d.tables.by_pixels(results).set_index(["pixels", "training"]).round(3)

# %% [markdown]
# ## Image by image
# A mean can hide much. Each point is an image; below the diagonal the student is better than its teacher. Points above
# the diagonal are images where it is worse (exercise 3).

# %%
students = {d3d.evaluation.training_name(labels): r for labels, r in results.items() if labels}
d3d.figures.per_image(results[""], students, shares=cfg.learns)

# %% [markdown]
# ## Figure 5: before and after
# The images with most highlight, one of each room (where a data set has no masks of highlights, the images with the
# largest error of the teacher). *Self-Supervised* is the teacher, *3D Distillation* the student. On the right, the
# error of each depth map: red is too far, blue too near. Highlights are outlined, and the number is the median error
# on them.

# %%
d3d.figures.figure5.make(cfg, [cfg.arch], count=3).figure

# %% [markdown]
# ## Checks
# The truth scored against itself has no error, and the table is the mean of the per-image scores.

# %%
# NBVAL_CHECK_OUTPUT
perfect = d3d.metrics.depth_metrics(gt, gt, max_depth=float(gt.max()) + 1)
assert max(perfect[m] for m in ("abs_rel", "sq_rel", "rmse", "rmse_log")) < 1e-6
assert min(perfect[m] for m in ("a1", "a2", "a3")) == 1
whole = results[""].query("pixels == 'all' and in_split")
np.testing.assert_allclose(table["sq_rel"].iloc[0], whole["sq_rel"].mean())
print("the truth scores 0 errors and full shares; the table is the mean over images")

# %% [markdown]
# ## Summary
# - The seven metrics are a few lines each; d3d computes the same numbers.
# - The recorded tables compare three trainings of three networks. Those with n = 3 also say how far seeds differ.
# - A run of profile ready trains one student. The sentence below its table says how it compares with its teacher.
# - Look at highlights apart: they are few pixels, and a mean over all pixels hides them.
#
# ## Exercises
# 1. Replace the mean over pixels by the median in the seven metrics. Which training wins now, and why?
# 2. Score the student of `hrdepth`: `papermill 05_evaluate.ipynb out.ipynb -p arch hrdepth`. Does it gain as much?
# 3. Find the image on which the student is worst compared with its teacher (`results`), and show it with
#    `d3d.figures.figure5.draw`. What went wrong there?
#
# **Next:** [06_sevenscenes](06_sevenscenes.ipynb) scores the same networks in the way of Table 5.
#
# Every parameter of `d3d.config.PARAMETERS` can be given to papermill (`-p seed 1`). A wrong name or value is an error
# that names the near misses. [Profiles](../docs/profiles.md) says what each profile costs.
