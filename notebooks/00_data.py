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
# **Paper** sections 3.1 and 4.1, Figure 3, Eq. 1 and 2. **In:** posed frames of rooms. **Out:** the training triples;
# nothing is written. **Time** at profile ready: 20 s on two CPU cores; on a GPU the same, nothing is trained here.
#
# `papermill 00_data.ipynb out.ipynb -p dataset 7scenes -p root ../data/7scenes`
#
# ![video, networks, depth, mesh, projected depth, uncertainty, label, student](../docs/pipeline.svg)
#
# The stages, after Figure 3 of the paper. Each has a notebook: [00](00_data.ipynb) video and triples,
# [01](01_pretrain.ipynb) a network with the photometric loss, [02](02_project.ipynb) predicted depth, mesh and
# projected depth, [03](03_fuse.ipynb) uncertainty and label, [04](04_distill.ipynb) the student,
# [05](05_evaluate.ipynb) its scores. Beyond the pipeline: [06](06_sevenscenes.ipynb) real rooms,
# [07](07_ablation.ipynb) other labels, [08](08_figures.ipynb) all figures, [09](09_reflection_list.ipynb) lists of
# reflective frames, [10](10_uncertainty.ipynb) other uncertainties, [11](11_your_room.ipynb) your own room.
# [The method](../docs/method.md) has the equations on one page.

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed

# %%
import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)

# %% [markdown]
# ## The rooms
# The paper trains on ScanNet, which needs a signed agreement. GlossyRooms ship with this repository: 30 rendered
# rooms to train on, 6 to validate, 6 to test, no two alike. Floors, table tops and screens are glossy: windows and
# lamps are mirrored in them. Some floors are matt, some walls have a mirror. All poses are exact. The depth of the
# validation, the test and every sixth training room is exact, too.
#
# *Reflection* frames show mirrored lights on at least 2 % of their pixels, *NoReflection* frames on less than 0.3 %.
# *Mirror* frames show a mirror, a problem that the paper leaves open. Tables have rows for each list.

# %%
d3d.figures.dataset.overview(cfg)

# %%
d3d.figures.dataset.one_frame_per_scene(cfg)

# %% [markdown]
# ## Frames
# A scene is a video with a camera pose for each frame. This is the scene of the frame that the notebooks 00 to 04
# follow.

# %%
example = d3d.figures.dataset.example_triple(cfg)
scene = example.scene
shown = range(0, len(scene), -(-len(scene) // 6))
d3d.figures.contact_sheet(
    [scene.image(i) for i in shown], [scene.frame_ids[i] for i in shown], title=scene.name, width_in=9
)

# %% [markdown]
# ## What is known of a frame
# Outlined: mirror images of lights. The floor there is as far away as its neighbourhood (second picture). But what
# the camera *sees* there is the lamp or the window: as far behind the floor as it hangs above it (last picture). A
# network that explains how these pixels move between two views must find the second depth.

# %%
d3d.figures.dataset.ground_truth(scene, example.row[0])

# %% [markdown]
# ## Triples
# Every Nth frame is a target $I_t$. For each "we find a source frame both backwards and forwards in time with a
# relative translation of 5-10 cm and a relative rotation of at most 3 degrees". A target without such sources is
# dropped.

# %%
d3d.figures.dataset.dropped_targets(cfg)

# %%
triples = next(s.triples for s in d3d.stages.training_scenes(cfg) if s.scene is scene)
up = d3d.geometry.upward(scene.world_T_cams)
d3d.figures.camera_path(scene.world_T_cams, triples.indices, up, example.index, title=example.name)

# %% [markdown]
# ## Eq. 1: warp a source into the target's view
# Take a pixel $x$ of the target. Its depth $D_t(x)$ gives a point in the room, the relative pose $T_{t \to s}$ moves
# this point into the camera of the source, and the intrinsics $K$ give its pixel there:
#
# $$x' \sim K\, T_{t \to s}\, D_t(x)\, K^{-1} x$$
#
# The colours of the source at all $x'$ are the warped source. The cell computes it step by step, then calls d3d, then
# compares both. Here the depth is the **true** one.

# %%
import numpy as np
import torch
import torch.nn.functional as F


def warp(source, depth, K, source_T_target):
    """Eq. 1: source (1, 3, h, w), depth (h, w) in metres -> the source as the target's camera sees it."""
    h, w = depth.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    pixels = torch.stack((x, y, torch.ones_like(x))).float()  # homogeneous, (3, h, w)
    points = depth * torch.einsum(
        "ij,jhw->ihw", torch.linalg.inv(K), pixels
    )  # in the target's camera, metres
    moved = torch.einsum("ij,jhw->ihw", source_T_target[:3, :3], points) + source_T_target[:3, 3, None, None]
    seen = torch.einsum("ij,jhw->ihw", K, moved)
    seen = seen[:2] / seen[2]  # the pixel x'
    grid = 2 * seen / torch.tensor((w - 1, h - 1))[:, None, None] - 1  # grid_sample counts from -1 to 1
    return F.grid_sample(source, grid.permute(1, 2, 0)[None], padding_mode="border", align_corners=True)


def tensor(image):
    """uint8 (h, w, 3) -> (1, 3, h, w) in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None] / 255


target, sources = tensor(example.target), [tensor(s) for s in example.sources]
depth, K = torch.from_numpy(example.true_depth).float(), torch.from_numpy(example.K).float()
poses = torch.from_numpy(example.source_T_target).float()
warped = [warp(source, depth, K, pose) for source, pose in zip(sources, poses, strict=True)]

for mine, source, pose in zip(warped, sources, poses, strict=True):
    theirs, _ = d3d.geometry.warp(source, depth[None, None], K[None], pose[None])
    np.testing.assert_allclose(mine, theirs, atol=1e-3)

# %% [markdown]
# ## Eq. 2: the photometric error
# How different are two images? Structural similarity compares mean $\mu$, variance $\sigma^2$ and covariance of 3x3
# pixels; the absolute difference compares the colours:
#
# $$\mathrm{SSIM}(a, b) = \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
# {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)}, \qquad c_1 = 0.01^2,\ c_2 = 0.03^2$$
#
# $$\ell(a, b) = \frac{\alpha}{2}\,(1 - \mathrm{SSIM}(a, b)) + (1 - \alpha)\,\lVert a - b \rVert_1,
# \qquad \alpha = 0.85$$
#
# **Minimum reprojection.** A part of the target may be hidden in one source. At each pixel the source with the
# smaller error counts, as in Monodepth2:
#
# $$\ell_\mathrm{min}(x) = \min_s\ \ell\big(I_t,\ \mathrm{warp}(I_s, T_{t \to s}, K, D_t)\big)(x)$$


# %%
def mean(image):
    """Mean of 3x3 pixels."""
    return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


def photometric_error(a, b, alpha=0.85):
    """Eq. 2: images (1, 3, h, w) in [0, 1] -> (1, 1, h, w)."""
    mu_a, mu_b, c1, c2 = mean(a), mean(b), 0.01**2, 0.03**2
    var_a, var_b, cov = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
    ssim = (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    error = alpha / 2 * (1 - ssim) + (1 - alpha) * (a - b).abs()
    return error.mean(dim=1, keepdim=True)  # of the three colours


errors = [photometric_error(w, target) for w in warped]
minimum = torch.minimum(*errors)

for mine, w in zip(errors, warped, strict=True):
    np.testing.assert_allclose(mine, d3d.losses.photometric_error(w, target), atol=1e-4)
np.testing.assert_allclose(minimum, d3d.losses.minimum_reprojection(errors))
d3d.figures.dataset.warped_sources(
    example.target,
    example.sources,
    [w[0].permute(1, 2, 0).numpy() for w in warped],
    [e[0, 0].numpy() for e in errors],
    title=f"{example.name}, warped by its true depth",
)

# %% [markdown]
# What is hidden from one source is bright in its error and dark in the other: the minimum is dark there. But the
# mirrored lights stay bright in all three. Their true depth does not explain how they move. The numbers say the same:

# %%
if example.highlight is not None:
    for name, pixels in {"highlights": example.highlight, "other pixels": ~example.highlight}.items():
        print(f"{name}: mean error {minimum[0, 0][torch.from_numpy(pixels)].mean():.3f} at the true depth")

# %% [markdown]
# A check that holds for any data: an image warped by the identity pose is itself, at any depth.

# %%
# NBVAL_CHECK_OUTPUT
still = warp(target, depth, K, torch.eye(4))
assert (still - target).abs().max() < 1e-3
assert photometric_error(still, target).abs().max() < 1e-3
print("the identity warp gives the image itself")

# %% [markdown]
# ## Summary
# - The data are videos with poses. A target and two sources, 5 to 10 cm away, are a training triple.
# - Depth and pose predict one image from another (Eq. 1). The photometric error says how well (Eq. 2).
# - At highlights the *true* depth has a large error. A network that minimises the error must be wrong there.
#
# ## Exercises
# 1. Multiply `depth` by 1.5 before the warp. Which pixels get a larger error, and which a smaller one?
# 2. Set `alpha` to 0 and to 1. Which of the two terms is blind to a change of brightness of the whole image?
# 3. Replace the true depth by `np.where(example.virtual > 0, example.virtual, example.true_depth)`, the depth of what
#    is seen (last picture of "What is known of a frame"). What happens to the error on highlights?
#
# **Next:** [01_pretrain](01_pretrain.ipynb) trains a network to minimise this error.
#
# *Parameters.* Every name in `d3d.config.PARAMETERS` can be set (`-p every 5`); a wrong name or value is an error.
# The first output names the profile ([profiles](../docs/profiles.md)). "No module named ..." means that the notebook
# runs in another Python: select the one that d3d is installed in (Kernel > Change Kernel, `papermill -k`).
