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
# # 08 Figures: the paper's, from your own run
#
# **Paper** section 1 (Figures 1 and 2), section 3.2.3 (Figure 4) and section 5 (Figure 5), and four charts that
# explain them. **In:** all three networks and the student of the one that is distilled (trained now if missing).
# **Out:** the figures below. **Time** at profile ready: a minute and a half after 04 and 07 on two CPU cores; on one
# GPU not measured.
#
# `papermill 08_figures.ipynb out.ipynb -p arch hrdepth`

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
labels: str = "uncer"  # label strategy of Table 6: uncer, pred, proj, diff, mv and more
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed
threshold_m: float = None  # alpha_uncer of Eq. 3, metres; None: as the profile has it

# %%
import numpy as np

import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)
for arch_name in cfg.networks:  # a figure trains nothing; what it needs is computed here
    d3d.stages.pretrain(cfg, arch_name)

# %% [markdown]
# ## Figure 1: why highlights are over-estimated
# Eq. 2 along the ray of two pixels. A diffuse pixel is explained best by its true depth, a highlight by the depth of
# its mirror image. The markers show where the networks put the pixels.

# %%
figure1 = d3d.figures.figure1.make_b(cfg)
figure1.figure

# %% [markdown]
# ## Figure 2: wrong in one view, better in the mesh of all
# Predicted depth is too far (red) on highlights (outlined; the numbers are median errors on them). From other places
# the same floor shows no highlight, so the mesh of all views can be right where one view is wrong. Profile ready
# shows both: in train-0012 and train-0024 the mesh brings the floor back, but furniture melts. In train-0000 the
# mesh is wrong, too: its surface lies far behind the floor where the window is mirrored.

# %%
figure2 = d3d.figures.figure2.make(cfg)
figure2.figure

# %% [markdown]
# ## Figure 4: what Eq. 3 looks at
# The predictions of the three networks, their projected depth, the uncertainty $U$ and its mask. $U$ is large on
# highlights, but on edges and on windows as well.

# %%
figure4 = d3d.figures.figure4.make(cfg)
figure4.figure

# %% [markdown]
# ## Figure 5: before and after
# Rooms that neither network has seen: the teacher (*Self-Supervised*) and the student (*3D Distillation*).

# %%
figure5 = d3d.figures.figure5.make(cfg, [cfg.arch], count=3)
figure5.figure

# %% [markdown]
# ## Error maps: is the uncertainty where the error is?
# Where $D$ is wrong and $U$ is large, the label takes $P$. A highlight on which all networks are wrong alike stays.

# %%
maps = d3d.figures.labels.error_maps(cfg)
maps.figure

# %% [markdown]
# ## What the labels are made of
# A good rule takes $P$ on many highlight pixels (plain) and on few others (hatched). `signed` is a rule beyond the
# paper: Eq. 3 only where $D$ lies behind $P$.

# %%
makeup = d3d.figures.all.label_makeup(cfg)
makeup.figure

# %% [markdown]
# ## The threshold of Eq. 3
# At the left end every pixel takes $P$, at the right end no pixel does. Highlights want a low threshold; the other
# pixels want a higher one, which spares them the melted mesh.

# %%
thresholds = d3d.figures.all.threshold_sweep(cfg)
thresholds.figure

# %% [markdown]
# ## Truncation and voxel of the fusion
# The paper truncates the TSDF at 1 m, with voxels of 5 cm. Here each training room with truth is fused again with other
# values. A short truncation keeps more of the reflections; the voxel matters little.

# %%
truncations = d3d.analysis.truncation.truncation_sweep(
    cfg, truncations_m=(0.1, 0.3, 0.5, 1.0, 1.5), voxels_m=(0.05, 0.1), frames=15
)
d3d.figures.truncation_curves(truncations, cfg.fusion.trunc_m, cfg.fusion.voxel_m)

# %% [markdown]
# ## The numbers behind a figure
# Each figure comes with its table. That of Figure 5:

# %%
figure5.table.round(3)

# %% [markdown]
# ## Checks

# %%
# NBVAL_CHECK_OUTPUT
bars = [p.get_height() for p in makeup.figure.axes[1].patches]
np.testing.assert_array_equal(bars, makeup.table.query("pixels == 'highlight'")["sq_rel"])
np.testing.assert_array_equal(thresholds.figure.axes[0].lines[0].get_ydata(), thresholds.table["projected"])
assert thresholds.table["projected"].is_monotonic_decreasing
assert (makeup.table.query("strategy == 'pred'")["projected"] == 0).all()
print("the figures show what is in their tables")

# %% [markdown]
# ## Summary
# - Each figure of the paper is one call, on the frames with most highlight of your run.
# - `python -m d3d figures --profile ready` writes all of them to `paper_figures/`, as PDF, PNG and CSV. It trains
#   nothing; where something is missing, it names the command that makes it.
#
# ## Exercises
# 1. In Figure 1, which network is nearest to the mirror image on highlights? Find the numbers in `figure1.table`.
# 2. Draw Figure 4 of another frame: `d3d.figures.frames.example_frame(cfg, scene, frame)`, passed to `figure4.make`.
# 3. Plot $U$ against the error of $D$ for the pixels of one frame. How many wrong pixels does no threshold find?
#
# **Next:** [09_reflection_list](09_reflection_list.ipynb) finds the images that show reflections.
#
# Every parameter of `d3d.config.PARAMETERS` can be given to papermill (`-p seed 1`). A wrong name or value is an error
# that names the near misses. [Profiles](../docs/profiles.md) says what each profile costs.
