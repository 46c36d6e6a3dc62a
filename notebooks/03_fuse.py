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
# # 03 Fusion: where to believe the mesh
#
# **Paper** section 3.2.3, Eq. 3 and Figure 4. **In:** predicted depth of all three networks, and projected depth of
# the one that is distilled ([02](02_project.ipynb)). **Out:** uncertainty and labels, `runs/<run>/uncertainty` and
# `/fuse`. **Time** at profile ready: three minutes on two CPU cores, most of it the depth of the other networks; on
# one GPU not measured.
#
# `papermill 03_fuse.ipynb out.ipynb -p arch hrdepth -p threshold_m 0.3`

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
recipe: str = None  # paper (Eq. 3) or robust (recommended, docs/robust.md); sets the labels
labels: str = None  # label strategy of Table 6: uncer, pred, proj, diff, mv; None: that of the recipe
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed
ensemble: str = None  # networks whose disagreement is U, with commas; None: the paper's three
threshold_m: float = None  # alpha_uncer of Eq. 3, metres; None: as the profile has it

# %%
import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)

# %% [markdown]
# ## The uncertainty: three networks disagree
# "The depth predictions at specular highlights are varying, which increases the uncertainty there." $U_t(x)$ is the
# standard deviation of the depth of $M = 3$ networks, with the mean $\bar D_t$, in metres:
#
# $$U_t(x) = \sqrt{\frac{1}{M} \sum_{m=1}^{M} \big(D_t^{(m)}(x) - \bar D_t(x)\big)^2}$$
#
# What is missing is computed now; the lines below say so.

# %%
import numpy as np

stored_labels = d3d.stages.fuse(cfg)
stored_U = d3d.stages.uncertainty(cfg)
running = d3d.figures.dataset.example_triple(cfg)
example = d3d.figures.frames.example_frame(
    cfg, running.scene.name, running.scene.frame_ids[int(running.row[0])]
)

depths = np.stack([example.preds[arch] for arch in cfg.ensemble])  # (3, h, w), metres
U = np.sqrt(((depths - depths.mean(axis=0)) ** 2).mean(axis=0))

np.testing.assert_allclose(U, d3d.uncertainty.ensemble_std(depths), atol=1e-6)
np.testing.assert_allclose(
    U, stored_U.read_of(example.scene, example.index), atol=2e-3
)  # stored in millimetres

# %% [markdown]
# ## Figure 4
# Top: the depth of the three networks and their uncertainty. Bottom: the projected depth of each network's own mesh,
# and the mask of Eq. 3. The mirrored lights (outlined) look like holes in the floor, and each network gives them
# another depth: they are bright in the uncertainty and white in the mask. Edges of furniture are uncertain, too.
# There $P$ is taken as well, and costs some sharpness.

# %%
threshold = d3d.stages.threshold(cfg, "uncer")
d3d.figures.figure4.make(cfg, example).figure

# %% [markdown]
# ## Eq. 3: the label
#
# $$L_t(x) = \begin{cases}
# P_t(x) & \text{if } U_t(x) \geq \alpha_\mathrm{uncer} \\
# D_t(x) & \text{otherwise}
# \end{cases}$$
#
# Where the networks agree, $D$ keeps the details. Where they disagree, $P$ keeps out the reflections. Where the mesh
# has no surface ($P = 0$), the label is $D$.

# %%
D, P = example.preds[cfg.arch], example.projs[cfg.arch]
L = np.where((threshold <= U) & (P > 0), P, D)

np.testing.assert_array_equal(L, d3d.fusion.fuse(D, P, U, threshold))
d3d.figures.labels.label(example, cfg.arch, threshold)

# %% [markdown]
# The numbers are the median errors on the outlined highlights. The label has the small error of $P$ there, and the
# edges of $D$ elsewhere.
#
# ## How the label depends on the threshold
# Too low, and the smooth mesh is everywhere (left end, `proj`). Too high, and no reflection is corrected (right end,
# `pred`). The dotted line is the threshold of this run. The errors are means over the training frames with true
# depth.

# %%
sweep = d3d.analysis.thresholds.threshold_sweep(cfg)
d3d.figures.threshold_curve(sweep, threshold)

# %%
sweep.round(3)

# %% [markdown]
# ## How good the labels are
# $D$, $P$ and the labels of this run against the truth, over the training rooms that have it:

# %%
d3d.analysis.labels.label_scores(cfg)

# %% [markdown]
# ## Where it fails, and why
# The frame with the most highlight ([02](02_project.ipynb)). Two things go wrong. Its mesh has the reflection, since
# most views see it. And on a part of the highlight the three networks *agree*: all have learned the mirror image, so
# $U$ is small there, and Eq. 3 keeps $D$. An ensemble finds errors that differ, not errors that all members share.

# %%
failing = d3d.figures.dataset.most_highlight_triple(cfg)
hard = d3d.figures.frames.example_frame(cfg, failing.scene.name, failing.scene.frame_ids[int(failing.row[0])])
for name, shown in {"works": example, "fails": hard}.items():
    if shown.highlight is not None and shown.highlight.any():
        found = (shown.uncertainty >= threshold)[shown.highlight].mean()
        print(f"{name}, {shown.scene.name}/{shown.frame}: {found:.0%} of the highlight pixels are uncertain")
d3d.figures.labels.label(hard, cfg.arch, threshold)

# %%
# NBVAL_CHECK_OUTPUT
assert ((L == D) | (L == P)).all()
assert (L[(threshold <= U) & (P > 0)] == P[(threshold <= U) & (P > 0)]).all()
assert (L[threshold > U] == D[threshold > U]).all()
if not d3d.fusion.find_strategy(cfg.labels).mesh:  # "robust" has a mesh of its own
    stored = stored_labels.read_of(example.scene, example.index)
    assert ((stored == D) | (stored == P)).all()
print("the label is D or P at every pixel")

# %% [markdown]
# ## Summary
# - The uncertainty is the standard deviation of the depth of three networks.
# - The label is $P$ where they disagree by the threshold or more, and $D$ elsewhere (Eq. 3).
# - On highlights it is nearly as good as $P$, elsewhere nearly as good as $D$. It fails where all networks agree on
#   the mirror image.
#
# ## Exercises
# 1. Leave one network out of `depths`. Which one finds the most highlight pixels?
# 2. Divide by $M - 1$ instead of $M$ in $U$. By how much does the best threshold of the curve change?
# 3. In the viewer below, choose the labels `diff`: $P$ where $D - P > 0.25\,P$. It needs no ensemble. On which frames
#    is it better?
#
# **Next:** [04_distill](04_distill.ipynb) trains a new network on these labels.
#
# *Parameters.* Every name in `d3d.config.PARAMETERS` can be set (`-p integrate_every 5`); a wrong name or value is an
# error. The first output names the profile ([profiles](../docs/profiles.md)). "No module named ..." means that the
# notebook runs in another Python: select the one that d3d is installed in (Kernel > Change Kernel, `papermill -k`).
#
# ## Try it: the label viewer
# In a running notebook the picture is live: move the threshold, and see which pixels take $P$, what the label becomes
# and how far it is off. Or choose another frame, network or label rule. (It comes last because it answers only while
# no other cell runs.)

# %%
d3d.notebook.viewer.show(cfg, example.scene.name, example.frame)
