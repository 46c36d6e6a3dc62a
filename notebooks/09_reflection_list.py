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
# **Paper** section 4.1: ScanNet-Reflection, "a subset in which reflective surfaces can be observed in every image", was
# chosen from ScanNet's val and test images. Its list is not in the paper, so everybody has to make one. **In:** the
# three self-supervised networks (trained now if missing) and a split with poses; no ground truth is needed. **Out:** a
# ranking, `runs/<run>/rank`, and a list, `runs/<run>/lists`. **Time** at profile ready: two minutes after 04 on two CPU
# cores; on one GPU not measured.
#
# `papermill 09_reflection_list.ipynb out.ipynb -p split test`

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
arch: str = "monodepth2"  # network of the table at the end; the ranking is of all three
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed
split: str = None  # whose images are ranked: val or test; None: as the profile has it
eval_every: int = None  # every so many-th image is ranked; None: as the profile has it

# %%
import numpy as np
from IPython.display import Markdown

import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)

# %% [markdown]
# ## Two signs of a reflection
# Both come from the method itself and need no truth. *Uncertainty*: on reflections the three networks disagree (3.2.3).
# *Disagreement*: the predicted depth $D$ lies behind the mesh that is fused from it, $D - P > 0$, since other views do
# not see the same highlight (3.2.2). Each sign is a mean over the top 5 % of an image's pixels, in metres. The score is
# their geometric mean, which is large only where both are:
#
# $$\text{score} = \sqrt{\operatorname{top}_{5\%}(U) \cdot \operatorname{top}_{5\%}(\max(D - P, 0))}$$
#
# $D$ is the median of the three networks, $P$ is projected from the mesh of this $D$.

# %%
ranking = d3d.lists.ranking.rank_frames(cfg)
ranking.head(8).round(3)

# %% [markdown]
# The score of the first image in a few lines, compared with d3d and with the stored ranking:

# %%
first = ranking.iloc[0]
scenes = d3d.stages.evaluated_dataset(cfg).scenes(cfg.evaluation.split)
scene = next(s for s in scenes if s.name == first["scene"])
seen = d3d.lists.ranking.evidence(cfg, scene, scene.frame_ids.index(first["frame"]))


def top(values):
    values = np.sort(values, axis=None)
    return values[-round(0.05 * values.size) :].mean()


behind = np.where(seen.proj > 0, np.maximum(seen.pred - seen.proj, 0), 0)  # P is 0 where the mesh has a hole
score = np.sqrt(top(seen.uncertainty) * top(behind))
library = d3d.lists.ranking.frame_scores(seen.pred, seen.proj, seen.uncertainty)
np.testing.assert_allclose(score, library["score"], rtol=1e-6)
np.testing.assert_allclose(score, first["score"], rtol=1e-4)
signs = f"U {top(seen.uncertainty):.2f} m, D - P {top(behind):.2f} m"
print(f"{first['scene']}, frame {first['frame']}: {signs}, score {score:.2f} m")

# %% [markdown]
# The most reflective images by score, neighbours left out:

# %%
d3d.lists.ranking.contact_sheet(cfg, ranking, count=12)

# %% [markdown]
# ## How far the order can be trusted
# Where the data set knows which images are reflective (GlossyRooms does), how well does each score find them? Average
# precision, and the share of the first k images that is right; `by chance` is a shuffled order. Entry E12 of
# [experiments](../docs/experiments.md) has three seeds.

# %%
d3d.lists.ranking.found_known(cfg, ranking).round(3)

# %% [markdown]
# ## Look through them
# Click into the text field and type: y belongs on the list, n does not, u takes back, b and s go through the images
# without a decision (so do the arrow keys on the slider). Each decision is on disk before the next image is shown. To
# continue later, run this cell again. The picture shows the image, $D$, $U$ and $D - P$.

# %%
review = d3d.lists.review.open_review(cfg, ranking)
d3d.notebook.review.show(cfg, review)

# %% [markdown]
# ## The list
# One line "scene frame" an image, and above them who decided. If nobody has looked yet, the rule takes the better half,
# and both the file's name and its header say so.

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
table = d3d.tables.run_table(d3d.lists.ranking.with_lists(cfg, path), [(cfg.arch, "")])
Markdown(d3d.tables.to_markdown(table))

# %% [markdown]
# ## Checks

# %%
# NBVAL_CHECK_OUTPUT
name = path.stem.partition("_")[2]
listed = d3d.datasets.lists.read_list(path, scenes)
assert listed <= set(zip(ranking["scene"], ranking["frame"], strict=True))
assert ranking["score"].is_monotonic_decreasing
assert table.set_index("list").loc[name, "images"] == len(listed)
print("the list is read back as it was written, and the table averages over its images")

# %% [markdown]
# ## Summary
# - The method itself says where it expects reflections: networks disagree, and depth lies behind the mesh.
# - The ranking saves a person time. It does not replace the person: the header of a list says who decided.
#
# ## Exercises
# 1. Replace the geometric mean by the minimum, or by one sign alone. What happens to the average precision?
# 2. Take the top 20 % of the pixels instead of 5 %. Which images rise, and why?
# 3. Review ten images, write the list, and look at the table again. How does its Sq Rel differ from the automatic list?
#
# **Next:** [10_uncertainty](10_uncertainty.ipynb) compares the paper's uncertainty with four others.
#
# Every parameter of `d3d.config.PARAMETERS` can be given to papermill (`-p seed 1`). A wrong name or value is an error
# that names the near misses. [Profiles](../docs/profiles.md) says what each profile costs.
