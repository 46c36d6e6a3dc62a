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
# # 04 Distillation: a student of the labels
#
# **Paper** section 3.2.4, Eq. 4, and Figure 5. **In:** labels ([03](03_fuse.ipynb); computed now if not there, with
# all that they need). **Out:** the weights of a fresh network of the same architecture,
# `runs/<run>/distill/<arch>/<labels>`, and its scores. **Time** at profile ready: ten minutes on two CPU cores, with
# nothing computed before; on one GPU not measured.
#
# `papermill 04_distill.ipynb out.ipynb -p arch hrdepth`

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
recipe: str = None  # paper (Eq. 3) or robust (recommended, docs/robust.md); sets the labels
labels: str = None  # label strategy of Table 6: uncer, pred, proj, diff, mv; None: that of the recipe
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed
threshold_m: float = None  # alpha_uncer of Eq. 3, metres; None: as the profile has it

# %%
import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)

# %% [markdown]
# ## Eq. 4: the loss of the student
# The student has "the same network architecture as the self-supervised model, and is trained from scratch on the
# pseudo-labels". With its depth $F_t$ and the label $L_t$:
#
# $$\mathcal{L}_\mathrm{depth} = |\log F_t - \log L_t|$$
#
# The loss is the mean over the pixels that have a label. Logarithms make an error of 10 % count the same at 1 m and
# at 5 m. One image and its label are enough for a step: no sources, no poses, no warp. The cell takes a fresh network
# through one step of the optimiser. What an earlier stage should have left and did not is computed first; the lines
# below say so.

# %%
import numpy as np
import torch

labels_of = d3d.stages.fuse(cfg)
example = d3d.figures.dataset.example_triple(cfg)
L_t = labels_of.read_of(example.scene, int(example.row[0]))  # (h, w), metres

device = d3d.parallel.distributed.select_device(cfg.device)
image = torch.from_numpy(example.target).permute(2, 0, 1)[None].to(device) / 255
label = torch.from_numpy(L_t)[None, None].to(device)


def depth_of(network):
    return d3d.geometry.disp_to_depth(network(image, (0,))[0], cfg.data.min_depth, cfg.data.max_depth)


def eq4(F_t, L_t):
    known = L_t > 0
    return (torch.log(F_t[known]) - torch.log(L_t[known])).abs().mean()


torch.manual_seed(cfg.seed)
fresh = d3d.create_model(cfg.arch, pretrained=False, init_depth_m=2.3).to(device)
optimizer = torch.optim.Adam(fresh.parameters(), lr=3e-4)

loss = eq4(depth_of(fresh), label)
theirs = d3d.losses.log_depth_loss(depth_of(fresh), label)
np.testing.assert_allclose(loss.item(), theirs.item(), rtol=1e-3)

optimizer.zero_grad()
loss.backward()
optimizer.step()
print(f"Eq. 4 on this frame: {loss:.3f} before the step, {eq4(depth_of(fresh), label):.3f} after it")

# %% [markdown]
# ## Training
# The same step, hundreds of times, on the labels of all training rooms, with colour changes and mirrored images.

# %%
d3d.stages.distill(cfg)
histories = {f"student, Eq. 4, labels {cfg.labels}": d3d.stages.loss_history(cfg, labels=cfg.labels)}
if cfg.teachers == "trained":
    histories[f"teacher, photometric loss, {cfg.arch}"] = d3d.stages.loss_history(cfg)
d3d.figures.loss_curves(histories)

# %% [markdown]
# ## Teacher, label and student on a training frame
# Numbers: median error on the outlined highlights. The teacher has the reflections far behind the floor; the label
# has them near the floor, but with some holes left and sharp edges where it changes from $P$ to $D$. The student has
# no hole any more. On this frame it does not follow its label all the way: it sees the labels of all rooms, and some
# of them still have the reflection ([03](03_fuse.ipynb)).

# %%
teacher = d3d.stages.load_network(cfg, cfg.arch)
student = d3d.stages.load_network(cfg, cfg.arch, cfg.labels)
maps = {
    "teacher": d3d.predict(teacher, example.target),
    f"label ({cfg.labels})": L_t,
    "student": d3d.predict(student, example.target),
}
d3d.figures.labels.against_truth(example.target, maps, example.gt, example.highlight, title=example.name)

# %% [markdown]
# "Our 3D distillation framework only modifies the training stage, without introducing additional computational cost
# or model parameters during inference":

# %%
# NBVAL_CHECK_OUTPUT
shapes = [{name: p.shape for name, p in network.named_parameters()} for network in (teacher, student)]
assert shapes[0] == shapes[1]
print("teacher and student have the same parameters")

# %% [markdown]
# ## The result: rooms that neither has seen
# Sq Rel is the mean of $(D - D^*)^2 / D^*$ over pixels with true depth $D^*$, in metres; lower is better
# ([05_evaluate](05_evaluate.ipynb) has all metrics). The highlights should improve a lot, and the diffuse pixels
# should not get worse.

# %%
results = d3d.stages.results(cfg)
print(d3d.tables.improvement(cfg, results))

# %% [markdown]
# Two of these rooms, the frames with most highlight. In the teacher's depth the reflections are holes in the floor
# (red in its error). In the student's depth the floor is closed.

# %%
d3d.figures.figure5.make(cfg, [cfg.arch], count=2).figure

# %% [markdown]
# ## Summary
# - The student is a fresh network of the same kind. It learns from images and labels, by the difference of
#   logarithms.
# - It is better than its teacher on highlights, and it has no need for the mesh or the ensemble any more: one image
#   in, one depth map out.
# - Its labels need not be perfect. It learns what most of them share: floors have no holes.
#
# ## Exercises
# 1. Train a student on the teacher's own depth (`-p labels pred`), the paper's "self-teaching". How much of the gain
#    is left?
# 2. Train on `-p labels proj` (the mesh everywhere). Which pixels get worse?
# 3. Replace the absolute difference in `eq4` by the square. Which labels get more weight?
#
# **Next:** [05_evaluate](05_evaluate.ipynb) scores them with all metrics, on every list of frames.
#
# *Parameters.* Every name in `d3d.config.PARAMETERS` can be set (`-p steps 400`); a wrong name or value is an error.
# The first output names the profile ([profiles](../docs/profiles.md)). "No module named ..." means that the notebook
# runs in another Python: select the one that d3d is installed in (Kernel > Change Kernel, `papermill -k`).
