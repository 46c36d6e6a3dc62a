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
# **Paper** section 3.1 and Figure 1a, Eq. 1 and 2. **In:** triples. **Out:** the weights of one self-supervised
# network, `runs/<run>/pretrain/<arch>`. **Time** at profile ready: a minute on two CPU cores, because the network
# ships; a whole training takes an hour there. On one GPU not measured.
#
# `papermill 01_pretrain.ipynb out.ipynb -p arch hrdepth`
#
# With `-p teachers trained` the network is trained here from the start.

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
teachers: str = None  # shipped with d3d, or trained here; None: as the profile has it
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed

# %%
import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)

# %% [markdown]
# ## The premise, before any training
# "On a reflective surface, predicting the correct surface depth does not minimize the photometric loss." We can
# measure that without a network: multiply the true depth by a factor, and compute the minimum reprojection error
# ([00_data](00_data.ipynb)). Each pixel moves along its own ray.
#
# Left: the mirrored lights (outlined) and two pixels. Middle: their error along the ray. The error of the diffuse
# pixel is least at its true depth. That of the highlight is least at the depth of the *mirror image*, far beyond the
# floor. Right: the same for all pixels of each kind. Training does not fail to find the minimum: the minimum is
# wrong.

# %%
example = d3d.figures.dataset.example_triple(cfg)
d3d.figures.figure1.draw_example(example, d3d.figures.figure1.errors_of(example))

# %% [markdown]
# ## From the network to metres
# The network ends in a sigmoid $\sigma \in [0, 1]$. Inverse depth is linear in $\sigma$, and depth lies between
# $D_\min = 0.1$ m and $D_\max = 10$ m:
#
# $$D = \frac{1}{\frac{1}{D_\max} + \left(\frac{1}{D_\min} - \frac{1}{D_\max}\right) \sigma}$$

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler


def to_depth(sigma, near=cfg.data.min_depth, far=cfg.data.max_depth):
    return 1 / (1 / far + (1 / near - 1 / far) * sigma)


sigma = torch.linspace(0, 1, 11)
theirs = d3d.geometry.disp_to_depth(sigma, cfg.data.min_depth, cfg.data.max_depth)
np.testing.assert_allclose(to_depth(sigma), theirs, rtol=1e-5)
print("sigma:", *(f"{s:6.2f}" for s in sigma))
print("depth:", *(f"{d:6.2f}" for d in to_depth(sigma)), "m")

# %% [markdown]
# ## The loss
# **Smoothness.** Where the image has no edge, the depth should have no edge. $d^* = \sigma / \bar\sigma$ has mean 1:
#
# $$\mathcal{L}_\mathrm{smooth} = |\partial_x d^*|\, e^{-|\partial_x I_t|} + |\partial_y d^*|\, e^{-|\partial_y I_t|}$$
#
# **Total.** With the minimum reprojection error $\ell_\mathrm{min}$, the weight $\lambda = 10^{-3}$ and the scales
# $k$ at which the network predicts (each half as large as the one before; only $k = 0$ in the cells below):
#
# $$\mathcal{L} = \frac{1}{K} \sum_k \Big( \mathrm{mean}_x\, \ell_{\mathrm{min}, k}
# + \frac{\lambda}{2^k}\, \mathrm{mean}_x\, \mathcal{L}_{\mathrm{smooth}, k} \Big)$$
#
# **Automasking is off.** Monodepth2 also leaves out pixels that match the *unwarped* source better, because they may
# belong to a moving object. The paper does not name it, and here nothing moves ([decisions](../docs/decisions.md)).
# `d3d.losses.self_supervised_loss(..., automask=True)` turns it on.


# %%
def smoothness(sigma, image):
    """sigma (b, 1, h, w), image (b, 3, h, w) -> a number."""
    d = sigma / sigma.mean(dim=(2, 3), keepdim=True)
    return sum(
        (d.diff(dim=axis).abs() * torch.exp(-image.diff(dim=axis).abs().mean(1, keepdim=True))).mean()
        for axis in (2, 3)
    )


def loss_of(sigma, batch, weight=1e-3):
    """Minimum reprojection and smoothness of a batch, for the network's output sigma (b, 1, h, w)."""
    depth, target = to_depth(sigma), batch["target"]
    errors = []
    for s in range(2):  # the source before and the source after
        warped, _ = d3d.geometry.warp(
            batch["sources"][:, s], depth, batch["K"], batch["source_T_target"][:, s]
        )
        errors.append(d3d.losses.photometric_error(warped, target))
    return torch.minimum(*errors).mean() + weight * smoothness(sigma, target)


(room,) = (s for s in d3d.stages.training_scenes(cfg) if s.scene.name == example.scene.name)
samples = d3d.datasets.samples.TripleSamples(
    [room.scene], [room.triples], cfg.data.size_hw, seed=cfg.seed, augment=False
)
torch.manual_seed(cfg.seed)
shuffled = SubsetRandomSampler([(0, i) for i in range(len(samples))])  # (epoch, index)
loader = DataLoader(samples, sampler=shuffled, batch_size=min(4, len(samples)), drop_last=True)
batch = next(iter(loader))

sigma = torch.rand(batch["target"][:, :1].shape) * 0.05
theirs, _ = d3d.losses.self_supervised_loss(
    {0: sigma},
    batch["target"],
    batch["sources"].transpose(0, 1),
    batch["K"],
    batch["source_T_target"].transpose(0, 1),
    min_depth=cfg.data.min_depth,
    max_depth=cfg.data.max_depth,
)
np.testing.assert_allclose(loss_of(sigma, batch), theirs, rtol=1e-4)

# %% [markdown]
# ## Training, in 20 lines
# A fresh network, one room, a few steps. The network sees the target only; the sources and the poses are for the
# loss. No true depth is used.

# %%
torch.manual_seed(cfg.seed)
network = d3d.create_model(cfg.arch, pretrained=False, init_depth_m=2.3)  # predicts 2.3 m everywhere
optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)
before, losses = d3d.predict(network, example.target), []
network.train()
while len(losses) < (40 if cfg.learns else 3):
    for batch in loader:
        loss = loss_of(network(batch["target"], (0,))[0], batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
after = d3d.predict(network.eval(), example.target)

print(f"loss: {np.mean(losses[:5]):.3f} in the first five steps, {np.mean(losses[-5:]):.3f} in the last five")
figure, axis = plt.subplots(figsize=(5, 2.5))
axis.plot(losses)
axis.set(xlabel="step", ylabel="loss")
plt.show()

# %% [markdown]
# After a few steps the network knows roughly where floor, table and walls are. And it already puts the mirrored
# window behind the floor: the loss wants it there. (Bottom: error, red is too far; the number is the median on the
# outlined highlights.)

# %%
d3d.figures.labels.against_truth(
    example.target,
    {"fresh network": before, f"after {len(losses)} steps": after},
    example.gt,
    example.highlight,
    title=example.name,
)

# %% [markdown]
# ## What a whole training learns
# The next cells take the network of this run: the one that ships (trained in the same way, on all rooms, for 1000 to
# 1500 steps), or with `teachers = "trained"` a network that is trained now.

# %%
d3d.stages.pretrain(cfg)
if cfg.teachers == "trained":
    display(d3d.figures.loss_curves({f"pretraining, {cfg.arch}": d3d.stages.loss_history(cfg)}))

# %% [markdown]
# Its depth beside the truth; below, the error. Most of the floor and the walls is right within one or two decimetres,
# and objects have shapes, if blurred at their edges. The mirrored window lies far behind the floor (yellow,
# then red): the network has learned the depth of the mirror image, as the premise says.

# %%
network = d3d.stages.load_network(cfg, cfg.arch)
depth = d3d.predict(network, example.target)
d3d.figures.labels.against_truth(
    example.target, {cfg.arch: depth}, example.gt, example.highlight, title=example.name
)

# %% [markdown]
# By construction the depth lies between its bounds:

# %%
# NBVAL_CHECK_OUTPUT
assert cfg.data.min_depth <= depth.min() <= depth.max() <= cfg.data.max_depth
print("depth is within its bounds")

# %% [markdown]
# ## Summary
# - The loss compares the target with its warped sources. It needs video and poses, no depth.
# - On diffuse pixels its minimum is the true depth. On highlights it is the depth of the mirror image.
# - The trained network follows the loss: the room is right, the highlights are too far.
#
# ## Exercises
# 1. In the short training, set `weight=0` in `loss_of`, then `weight=0.1`. What happens to walls without texture?
# 2. Initialise the network at 0.2 m (`init_depth_m=0.2`). Does the loss still fall? Why not? (Look at how far a pixel
#    moves between the views, in pixels.)
# 3. Choose another frame: `d3d.figures.dataset.most_highlight_triple(cfg)`. Is the right curve of the premise the
#    same?
#
# **Next:** [02_project](02_project.ipynb) asks what the other views say about these pixels.
#
# *Parameters.* Every name in `d3d.config.PARAMETERS` can be set (`-p epochs 40`); a wrong name or value is an error.
# The first output names the profile ([profiles](../docs/profiles.md)). "No module named ..." means that the notebook
# runs in another Python: select the one that d3d is installed in (Kernel > Change Kernel, `papermill -k`).
