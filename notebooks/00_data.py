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
# # 00 Data: posed frames and training triples
#
# **Paper** sections 3.1 and 4.1, Eq. 1 and 2. **In:** posed frames of rooms. **Out:** the training triples;
# nothing is written. **Time** at profile smoke: 8 s on one busy CPU core; on a GPU the same, nothing is
# trained here.
#
# `papermill 00_data.ipynb out.ipynb -p dataset 7scenes -p root ../../shared/data/7scenes -p profile demo`
#
# Every other parameter of `d3d.config.PARAMETERS` can be set in the same way (`-p epochs 40`); an unknown
# name or value is an error that names the near misses. The first printed line says with which profile the
# outputs below were made; `-p profile demo` learns something (half an hour for the whole chain on
# two quiet CPU cores: [profiles](../docs/profiles.md)).

# %% tags=["parameters"]
profile: str = "smoke"  # smoke (nothing is learned), demo (half an hour), laptop (an evening), paper (a GPU)
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
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
import numpy as np

cfg = d3d.config.resolve(globals())
print(d3d.config.describe(cfg))

# %% [markdown]
# ## The rooms
# ScanNet, on which the paper trains, needs a signed agreement. GlossyRooms ship with this repository: 30
# rendered rooms to train on, 6 to validate, 6 to test, no two alike. Floors, table tops and screens are
# glossy, so that windows and lamps are mirrored in them; some floors are matt, some walls have a mirror.
# Poses are exact everywhere, and so is the depth of the validation, the test and every sixth training room.
#
# ![a frame of every room that ships](../data/glossyrooms/contact_sheet.png)
#
# This run opens as many as its profile wants (at smoke the first frames of one room a split). *Reflection*
# frames show mirrored lights on at least 2 % of their pixels, *NoReflection* frames on less than 0.3 %,
# *Mirror* frames show a mirror, which the paper leaves unsolved. Tables have rows for each list.

# %%
d3d.figures.dataset.overview(cfg)

# %%
d3d.figures.dataset.one_frame_per_scene(cfg)

# %% [markdown]
# ## Frames
# A scene is a video with a camera pose for each frame.

# %%
scenes = d3d.stages.training_scenes(cfg)
scene = scenes[0].scene
every = -(-len(scene) // 6)
chosen = range(0, len(scene), every)
d3d.figures.contact_sheet(
    [scene.image(i) for i in chosen], [scene.frame_ids[i] for i in chosen], title=scene.name, width_in=9
)

# %% [markdown]
# ## What is known of a frame
# Red outlines: mirror images of lights. The floor there is as far away as its neighbourhood (second picture),
# but what is *seen* there is the lamp or the window, as far behind the floor as it hangs above it (last
# picture). A network that explains how such pixels move between two views must find that second depth.

# %%
example = d3d.figures.dataset.example_triple(cfg)
d3d.figures.dataset.ground_truth(example.scene, example.row[0])

# %% [markdown]
# ## Triples
# Of the frames, every Nth is a target $I_t$. For each "we find a source frame both backwards and forwards
# in time with a relative translation of 5-10 cm and a relative rotation of at most 3 degrees". A target
# without such a source on either side falls out.

# %%
d3d.figures.dataset.dropped_targets(cfg)

# %%
triples = next(s.triples for s in scenes if s.scene is example.scene)
up = d3d.geometry.upward(example.scene.world_T_cams)
d3d.figures.camera_path(example.scene.world_T_cams, triples.indices, up, example.index, title=example.name)

# %% [markdown]
# ## Warping a source into the target's view
# With the depth $D_t$ of the target, the relative pose $T_{t \to s}$ and the intrinsics $K$, a pixel $x$ of
# the target is seen in the source at $x' \sim K\, T_{t \to s}\, D_t(x)\, K^{-1} x$ (Eq. 1). Sampling the
# source there gives the target's view, and Eq. 2 says how much the two differ:
#
# $$pe(a, b) = \frac{\alpha}{2}\,(1 - \mathrm{SSIM}(a, b)) + (1 - \alpha)\,\lVert a - b \rVert_1, \qquad \alpha = 0.85$$
#
# Below, the depth is the **true** one. What is hidden from one source is dark in the other, hence the
# minimum over the two sources. But look at the mirrored lights: their outlines glow in both. Their true depth
# does not explain how they move. That is what the paper is about.

# %%
view = d3d.analysis.photometric.reproject(
    example.target, example.sources, example.true_depth, example.K, example.source_T_target
)
d3d.figures.dataset.warped_sources(
    example.target, example.sources, view.warped, view.errors, title=f"{example.name}, warped by true depth"
)

# %% [markdown]
# A check that must hold for any data: an image warped by the identity pose is itself, whatever the depth.

# %%
# NBVAL_CHECK_OUTPUT
still = d3d.analysis.photometric.reproject(
    example.target, [example.target], example.true_depth, example.K, np.eye(4)[None]
)
assert np.abs(still.warped[0] - example.target / 255).max() < 1e-3
assert still.errors.max() < 1e-3
print("the identity warp gives the image itself")

# %% [markdown]
# Next: [01_pretrain](01_pretrain.ipynb) trains a network to minimise that error, and shows what it makes of
# the lights.
