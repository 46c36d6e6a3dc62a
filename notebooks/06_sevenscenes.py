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
# # 06 Another data set: what was trained here, scored elsewhere
#
# **Paper** section 4.2, Table 5. **In:** the networks of a run: self-supervised, self-taught, distilled (trained now
# if not there), and a data set that they never saw. **Out:** per-image scores of relative depth,
# `runs/<run>/evaluate/<network>/<training>/<data set>-<split>`. **Time** at profile smoke, from nothing:
# a good minute on a CPU core shared with other work; on one GPU not measured.
#
# `papermill 06_sevenscenes.ipynb out.ipynb -p eval_dataset 7scenes -p eval_root ../data/7scenes`
#
# The paper scores networks trained on ScanNet on 13 sequences of 7-Scenes. Neither may be passed on, so that **the
# outputs below are a stand-in**: the test rooms of GlossyRooms, which are unseen rooms but of the kind that was trained
# on, scored in Table 5's way. The line above does the real thing for whatever 7-Scenes sequences are in that folder
# ([data/README.md](../data/README.md) says where to get them). Ground truth is the depth that Brachmann and Rother
# rendered, as in the paper, where it is there, else the sensor's; the table says which.
#
# Every other parameter of `d3d.config.PARAMETERS` can be set in the same way (`-p eval_every 10`); an unknown
# name or value is an error that names the near misses. The first printed line says with which profile the
# outputs below were made; `-p profile demo` learns something (half an hour for the whole chain on
# two quiet CPU cores: [profiles](../docs/profiles.md)).

# %% tags=["parameters"]
profile: str = "smoke"  # smoke (nothing is learned), demo (half an hour), laptop (an evening), paper (a GPU)
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
print(
    f"scored on: {d3d.stages.evaluated_dataset(cfg)}, split {cfg.evaluation.split}, scale {cfg.evaluation.scale}"
)

# %% [markdown]
# ## Why relative depth
# "We evaluate the relative depth as the camera intrinsics of different datasets are different": a network that has
# seen one camera only cannot tell a longer focal length from a nearer room. Before scoring, each depth map is
# multiplied with one number, so that its median is the truth's. What remains is the shape of the room. The pictures
# show depth as the networks predict it, before that.

# %%
results = d3d.stages.results(cfg)
d3d.figures.figure5.make(cfg, [cfg.arch], count=3).figure

# %% [markdown]
# ## Table 5
# Rows of the paper stand below ours only where all 13 sequences of 7-Scenes were scored and something else was trained
# on. "–" is what this run has not evaluated; below the table, the command for it.

# %%
table = d3d.tables.of_run(cfg, "5")
Markdown(d3d.tables.markdown(table))

# %% [markdown]
# ## Image by image
# One point an image; under the diagonal the student is better than the self-supervised network.

# %%
students = {d3d.evaluation.training_name(labels): r for labels, r in results.items() if labels}
d3d.figures.per_image(results[""], students)

# %% [markdown]
# ## Checks
# Relative depth does not know the unit: depth in feet scores as depth in metres does.

# %%
# NBVAL_CHECK_OUTPUT
scenes = d3d.stages.evaluated_dataset(cfg).scenes(cfg.evaluation.split)
truth = next(d for d in (s.depth(0) for s in scenes) if d is not None)
first, second = (
    d3d.metrics.depth_metrics(k * truth[::-1], truth, scale="median", max_depth=100.0) for k in (1.0, 3.28084)
)
assert all(abs(first[m] - second[m]) < 1e-5 for m in first)
scored = results[""][results[""]["pixels"] == "all"]
if cfg.evaluation.scale == "median":
    ours = table.frame[(table.frame["source"] == "ours") & (table.frame["dataset"] == cfg.evaluation.dataset)]
    network = d3d.evaluation.arch_name(cfg.arch)
    row = ours[(ours["architecture"] == network) & (ours["training"] == "Self-Supervised")].iloc[0]
    assert abs(row["abs_rel"] - scored["abs_rel"].mean()) < 1e-9
print("relative depth has no unit; the table is the mean over images")
