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
# **Paper** section 3.2.3, Eq. 3 and Figure 4. **In:** predicted depth of all three networks and the
# projected depth of the one that is distilled (computed now if not there). **Out:** uncertainty and labels,
# `runs/<run>/uncertainty` and `/fuse`. **Time** at profile smoke: 26 s on one busy CPU core, most of it
# the other two networks; on one GPU not measured.
#
# `papermill 03_fuse.ipynb out.ipynb -p arch hrdepth -p threshold_m 0.3`
#
# Every other parameter of `d3d.config.PARAMETERS` can be set in the same way (`-p epochs 40`); an unknown
# name or value is an error that names the near misses. The first printed line says with which profile the
# outputs below were made; `-p profile demo` learns something (half an hour for the whole chain on
# two quiet CPU cores: [profiles](../docs/profiles.md)).

# %% tags=["parameters"]
profile: str = "smoke"  # smoke (nothing is learned), demo (half an hour), laptop (an evening), paper (a GPU)
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
try:
    import d3d
except ModuleNotFoundError as error:
    import sys

    raise ModuleNotFoundError(
        f"{sys.executable} has no d3d: select its environment (papermill -k)"
    ) from error
d3d.check_environment()
# %matplotlib inline

cfg = d3d.config.resolve(globals())
print(d3d.config.describe(cfg))

# %% [markdown]
# ## Figure 4: three networks, their uncertainty, the mask
# "The depth predictions at specular highlights are varying, which increases the uncertainty there."
# $U_t(x)$ is the standard deviation of the three networks' depth, in metres. Of the training frames, this
# one has the largest share of uncertain pixels.

# %%
d3d.stages.fuse(cfg)
example = d3d.figures.frames.example_frame(cfg)
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
# $D$ where the networks agree keeps the details; $P$ where they do not keeps out the reflections. In a
# running notebook the second picture is live: move the threshold and see which pixels take $P$, what the
# label becomes and how far it is off; or choose another frame, network or label rule.

# %%
d3d.notebook.viewer.show(cfg, example.scene.name, example.frame)

# %% [markdown]
# $P$ is the depth of this mesh, fused from the depth that the network predicted for every view of the room.
# In a running notebook it can be turned.

# %%
d3d.notebook.mesh.show(cfg, example.scene, example.index)

# %% [markdown]
# ## How the choice depends on the threshold
# Too low, and the mesh's smoothness is everywhere; too high, and no reflection is corrected.

# %%
sweep = d3d.analysis.thresholds.threshold_sweep(cfg)
d3d.figures.threshold_curve(sweep, threshold)

# %%
sweep.round(3)

# %% [markdown]
# ## How good the labels are
# The labels of this run's strategy against the truth, over the training frames:

# %%
d3d.analysis.labels.label_scores(cfg)

# %%
# NBVAL_CHECK_OUTPUT
D, P, U = example.preds[cfg.arch], example.projs[cfg.arch], example.uncertainty
L = d3d.fusion.fuse(D, P, U, threshold)
assert ((L == D) | (L == P)).all()
assert (L[(threshold <= U) & (P > 0)] == P[(threshold <= U) & (P > 0)]).all()
assert (L[threshold > U] == D[threshold > U]).all()
stored = d3d.stages.fuse(cfg).read(example.scene.name, example.frame)
assert ((stored == D) | (stored == P)).all()
print("the label is D or P at every pixel")

# %% [markdown]
# Next: [04_distill](04_distill.ipynb) trains a new network on these labels.
