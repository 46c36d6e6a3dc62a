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
# # 11 Your room: the method on your own capture
#
# **Paper** section 3, all of it, on one room. **In:** a folder with images and camera poses; by default a room that
# ships in COLMAP's format. **Out:** depth of every frame, two meshes, a video and a page, `runs/<run>/room`. **Time**
# at profile ready: two and a half minutes of one CPU core, or eight minutes on a busy machine; on a GPU not measured.
#
# `papermill 11_your_room.ipynb out.ipynb -p root my_room/ -p arch lite`
#
# `python -m d3d room my_room/` does the same in one command, with larger images and more steps. It also takes a video.
# [Your own room](../docs/room.md) says how to film, and what to export from which program.

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke; others: as python -m d3d room
arch: str = "lite"  # network: lite, monodepth2, hrdepth or monovit
dataset: str = None  # None or capture: this notebook opens nothing else
root: str = None  # folder of your capture; None: the one that ships
format: str = None  # its format, where several fit; axes, poses, intrinsics, ... are parameters, too
metres_per_unit: float = None  # scale of its poses; None: as the format says
steps: int = None  # of each of the two trainings; None: as the profile has it
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: room-<folder>-profile-seed

# %%
import d3d

cfg = d3d.room.resolve(globals())
d3d.notebook.start.begin(cfg)

# %% [markdown]
# The lines above say what d3d found: the format, the scale, whether the poses explain the images, and the bounds of
# the training triples. COLMAP does not know how long a metre is. The scene is then scaled until its median depth is
# 2.5, and all lengths below are *relative units*. `metres_per_unit` gives metres.
#
# ## The frames

# %%
import numpy as np
import torch

room = d3d.stages.training_scenes(cfg)[0]
scene, triples = room.scene, room.triples
unit = d3d.stages.dataset(cfg).unit

shown = range(0, len(scene), -(-len(scene) // 8))
d3d.figures.contact_sheet(
    [scene.image(i) for i in shown],
    [scene.frame_ids[i] for i in shown],
    title=scene.name,
    width_in=9,
    columns=4,
)

# %% [markdown]
# ## The camera path
# A good walk goes sideways and comes back over the same floor: each highlight is then seen from many directions, and
# moves over the floor between them. Left: the path from above. Right: one target and its two sources.

# %%
up = d3d.geometry.upward(scene.world_T_cams)
middle = len(triples) // 2
d3d.figures.camera_path(scene.world_T_cams, triples.indices, up, middle, title=scene.name, unit=unit)

# %% [markdown]
# ## Do the poses explain the images?
# Programs disagree about the axes and the direction of poses, and a training on wrong poses learns nothing. The pixels
# can tell. Warp a neighbour into the target's view (Eq. 1 of [00](00_data.ipynb)) by planes of constant depth $z_k$,
# and let each pixel $x$ take the best plane:
#
# $$e(x) = \min_k\ \overline{\ell}\big(I_t,\ \mathrm{warp}(I_s, T_{t \to s}, K, z_k)\big)(x)$$
#
# $\overline{\ell}$ is the photometric error of Eq. 2, averaged over 7x7 pixels. Right poses leave a median error of .02
# to .06, wrong poses at least twice as much.

# %%
import torch.nn.functional as F

check = d3d.datasets.capture.sweep
pairs = check.choose_pairs(scene)
pair = pairs[len(pairs) // 3]  # two neighbours whose images differ, and their intrinsics
target, source = pair.images[:, None]
K, source_K = pair.Ks[:, None].float()


def best_plane(poses):
    """Poses (2, 4, 4) of target and source -> the error of the best plane (h, w), and the warped source."""
    t, s = poses
    source_T_target = np.linalg.inv(s) @ t
    baseline, w = np.linalg.norm(source_T_target[:3, 3]), target.shape[-1]
    shifts = np.geomspace(0.004, 0.25, 24) * w  # pixels; a nearer plane shifts further
    errors, views = [], []
    for z in float(K[0, 0, 0]) * baseline / shifts:
        plane = torch.full((1, 1, *target.shape[-2:]), z)
        pose = torch.from_numpy(source_T_target).float()[None]
        seen, valid = d3d.geometry.warp(source, plane, K, pose, source_K)
        error = torch.where(valid, d3d.losses.photometric_error(seen, target), 1.0)
        errors.append(F.avg_pool2d(error, 7, stride=1, padding=3, count_include_pad=False)[0, 0])
        views.append(seen[0])
    least, k = torch.stack(errors).min(dim=0)
    return least.numpy(), torch.stack(views).gather(0, k[None, None].expand(1, 3, -1, -1))[0].permute(
        1, 2, 0
    ).numpy()


poses = pair.of(scene.world_T_cams)
readings = {
    "as given": poses,
    "other axes (OpenGL)": poses @ np.diag([1.0, -1, -1, 1]),
    "inverted": np.linalg.inv(poses),
}
found = {name: best_plane(p) for name, p in readings.items()}
for name, p in readings.items():
    np.testing.assert_allclose(found[name][0], check.sweep(pair, p).error, atol=1e-4)

image = target[0].permute(1, 2, 0).numpy()
rows = [
    [
        d3d.figures.Panel("target", image),
        d3d.figures.Panel("source, warped", view),
        d3d.figures.Panel("error", error, "share", 0.4, note=f"median {np.median(error):.3f}"),
    ]
    for error, view in found.values()
]
d3d.figures.grid(rows, names=list(found), width_in=8)

# %% [markdown]
# d3d compares twelve pairs, and more readings: other orders, other intrinsics. If one is clearly better, it stops and
# names the option that selects it. It never changes poses by itself.
#
# ## Triples: the choice of the bounds
# The paper takes sources 5 to 10 cm away and turned by at most 3 degrees, which is 2 to 4 % of a room's depth. Your
# camera moves at another speed. d3d starts with 2 to 8 % of the median depth $\tilde z$, and widens the bounds until
# 60 % of the targets have two sources.

# %%
from itertools import product

z = check.median_depth(scene)
targets = scene.every(cfg.data.every)
for (low, high), degrees in product(((0.02, 0.08), (0.015, 0.12), (0.01, 0.2)), (3.0, 5.0, 8.0, 12.0, 20.0)):
    some = d3d.datasets.find_triples(
        scene.world_T_cams, cfg.data.every, (low * z, high * z), degrees, targets=targets
    )
    share = len(some) / some.targets_tried
    print(
        f"{low:.1%} to {high:.1%} of {z:.2f} {unit}, {degrees:g} degrees: {share:.0%} of the targets have two"
    )
    if share >= 0.6:
        break

theirs = d3d.datasets.bounds.choose_bounds(scene.world_T_cams, z, cfg.data.every, targets)
if share >= 0.6:
    np.testing.assert_allclose((low * z, high * z), theirs.translation_m, rtol=0.05)  # d3d's have two digits
    assert degrees == theirs.max_rotation_deg

# %% [markdown]
# ## Adapt a network to the room
# The first network learns from the images alone (section 3.1): it begins as a network that ships, and goes on with the
# photometric loss on *this* room. Nobody gives it the depth. It learns the shape of the room, and the mirrored lamps,
# too. What is missing is computed now; the lines below say so.

# %%
d3d.stages.pretrain(cfg)
for row in d3d.stages.loss_history(cfg):
    print(f"step {row['steps']}: mean photometric loss {row['photometric']:.4f}")

# %% [markdown]
# ## Uncertainty, mesh, label
# The [recommended recipe](../docs/robust.md) needs one network only. $U$ is the spread of its depth under six changes
# of the image. The 30 % of all pixels with the largest $U$ are left out, the rest is fused into one mesh, and the mesh
# seen from each camera is $P$ ([02](02_project.ipynb)). With $\alpha$ the highest fifth of $U$, the label is
#
# $$L_t(x) = \begin{cases}
# P_t(x) & \text{if } U_t(x) \geq \alpha \text{ and } P_t(x) < D_t(x) \\
# D_t(x) & \text{otherwise}
# \end{cases}$$
#
# A mirror image lies *behind* the surface, so a label may only come nearer. The frame below changes most.

# %%
labels_of = d3d.stages.fuse(cfg)
D_of, P_of, U_of = d3d.stages.predict(cfg), d3d.stages.project(cfg), d3d.stages.uncertainty(cfg, "tta")
alpha = d3d.stages.threshold(cfg)


def label(i):
    """Index of a target frame -> its D, P, U and label, (h, w) each."""
    D, P, U = (store.read_of(scene, i) for store in (D_of, P_of, U_of))
    return D, P, U, np.where((alpha <= U) & (P > 0) & (P < D), P, D)


nearer = {}  # target frame -> how much nearer its label is than its prediction, on average
for i in room.targets:
    D, P, U, L = label(i)
    np.testing.assert_array_equal(L, labels_of.read_of(scene, i))
    nearer[i] = float((D - L).mean())
i = max(nearer, key=nearer.get)  # the frame that changes most
D, P, U, L = label(i)

maps = {"predicted D": D, "projected P": P, "label L": L}
rows = [
    [
        d3d.figures.Panel("image", scene.image(i, cfg.data.size_hw)),
        *(d3d.figures.Panel(name, depth, "depth") for name, depth in maps.items()),
    ],
    [
        d3d.figures.Panel("P taken (white)", L != D, "mask"),
        d3d.figures.Panel("uncertainty U", U, "uncertainty", 2 * alpha),
        d3d.figures.Panel("D − L", D - L, "signed"),
    ],
]
d3d.figures.grid(rows, f"{scene.name}, frame {scene.frame_ids[i]}", width_in=11, unit=unit)

# %% [markdown]
# In the room that ships, $D$ has the mirrored windows as holes in the floor, and $U$ finds them. $P$ has no holes. But
# the mesh also fills the gap between the chair, the table and the floor, so in a part of the label the floor is now
# *too near*. The truncation of 1 m is the paper's; the first exercise changes it.
#
# ## The student
# It starts again as the network that ships, and trains on the labels of this room (section 3.2.4).

# %%
d3d.stages.distill(cfg)
before = d3d.stages.load_network(cfg, cfg.arch)
after = d3d.stages.load_network(cfg, cfg.arch, cfg.labels)


def depth(network, scene, i):
    return d3d.predict(network, scene.image(i), size_hw=cfg.data.size_hw)


changed = sorted(nearer, key=nearer.get, reverse=True)
apart = [i for k, i in enumerate(changed) if all(abs(i - j) > len(scene) // 8 for j in changed[:k])][:3]
rows = [
    [
        d3d.figures.Panel("image", scene.image(i)),
        d3d.figures.Panel("depth before", depth(before, scene, i), "depth"),
        d3d.figures.Panel("depth after", depth(after, scene, i), "depth"),
    ]
    for i in apart
]
d3d.figures.grid(rows, names=[scene.frame_ids[i] for i in apart], width_in=10, unit=unit)

# %% [markdown]
# ## Is it better?
# Nobody knows the true depth of your room. But the capture that ships is a rendered room of the test split: its truth
# lies in `data/glossyrooms`, unused so far. The scale of the depth is unknown, so each map is first scaled to the
# median of the truth ([06](06_sevenscenes.ipynb)). Sq Rel in metres; lower is better. *At the start* is the network
# that ships, before it saw this room. The same generator made its training rooms: do not expect that much of it in
# yours.

# %%
from pathlib import Path

import pandas as pd

from glossyrooms.capture import truth_of

truth = truth_of(cfg.data.root)
if truth is None:
    print(
        "This is a capture of your own: there is no truth to compare with. Trust your eyes, and the meshes below."
    )
else:
    frames = range(0, len(truth), 2)
    networks = {"before": before, "after": after}
    if cfg.pretrain.weights and Path(cfg.pretrain.weights).is_file():
        networks = {"at the start": d3d.load_model(cfg.pretrain.weights), **networks}
    limits = {"scale": "median", "min_depth": cfg.data.min_depth, "max_depth": cfg.data.max_depth}
    scores = {
        name: pd.DataFrame(
            d3d.evaluation.score_scene(lambda s, i, n=network: depth(n, s, i), truth, frames, **limits)
        )
        for name, network in networks.items()
    }
    table = pd.DataFrame({name: rows.groupby("pixels")["sq_rel"].mean() for name, rows in scores.items()})
    table["before to after"] = (table["after"] / table["before"] - 1).map("{:+.0%}".format)
    if not cfg.learns:
        print("not trained: these numbers mean nothing")
    display(table.round(3))

# %% [markdown]
# Errors on the frame with most highlight. Red is too far: the reflections in the floor. Blue is too near: what the mesh
# has filled. Outlined: highlights.

# %%
if truth is not None:
    i = max(frames, key=lambda i: truth.highlight_mask(i).mean())
    gt, lit = truth.depth(i), truth.highlight_mask(i)
    aligned = {
        f"depth {name}": d3d.metrics.align(depth(network, truth, i), gt, **limits)
        for name, network in {"before": before, "after": after}.items()
    }
    display(
        d3d.figures.labels.against_truth(
            truth.image(i), aligned, gt, lit, title=f"frame {truth.frame_ids[i]}"
        )
    )

# %% [markdown]
# ## The results
# One call writes everything that `python -m d3d room` writes. Open `index.html` in a browser: it needs no network.

# %%
folder = d3d.room.write_results(cfg)
for path in sorted(p for p in folder.iterdir() if p.suffix in (".html", ".mp4", ".ply", ".png")):
    print(f"{path.name:16} {path.stat().st_size / 1e6:6.1f} MB")
print(f"depth/           {len(list((folder / 'depth').glob('*.png')))} maps, 16 bits")
print(d3d.room.printed(folder))

# %% [markdown]
# ## The meshes
# In a running notebook they can be turned. In the room that ships, the floor and the table have holes before
# distillation, because each view puts the mirrored windows elsewhere. After it they are closed.

# %%
meshes = {name: d3d.room.meshes.read_mesh(folder / f"mesh_{name}.ply", scene) for name in ("before", "after")}
d3d.notebook.mesh.show_mesh(cfg, meshes["before"], scene, apart[0], "before distillation")

# %%
d3d.notebook.mesh.show_mesh(cfg, meshes["after"], scene, apart[0], "after distillation")

# %% [markdown]
# A check that holds for any capture: a label never lies behind the prediction, and the student has the size of its
# teacher.

# %%
# NBVAL_CHECK_OUTPUT
assert min(nearer.values()) >= 0
assert [p.shape for p in before.parameters()] == [p.shape for p in after.parameters()]
print("labels only come nearer; before and after have the same parameters")

# %% [markdown]
# ## Summary
# - Images and poses are enough: no depth sensor, no labels, no network access.
# - The pixels tell whether the poses are right. The poses and the depth tell the bounds of the triples.
# - A network adapted to one room learns its reflections. Its mesh, fused from the certain pixels of many views, does
#   not have most of them, and the student learns from the mesh where its teacher was unsure.
# - On highlights, the network that ships stays better than the student here. The same generator made its training
#   rooms and this one.
#
# ## Exercises
# 1. Fuse with a shorter truncation: `-p trunc_m 0.5 -p run short -p base room-capture-ready-seed0` (the base keeps the
#    first network). What happens between the chair and the table, and on the highlights?
# 2. Read the poses with other axes: `-p axes opengl`. What does the message say? Then add `-p check False -p run
#    wrong`: what does the first network learn from wrong poses?
# 3. Write another room, `python -m glossyrooms.capture test-0002 --out ../matt_room`, and run this notebook on it
#    (`-p root ../matt_room`). Its floor is matt. What does distillation change there?
#
# **Next:** your own room, in one command: `python -m d3d room my_room/` ([how to film and export](../docs/room.md)).
#
# *Parameters.* Every name in `d3d.config.PARAMETERS` can be set (`-p metres_per_unit 0.6`); a wrong name or value is
# an error. "No module named ..." means that the notebook runs in another Python: select the one that d3d is installed
# in (Kernel > Change Kernel, `papermill -k`).
