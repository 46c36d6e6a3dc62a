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
# # 09 Reflection list: which images show reflections
#
# **Paper** section 4.1: ScanNet-Reflection, "a subset in which reflective surfaces can be observed in every
# image", was chosen from ScanNet's val and test images; its list is not in the paper, so that everybody has to
# make one. **In:** the three self-supervised networks (trained now if not there) and a split with poses; no
# ground truth is needed. **Out:** a ranking, `runs/<run>/rank`, and a list, `runs/<run>/lists`. **Time** at profile
# smoke: 20 s on one busy CPU core after 05; on one GPU not measured.
#
# `papermill 09_reflection_list.ipynb out.ipynb -p profile demo -p split test`
#
# Every other parameter of `d3d.config.PARAMETERS` can be set in the same way (`-p eval_every 10`); an unknown
# name or value is an error that names the near misses. The first printed line says with which profile the
# outputs below were made; at smoke nothing is learned, so the order below means nothing. At profile `demo` it does:
# entry E12 of [docs/experiments.md](../docs/experiments.md).

# %% tags=["parameters"]
profile: str = "smoke"  # smoke (nothing is learned), demo (half an hour), laptop (an evening), paper (a GPU)
arch: str = "monodepth2"  # network of the table at the end; the ranking is of all three
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed
split: str = None  # whose images are ranked: val or test; None: as the profile has it
eval_every: int = None  # every so many-th image is ranked; None: as the profile has it

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
# ## Two signs of a reflection
# Both come from the method itself and need no truth. *Uncertainty*: the three networks disagree on reflections
# (3.2.3). *Disagreement*: predicted depth $D$ lies behind the mesh that is fused from it, $D - P > 0$, since other
# views do not see the same highlight (3.2.2). Each is a mean over the top 5 % of an image's pixels, in metres;
# the score is their geometric mean, large only where both are.

# %%
ranking = d3d.lists.ranking.rank_frames(cfg)
ranking.head(8).round(3)

# %% [markdown]
# The most reflective images by score, neighbours left out:

# %%
d3d.lists.ranking.contact_sheet(cfg, ranking, count=12)

# %% [markdown]
# ## How far the order can be trusted
# Where the data set knows which images are reflective (GlossyRooms does), how well does each score find them? Average
# precision, and the share of the first k images that is right; `by chance` is a shuffled order. (All images of profile
# smoke are reflective, so that any order is perfect.)

# %%
d3d.lists.ranking.found_known(cfg, ranking).round(3)

# %% [markdown]
# ## Look through them
# What a person judges an image by; it is drawn once more here, as the widget lives in a running notebook only:

# %%
review = d3d.lists.review.open_review(cfg, ranking)
d3d.lists.review.picture(cfg, review)

# %% [markdown]
# Click into the text field and type: y belongs on the list, n does not, u takes back, b and s go through the images
# without a decision (so do the arrow keys on the slider). Each decision is on disk before the next image is shown; run
# this cell again, tomorrow or after a crash, to go on.

# %%
d3d.notebook.review.show(cfg, review)

# %% [markdown]
# ## The list
# A line "scene frame" each, and above it who decided. Where nobody has looked yet, the rule takes the better half, and
# both the file's name and its header say so.

# %%
if review.accepted:
    path = d3d.lists.review.write(cfg, review)
else:
    path = d3d.lists.review.write_automatic(cfg, ranking, share=0.5)
print(path.name)
print("\n".join(path.read_text().splitlines()[:8]))

# %% [markdown]
# ## The table, with the list
# A list is checked line by line before anything is computed; then the table has rows for it. In any other notebook or
# command: `-p lists FOLDER`, `python -m d3d evaluate --lists FOLDER`, or `--lists Name=file`.

# %%
trainings = [(cfg.arch, "")]
table = d3d.tables.run_table(d3d.lists.ranking.with_lists(cfg, path), trainings)
Markdown(d3d.tables.to_markdown(table))

# %% [markdown]
# ## Checks

# %%
# NBVAL_CHECK_OUTPUT
name = path.stem.partition("_")[2]
scenes = d3d.stages.evaluated_dataset(cfg).scenes(cfg.evaluation.split)
listed = d3d.datasets.lists.read_list(path, scenes)
assert listed <= set(zip(ranking["scene"], ranking["frame"], strict=True))
assert ranking["score"].is_monotonic_decreasing
assert table.set_index("list").loc[name, "images"] == len(listed)
print("the list is read back as it was written, and the table averages over its images")
