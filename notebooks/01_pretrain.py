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
# # 01 Pretraining: what the photometric loss makes of a reflection
#
# **Paper** section 3.1 and Figure 1a, Eq. 1 and 2. **In:** triples. **Out:** the weights of one
# self-supervised network, `runs/<run>/pretrain/<arch>`. **Time** at profile smoke: 14 s on one busy
# CPU core; at demo some minutes a network on two; on one GPU not measured.
#
# `papermill 01_pretrain.ipynb out.ipynb -p arch monovit -p profile demo`
#
# Every other parameter of `d3d.config.PARAMETERS` can be set in the same way (`-p epochs 40`); an unknown
# name or value is an error that names the near misses. The first printed line says with which profile the
# outputs below were made; `-p profile demo` learns something (half an hour for the whole chain on
# two quiet CPU cores: [profiles](../docs/profiles.md)).

# %% tags=["parameters"]
profile: str = "smoke"  # smoke (nothing is learned), demo (half an hour), laptop (an evening), paper (a GPU)
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
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

cfg = d3d.config.resolve(globals())
print(d3d.config.describe(cfg))

# %% [markdown]
# ## The premise, before any training
# "On a reflective surface, predicting the correct surface depth does not minimize the photometric loss." We
# can measure that without a network: multiply the true depth by a factor and read the minimum reprojection
# error of Eq. 2. Each pixel moves along its own ray.
#
# Left: the mirrored lights (red outline, where the data set knows them) and two pixels. Middle: their error
# along the ray. The diffuse pixel's is least at its true depth, the highlight's at the depth of the *mirror
# image*, far beyond the floor. Right: the same for all pixels of each kind. The loss is not failing to be
# minimised: its minimum is wrong.

# %%
example = d3d.figures.dataset.example_triple(cfg)
d3d.figures.figure1.draw_example(example, d3d.figures.figure1.errors_of(example))

# %% [markdown]
# ## Training
# The network predicts the depth of $I_t$; the loss is the minimum reprojection error over the two sources
# plus an edge-aware smoothness. Images and poses are used, no depth.

# %%
d3d.stages.pretrain(cfg)
d3d.figures.loss_curves({f"pretraining, {cfg.arch}": d3d.stages.loss_history(cfg)})

# %% [markdown]
# ## What it learned
# Depth of a training frame beside the truth; below, how far it is off: red is too far. Inside the red
# outlines a network that has minimised the loss sees the mirror image, hence red. (At profile smoke it has
# seen six steps: the rest of the room is still near the 2.3 m at which the network starts.)

# %%
network = d3d.stages.load_network(cfg, cfg.arch)
depth = d3d.predict(network, example.target)
d3d.figures.labels.against_truth(
    example.target, {cfg.arch: depth}, example.gt, example.highlight, title=example.name
)

# %% [markdown]
# By construction a sigmoid disparity gives a depth between the bounds of the configuration:

# %%
# NBVAL_CHECK_OUTPUT
assert cfg.data.min_depth <= depth.min() <= depth.max() <= cfg.data.max_depth
print("depth is within its bounds")

# %% [markdown]
# Next: [02_project](02_project.ipynb) asks what the other views say about these pixels.
