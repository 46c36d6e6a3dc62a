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
# **Paper** section 3.2.3 and Eq. 3; sections 2.3 and Table 1 name the alternatives. **In:** the networks, predicted and
# projected depth (computed now if not there). **Out:** `runs/<run>/uncertainty`, and `/variant` where one needs a
# training of its own. **Time** at profile smoke: 121 s on one CPU core shared with other work, most of it the networks;
# on one GPU not measured.
#
# `papermill 10_uncertainty.ipynb out.ipynb -p arch hrdepth`
#
# Every other parameter of `d3d.config.PARAMETERS` can be set in the same way (`-p epochs 40`); an unknown
# name or value is an error that names the near misses. The first printed line says with which profile the
# outputs below were made: smoke learns nothing, so its figures mean nothing. Those of profile demo are in
# [experiments](../docs/experiments.md), E13; it needs the chain and three more trainings of five minutes each on two
# quiet CPU cores.

# %% tags=["parameters"]
profile: str = "smoke"  # smoke (nothing is learned), demo (half an hour), laptop (an evening), paper (a GPU)
arch: str = "monodepth2"  # network whose depth is judged: monodepth2, hrdepth, monovit or lite
dataset: str = None  # glossyrooms; None: as the profile has it (others have no masks of highlights)
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed

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
names = d3d.fusion.UNCERTAINTIES
print("uncertainties:", ", ".join(names))

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

# %%
for name in names:
    d3d.stages.uncertainty(cfg, name, cfg.arch)

# %% [markdown]
# ## Where each is large
# The training frame with most over-estimated highlight (outlined), each map on a scale of its own.

# %%
d3d.figures.uncertainty.maps(cfg, width_in=11, font_pt=10)

# %% [markdown]
# ## What each finds
# A pixel is found where $U \geq \alpha$. Precision: how many of those found are a highlight (left), or a highlight
# whose depth is over-estimated by a quarter or more (right); recall: how many of these are found; one point an
# $\alpha$. For comparison, dotted: the distance $D$ itself and how far it lies behind the mesh, $D - P$.

# %%
result = d3d.analysis.uncertainty.compare(cfg)
d3d.figures.uncertainty.precision_recall(result, width_in=11, font_pt=10)

# %% [markdown]
# ## What it makes of the label, and what it costs
# Sizes differ, so each takes $P$ at the same share of the pixels (30 %); `threshold_m` is the $\alpha$ for that. Sq Rel
# of the label in metres, on all, highlight and other pixels; seconds as the stages' provenance has them.

# %%
result.table.round(3)

# %% [markdown]
# The ends: nothing taken from the mesh, and everything.

# %%
result.labels.round(3)

# %%
# NBVAL_CHECK_OUTPUT
table, curves = result.table, result.curves
assert list(table.index[: len(names)]) == list(names)
assert ((table.ap_highlight > 0) & (table.ap_highlight <= 1)).all()
for _, curve in curves.groupby(["uncertainty", "target"]):
    assert curve.recall.is_monotonic_increasing
    assert curve.recall.iloc[-1] == 1
    assert curve.precision.between(0, 1).all()
print("every uncertainty was scored on the same pixels")

# %% [markdown]
# A student of another uncertainty: `papermill 04_distill.ipynb out.ipynb -p labels uncer-tta`. Another uncertainty
# is a function and a line in `d3d/uncertainty.py`.
