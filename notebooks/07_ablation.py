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
# # 07 Ablation: which label teaches best
#
# **Paper** section 4.3, Table 6. **In:** predicted and projected depth of the network that is distilled, and the
# uncertainty (all three networks are trained for it if not there). **Out:** labels, a student and its scores for each
# strategy, `runs/<run>/fuse`, `/distill` and `/evaluate`. **Time** at profile smoke, from nothing: two minutes on a
# CPU core shared with other work; on one GPU not measured.
#
# `papermill 07_ablation.ipynb out.ipynb -p profile demo -p strategies uncer,signed,pred`
#
# Every other parameter of `d3d.config.PARAMETERS` can be set in the same way (`-p epochs 40`); an unknown
# name or value is an error that names the near misses. The first printed line says with which profile the
# outputs below were made; at profile demo each strategy is a training of about five minutes on
# two quiet CPU cores, after the half hour of the chain ([profiles](../docs/profiles.md)).

# %% tags=["parameters"]
profile: str = "smoke"  # smoke (nothing is learned), demo (half an hour), laptop (an evening), paper (a GPU)
arch: str = "monodepth2"  # network: monodepth2 (the paper's choice here), hrdepth, monovit or lite
strategies: str = "all"  # labels with commas, as pred,diff,uncer-tta; all: the paper's six
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
from IPython.display import Markdown

cfg = d3d.config.resolve(globals())
print(d3d.config.describe(cfg))
names = d3d.tables.table6.strategies(cfg)
print("labels:", ", ".join(names))

# %% [markdown]
# ## What each label is made of
# $D$ is the predicted depth, $P$ the projected depth of [02_project](02_project.ipynb). Every strategy is a rule for
# which pixels take $P$:
#
# | label | takes $P$ |
# | --- | --- |
# | `pred` | nowhere: self-teaching |
# | `proj` | everywhere |
# | `proj_lowres` | everywhere; the student is trained at a third of the size and tested at the full one |
# | `diff` | where $D - P > 0.25 P$ |
# | `mv` | where the three-view consistency check fails |
# | `uncer` | where the networks disagree, Eq. 3 |
#
# One training frame with much highlight (outlined): above, where $P$ is taken; below, how far the label is off.
# Red is too far, which is what a reflection does to depth.

# %%
d3d.tables.table6.label_pictures(cfg)

# %% [markdown]
# ## How good the labels are
# Against the truth of the training frames, where it is known: what share of highlights and of other pixels takes $P$,
# and what remains of the error. A good label takes $P$ on the highlights and nowhere else.

# %%
makeup = d3d.analysis.labels.label_makeup(cfg, strategies=[n for n in names if n != "proj_lowres"])
d3d.figures.label_makeup(makeup)

# %%
d3d.tables.table6.label_quality(cfg)

# %% [markdown]
# ## Table 6: the students
# A student of each label, scored on the validation rooms and on their images that show reflections. The paper's
# figures stand here only if the images are the paper's (ScanNet); on any other data the order of the rows is
# what can be compared. At profile smoke the numbers say that the chain runs, nothing else. Several seeds together:
# `python -m d3d tables --profile laptop --seeds 0,1,2`.

# %%
table = d3d.tables.table6.table6(cfg)
Markdown(d3d.tables.markdown(table))

# %% [markdown]
# ## Checks
# Each label is $D$ or $P$ at every pixel, and the table's mean is that of the stored scores.

# %%
# NBVAL_CHECK_OUTPUT
scene = d3d.stages.training_scenes(cfg)[0]
at = scene.scene.name, scene.scene.frame_ids[scene.targets[0]]
D, P = d3d.stages.predict(cfg).read(*at), d3d.stages.project(cfg).read(*at)
for name in names:
    L = d3d.stages.fuse(cfg, labels=name).read(*at)
    assert ((L == D) | (L == P)).all()
ours = table.frame[(table.frame["source"] == "ours") & (table.frame["list"] == "")]
scores = d3d.stages.evaluate(cfg, labels=names[0])
mean = scores[scores["pixels"] == "all"]["sq_rel"].mean()
row = ours[ours["training"] == d3d.tables.label_name(names[0])].iloc[0]
assert abs(row["sq_rel"] - mean) < 1e-9
print("every label is D or P; the table is the mean over images")
