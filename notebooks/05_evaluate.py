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
# **Paper** section 4, Tables 2 to 5 and Figure 5. **In:** the self-supervised network, its self-taught
# student (labels `pred`) and its distilled student (trained now if not there). **Out:** per-image scores
# and tables, `runs/<run>/evaluate` and `/tables`. **Time** at profile smoke: 13 s on one busy CPU core
# after 04; on one GPU not measured.
#
# `papermill 05_evaluate.ipynb out.ipynb -p arch hrdepth -p profile demo`
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

# %% [markdown]
# ## The table
# Seven metrics, per image, then averaged over images. *Self-Supervised* minimised the photometric loss,
# *Self-Teaching* is a student of its own depth, *3D Distillation* a student of the fused label. The best of
# an architecture is bold. Below the whole split, the images of each list that the data set has
# ([00_data](00_data.ipynb)). Rows of the paper stand below ours only where data set and split are the
# paper's. At profile smoke the numbers say that the chain runs, nothing else.

# %%
results = d3d.stages.results(cfg)
table = d3d.tables.run_table(cfg, [(cfg.arch, labels) for labels in results])
Markdown(d3d.tables.to_markdown(table))

# %% [markdown]
# The paper's own summary: how much lower than the self-taught student's is the distilled student's Sq Rel?
# (-0.5 is half.)

# %%
d3d.tables.gains(table).round(3)

# %% [markdown]
# ## On highlights, and elsewhere
# Where the data set knows which pixels show a mirrored light, the same means over those pixels only, and
# over the others:

# %%
d3d.tables.by_pixels(results).set_index(["pixels", "training"]).round(3)

# %% [markdown]
# ## Image by image
# A mean can hide much. One point an image; under the diagonal the student is better than the
# self-supervised network.

# %%
students = {d3d.evaluation.training_name(labels): r for labels, r in results.items() if labels}
d3d.figures.per_image(results[""], students)

# %% [markdown]
# ## Figure 5: before and after
# The most reflective images, one a room (where nobody knows highlights, those that the self-supervised network
# gets most wrong). Below each depth map, how far it is off: red is too far.

# %%
d3d.figures.figure5.make(cfg, [cfg.arch], count=3).figure

# %% [markdown]
# ## Checks
# The truth scored against itself has no error, and the table is the mean of the per-image scores.

# %%
# NBVAL_CHECK_OUTPUT
truth = next(
    d for d in (s.depth(0) for s in d3d.stages.dataset(cfg).scenes(cfg.evaluation.split)) if d is not None
)
perfect = d3d.metrics.depth_metrics(truth, truth, max_depth=float(truth.max()) + 1)
assert max(perfect[m] for m in ("abs_rel", "sq_rel", "rmse", "rmse_log")) < 1e-6
assert min(perfect[m] for m in ("a1", "a2", "a3")) == 1
first = d3d.evaluation.summary(results[""])
assert abs(first["abs_rel"] - table["abs_rel"].iloc[0]) < 1e-9
print("the truth scores 0 errors and full shares; the table is the mean over images")
