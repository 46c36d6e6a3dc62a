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
# **Paper** section 1 (Figures 1 and 2), section 3.2.3 (Figure 4) and section 5 (Figure 5), with what explains them.
# **In:** all three networks and the students of the one that is distilled (trained now if not there). **Out:** the
# figures below; `python -m d3d figures` writes them to `paper_figures/`, as PDF and PNG with the CSV of what is drawn.
# **Time** at profile smoke, after the other notebooks: a minute on a CPU core shared with other work; on one GPU not
# measured.
#
# `papermill 08_figures.ipynb out.ipynb -p profile demo -p seed 0`
#
# Every other parameter of `d3d.config.PARAMETERS` can be set in the same way (`-p epochs 40`); an unknown
# name or value is an error that names the near misses. The first printed line says with which profile the
# outputs below were made: **after smoke's six steps the networks have learned nothing**, and each sentence says
# what to see in figures of a trained run, such as those of profile demo in
# [paper_figures](../paper_figures).

# %% tags=["parameters"]
profile: str = "smoke"  # smoke (nothing is learned), demo (half an hour), laptop (an evening), paper (a GPU)
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
labels: str = "uncer"  # label strategy of Table 6: uncer, pred, proj, diff, mv and more
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed
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
d3d.tables.run_table(cfg, d3d.stages.train_all(cfg, (cfg.arch,)))
print(f"the figures are of run {cfg.run}")

# %% [markdown]
# ## Figure 1: why highlights are over-estimated
# A diffuse pixel is explained best by its true depth, a highlight by the depth of its mirror image: and there the
# trained networks put it.

# %%
figure1 = d3d.figures.figure1.make_b(cfg)
figure1.figure

# %% [markdown]
# ## Figure 2: wrong in one view, better in the mesh of all
# The highlights are too far (red) in the predicted depth, and less so in the projected one: from other places the
# same floor shows no highlight. Furniture melts.

# %%
figure2 = d3d.figures.figure2.make(cfg)
figure2.figure

# %% [markdown]
# ## Figure 4: what Eq. 3 looks at
# The three networks disagree on highlights, so that the mask finds them; it finds edges and windows as well.

# %%
figure4 = d3d.figures.figure4.make(cfg)
figure4.figure

# %% [markdown]
# ## Figure 5: before and after
# Unseen rooms: self-teaching keeps the error of its teacher, 3D distillation lowers it.

# %%
figure5 = d3d.figures.figure5.make(cfg)
figure5.figure

# %% [markdown]
# ## Error maps: is the uncertainty where the error is?
# Where D is bright and U is too, the label takes P; a highlight on which all networks are wrong alike stays.

# %%
maps = d3d.figures.labels.error_maps(cfg)
maps.figure

# %% [markdown]
# ## What the labels are made of
# A good rule takes P on many highlight pixels (plain) and on few others (hatched).

# %%
makeup = d3d.figures.all.label_makeup(cfg)
makeup.figure

# %% [markdown]
# ## The threshold of Eq. 3
# Highlights want a low threshold, the other pixels one that spares them the mesh.

# %%
thresholds = d3d.figures.all.threshold_sweep(cfg)
thresholds.figure

# %% [markdown]
# ## Truncation and voxel of the fusion
# Below half a metre of truncation the projected depth becomes worse on all pixels; the voxel matters little.

# %%
truncations = d3d.figures.all.truncation_sweep(cfg)
truncations.figure

# %% [markdown]
# The numbers behind a figure:

# %%
figure5.table.round(3)

# %%
# NBVAL_CHECK_OUTPUT
bars = [p.get_height() for p in makeup.figure.axes[1].patches]
drawn = thresholds.figure.axes[0].lines[0].get_ydata()
assert bars == list(makeup.table[makeup.table["pixels"] == "highlight"]["sq_rel"])
assert list(drawn) == list(thresholds.table["projected"])
assert thresholds.table["projected"].is_monotonic_decreasing
shares = makeup.table[makeup.table["strategy"] == "pred"]["projected"]
assert (shares == 0).all()
print("the figures show what is in their tables")

# %% [markdown]
# All of them as files, in `paper_figures/`: `python -m d3d figures --profile demo`. It trains nothing: what a figure
# lacks is said, with the command that makes it.
