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
# # 10 Uncertainty: five ways to be unsure, and what each finds
#
# **Paper** section 3.2.3 and Eq. 3; section 2.3 and Table 1 name the alternatives. **In:** the networks, predicted
# and projected depth (computed now if missing). **Out:** `runs/<run>/uncertainty`, and `/variant` where an
# uncertainty needs a training of its own. **Time** at profile ready: two minutes after 04 on two CPU cores; on one
# GPU not measured.
#
# `papermill 10_uncertainty.ipynb out.ipynb -p arch hrdepth`
#
# Profile ready computes the two uncertainties that need no training, `ensemble` and `tta`, and shows any other that
# the run has. The other profiles compute all five. To add one: `python -m d3d fuse --profile ready --labels
# uncer-regression`.

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
arch: str = "monodepth2"  # network whose depth is judged: monodepth2, hrdepth, monovit or lite
dataset: str = None  # glossyrooms; None: as the profile has it (others have no masks of highlights)
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed

# %%
import numpy as np
import pandas as pd

import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)

# %% [markdown]
# ## What stands for $U$ in Eq. 3
# Each is a standard deviation of the depth in metres, and each may be named in labels: `uncer-tta` is Eq. 3 with `tta`.
#
# | name | spread of | more trainings |
# | --- | --- | --- |
# | `ensemble` | three architectures (the paper's) | 2 |
# | `mcdropout` | eight passes with channels of the decoder dropped | 1 |
# | `tta` | the image, its mirror image and four changes of colour | 0 |
# | `snapshots` | the weights of the second half of one training | 0 if kept, else 1 |
# | `regression` | what a second output predicts, trained on the network's own depth | 1 |
#
# The paper does "not use MC-dropout here, as MC-dropout may not work well in SSMDE with known scale".
#
# ## The result, recorded
# All five on one run of profile demo (seed 0; entry E13 of [experiments](../docs/experiments.md)). `ap` is the average
# precision of finding highlights, and highlights whose depth is over-estimated by a quarter or more; a random order has
# .031 and .022. `sq_rel` is that of the label of Eq. 3, in metres, if each uncertainty takes $P$ at 30 % of the pixels.
# The last two rows need no uncertainty: the distance $D$ itself, and how far $D$ lies behind the mesh.

# %%
recorded = d3d.io.project_root() / "paper_figures" / "glossyrooms_demo_seed0_uncertainty-table.csv"
columns = ["ap_highlight", "ap_over", "sq_rel", "sq_rel_highlight", "sq_rel_diffuse", "trainings"]
pd.read_csv(recorded, index_col="uncertainty")[columns].round(3)

# %% [markdown]
# ## This run
# Each map on a scale of its own: white is the value written on it. The frame is the training frame with most
# over-estimated highlight (outlined).

# %%
names = d3d.fusion.UNCERTAINTIES if cfg.teachers == "trained" else ("ensemble", "tta")
for name in names:
    d3d.stages.uncertainty(cfg, name, cfg.arch)
d3d.figures.uncertainty.maps(cfg, width_in=11, font_pt=10)

# %% [markdown]
# ## Precision and recall
# A pixel is found where $U \geq \alpha$. Let $H$ be the set of pixels on highlights:
#
# $$\text{precision}(\alpha) = \frac{|\{U \geq \alpha\} \cap H|}{|\{U \geq \alpha\}|} \qquad
# \text{recall}(\alpha) = \frac{|\{U \geq \alpha\} \cap H|}{|H|}$$
#
# Average precision is the area under the curve of all $\alpha$. The cell computes all this for the ensemble, over the
# training frames with truth, and compares with d3d.

# %%
U, H = [], []
for scene, i in d3d.analysis.uncertainty.frames_to_compare(cfg, 26):
    gt, mask = (
        d3d.geometry.nearest_depth(m, cfg.data.size_hw) for m in (scene.depth(i), scene.highlight_mask(i))
    )
    U.append(d3d.stages.uncertainty(cfg, "ensemble").read_of(scene, i)[gt > 0])
    H.append(mask[gt > 0])
U, H = np.concatenate(U), np.concatenate(H)

alphas, count = np.unique(U, return_counts=True)  # pixels with the same U are found together
hits = np.bincount(np.searchsorted(alphas, U), weights=H)
found, hits = count[::-1].cumsum(), hits[::-1].cumsum()  # from the largest alpha down
precision, recall = hits / found, hits / H.sum()
average = np.sum(np.diff(recall, prepend=0) * precision)

library = d3d.analysis.uncertainty.precision_recall(U, H)
np.testing.assert_allclose(recall, library[0])
np.testing.assert_allclose(precision, library[1])
np.testing.assert_allclose(average, d3d.analysis.uncertainty.average_precision(*library))
k = len(alphas) - 1 - np.searchsorted(alphas, d3d.stages.threshold(cfg, "uncer"))
print(f"alpha = {alphas[::-1][k]:.3f} m finds {recall[k]:.0%} of the highlight pixels;")
print(f"{precision[k]:.0%} of the pixels found are highlights (of all pixels: {H.mean():.0%}).")

# %% [markdown]
# The curves of each uncertainty of this run; on the right for highlights whose depth is over-estimated by a quarter or
# more. Dotted: the distance $D$ itself, and $D - P$.

# %%
result = d3d.analysis.uncertainty.compare(cfg)
d3d.figures.uncertainty.precision_recall(result, width_in=11, font_pt=10)

# %% [markdown]
# ## What it makes of the label, and what it costs
# Sizes differ, so each takes $P$ at the same share of the pixels (30 %); `threshold_m` is the $\alpha$ for that. Sq Rel
# of the label is in metres, on all, highlight and other pixels. The seconds are those that the stages recorded; for
# networks that ship, those of their training.

# %%
result.table.round(3)

# %% [markdown]
# The ends: nothing taken from the mesh, and everything.

# %%
result.labels.round(3)

# %% [markdown]
# ## Checks

# %%
# NBVAL_CHECK_OUTPUT
table, curves = result.table, result.curves
assert set(names) <= set(table.index)
np.testing.assert_allclose(table.loc["ensemble", "ap_highlight"], average)
for _, curve in curves.groupby(["uncertainty", "target"]):
    assert curve.recall.is_monotonic_increasing
    assert curve.recall.iloc[-1] == 1
    assert curve.precision.between(0, 1).all()
print("every uncertainty was scored on the same pixels")

# %% [markdown]
# ## Summary
# - An uncertainty is useful for Eq. 3 if it is large where depth is wrong, that is, on over-estimated highlights.
# - The paper's ensemble needs two more trainings. `tta` needs none.
# - Distance alone is a strong baseline here: in rooms of one size, far pixels are mostly reflections. It is no method
#   for other rooms.
#
# ## Exercises
# 1. Divide $U$ by $D$ in the cell of precision and recall. Does relative uncertainty find more?
# 2. Multiply the uncertainties of `ensemble` and `tta`. Is the average precision above that of both?
# 3. Train a student of another uncertainty: `papermill 04_distill.ipynb out.ipynb -p labels uncer-tta`. A new
#    uncertainty is a function and a line in `d3d/uncertainty.py`.
#
# **Next:** [11_your_room](11_your_room.ipynb) is the whole method on one room, also on yours.
#
# Every parameter of `d3d.config.PARAMETERS` can be given to papermill (`-p seed 1`). A wrong name or value is an error
# that names the near misses. [Profiles](../docs/profiles.md) says what each profile costs.
