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
# # 02 Projected depth: what all views together say
#
# **Paper** sections 3.2.1 and 3.2.2. **In:** the network of [01_pretrain](01_pretrain.ipynb). **Out:** predicted
# depth $D_t$, one mesh a room, projected depth $P_t$: `runs/<run>/predict` and `/project`. **Time** at profile ready:
# two minutes on two CPU cores; on one GPU not measured.
#
# `papermill 02_project.ipynb out.ipynb -p arch hrdepth -p trunc_m 0.25`

# %% tags=["parameters"]
profile: str = None  # None: ready, or the one that D3D_PROFILE names; smoke, demo, laptop, paper
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed

# %%
import d3d

cfg = d3d.config.resolve(globals())
d3d.notebook.start.begin(cfg)

# %% [markdown]
# ## The idea
# A highlight depends on the view: it covers another part of the floor in each frame. "Reflective surfaces can be
# accurately reconstructed by aggregating the predicted depth of these views." So the depth of many frames is fused
# into one mesh, and the mesh is seen again from each camera. What is missing is computed now; the lines below say so.

# %%
predicted, projected = d3d.stages.predict(cfg), d3d.stages.project(cfg)
example = d3d.figures.dataset.example_triple(cfg)
scene, target = example.scene, int(example.row[0])
D, P = predicted.read_of(scene, target), projected.read_of(scene, target)

# %% [markdown]
# ## TSDF: the votes of all views
# A truncated signed distance function (TSDF) is a grid of voxels. View $i$ sees the voxel $v$ at pixel $x_i$ and at
# depth $z_i(v)$; it predicted the depth $D_i(x_i)$ there. The signed distance along the ray says how far the voxel
# lies in front of the surface of this view; $c_i = \lVert K^{-1} x_i \rVert$ turns depth into distance:
#
# $$\mathrm{sdf}_i(v) = c_i \, \big(D_i(x_i) - z_i(v)\big)$$
#
# A voxel far behind the surface is hidden, and the view has no vote. The other $n_v$ views have one vote each, with
# weight 1, cut off at the truncation $\tau$ (1 m). The voxel keeps the mean:
#
# $$\mathrm{TSDF}(v) = \frac{1}{n_v} \sum_{i:\ \mathrm{sdf}_i(v) > -\tau} \min\big(\tau,\ \mathrm{sdf}_i(v)\big)$$
#
# The surface is where the mean changes its sign. The cell integrates all views on **one ray**: that of a pixel in the
# middle of the largest highlight. No grid is needed for this, only points along the ray.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage


def middle_of_highlight(example):
    """The pixel (row, column) that lies deepest in a highlight; the centre of the image without a mask."""
    if example.highlight is None:
        return tuple(n // 2 for n in example.target.shape[:2])
    inside = ndimage.distance_transform_edt(np.pad(example.highlight, 1))[1:-1, 1:-1]
    return np.unravel_index(inside.argmax(), inside.shape)


def votes(scene, points, store, tau):
    """Signed distances (views, points) of points (n, 3) in the world to the surface of each view; NaN: no vote."""
    rows = []
    for i in scene.every(cfg.fusion.integrate_every):
        depth = store.read_of(scene, i)
        h, w = depth.shape
        K, camera = scene.K(i, (h, w)), np.linalg.inv(scene.world_T_cams[i])
        p = points @ camera[:3, :3].T + camera[:3, 3]  # in the camera of view i
        z = p[:, 2]
        u, v = np.rint((p @ K.T)[:, :2] / z[:, None]).astype(int).T  # the nearest pixel
        seen = (z > 0) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
        u, v = np.where(seen, u, 0), np.where(seen, v, 0)
        c = np.linalg.norm(np.linalg.inv(K) @ np.stack((u, v, np.ones_like(u))), axis=0)
        sdf = c * (depth[v, u] - z)
        rows.append(np.where(seen & (depth[v, u] > 0) & (sdf > -tau), np.minimum(sdf, tau), np.nan))
    return np.stack(rows)


def tsdf_on_ray(example, store, tau=cfg.fusion.trunc_m, step_m=0.02):
    """Depths along the ray of the pixel, the votes there, their mean, and where the mean changes its sign."""
    scene, i = example.scene, int(example.row[0])
    y, x = middle_of_highlight(example)
    z = np.arange(0.3, cfg.data.max_depth, step_m)
    ray = np.linalg.inv(example.K) @ (x, y, 1)
    points = z[:, None] * ray @ scene.world_T_cams[i, :3, :3].T + scene.world_T_cams[i, :3, 3]
    sdf = votes(scene, points, store, tau)
    seen = np.isfinite(sdf).any(axis=0)
    mean = np.full(len(z), np.nan)
    mean[seen] = np.nanmean(sdf[:, seen], axis=0)
    crossing = np.flatnonzero((mean[:-1] > 0) & (mean[1:] <= 0))
    return z, sdf, mean, (z[crossing[0]] if len(crossing) else np.nan)


def draw(axis, example, title):
    z, sdf, mean, surface = tsdf_on_ray(example, predicted)
    axis.plot(z, sdf.T, color="0.6", linewidth=0.7)
    axis.plot(z, mean, color="C0", linewidth=2, label="TSDF, mean of all votes")
    axis.axhline(0, color="k", linewidth=0.7)
    y, x = middle_of_highlight(example)
    lines = {
        "its zero": (surface, "C0"),
        "predicted D": (predicted.read_of(example.scene, example.row[0])[y, x], "C3"),
    }
    if example.gt is not None:
        lines["true depth"] = (example.gt[y, x], "k")
    for name, (at, colour) in lines.items():
        axis.axvline(at, color=colour, linestyle="--", label=f"{name}: {at:.2f} m")
    axis.set(title=title, xlabel="depth along the ray of the pixel (m)", xlim=(0.5, 7))
    axis.legend(fontsize=7)
    return surface


figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
surface = draw(axis, example, f"{example.name}: one ray through the highlight")
axis.set_ylabel("signed distance (m)")
plt.show()

# %% [markdown]
# Grey: one line a view. A line falls through zero at the surface that this view predicts, and stays at the top as
# long as the surface is far behind. Most views put the surface near the true depth (black). A few see the reflection
# at this place, and put it metres behind, as this frame does (red). The mean falls through zero near the true depth.
# (It may cross again farther behind; the camera sees the first surface only.)
#
# ## d3d's mesh
# d3d integrates all voxels (Open3D), and marching cubes makes a mesh of the surface TSDF = 0. In a running notebook
# the mesh can be turned.

# %%
d3d.notebook.mesh.show(cfg, scene, target)

# %% [markdown]
# ## Ray casting: the mesh from one camera
# The depth of the mesh seen from the frame's own camera is the projected depth $P_t$. Cast a ray from the camera
# through the pixel, $o + t\, d$ with $d = R K^{-1} x$, and intersect it with each triangle $(a, b, c)$. The unknowns
# are $t$ and the place $u, v$ in the triangle:
#
# $$o + t\, d = a + u\, (b - a) + v\, (c - a), \qquad u, v \geq 0,\ u + v \leq 1$$
#
# The nearest hit counts. As $d$ has $z = 1$ in the camera, $t$ is the depth.


# %%
def cast(mesh, origin, direction):
    """Depth of the nearest triangle on a ray, 0 without a hit: solve for (t, u, v) in every triangle at once."""
    a, b, c = (mesh.vertices[mesh.triangles[:, k]] for k in range(3))
    matrix = np.stack((np.broadcast_to(-direction, a.shape), b - a, c - a), axis=2)
    possible = np.abs(np.linalg.det(matrix)) > 1e-12
    t, u, v = np.linalg.solve(matrix[possible], (origin - a[possible])[..., None])[..., 0].T
    hit = (t > 0) & (u >= 0) & (v >= 0) & (u + v <= 1)
    return t[hit].min() if hit.any() else 0.0


mesh = d3d.stages.read_mesh(cfg, cfg.arch, scene)
pose, (h, w) = scene.world_T_cams[target], P.shape
theirs = d3d.reconstruction.render_depth(mesh, example.K, pose[None], (h, w))[0]
pixels = [
    tuple(map(int, middle_of_highlight(example))),
    (h // 2, w // 2),
    (h // 4, w // 4),
    (3 * h // 4, w // 3),
]
mine = [cast(mesh, pose[:3, 3], pose[:3, :3] @ np.linalg.inv(example.K) @ (x, y, 1)) for y, x in pixels]
np.testing.assert_allclose(mine, [theirs[p] for p in pixels], atol=1e-3)

y, x = pixels[0]
print(f"on the ray through the highlight: TSDF {surface:.2f} m, d3d's mesh {theirs[y, x]:.2f} m")
if np.isfinite(surface) and theirs[y, x] > 0 and cfg.learns and cfg.fusion.passes == 1:
    np.testing.assert_allclose(surface, theirs[y, x], atol=3 * cfg.fusion.voxel_m)  # triangles, not points

# %% [markdown]
# ## Predicted and projected depth
# Top: depth. Bottom: error, red is too far; the number is the median on the outlined highlights. $D$ has the
# reflections far behind the floor. $P$ has these places on the floor. A red spot is left beside the outlines, where
# other views saw a reflection. And $P$ is smoother: "the projected depth is lacking high-frequency details due to
# volumetric averaging over multiple views". White: the mesh has no surface.

# %%
d3d.figures.labels.against_truth(
    example.target, {"predicted D": D, "projected P": P}, example.gt, example.highlight, title=example.name
)

# %% [markdown]
# ## Where it fails, and why
# The training frame with the most highlight: here $P$ is nearly as wrong as $D$.

# %%
hard = d3d.figures.dataset.most_highlight_triple(cfg)
maps = {
    name: store.read_of(hard.scene, hard.row[0])
    for name, store in {"predicted D": predicted, "projected P": projected}.items()
}
d3d.figures.labels.against_truth(hard.target, maps, hard.gt, hard.highlight, title=hard.name)

# %% [markdown]
# The votes say why. Left: the ray of the frame above, where it works. Right: this one. The reflections are large, and
# they cover this place of the floor in most views: few grey lines go through zero at the true depth, most stay above
# it. The mean has its zero at the mirror image. No mean can repair a wrong majority.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True, layout="constrained")
for axis, shown in zip(axes, (example, hard), strict=True):
    draw(axis, shown, shown.name)
axes[0].set_ylabel("signed distance (m)")
plt.show()

# %% [markdown]
# Over all training rooms with true depth: $P$ is better on highlights, and worse on diffuse pixels. (Where the mesh
# has no surface, $D$ stands in for $P$.) So neither is the best label: [03_fuse](03_fuse.ipynb) takes the better one
# at each pixel.

# %%
d3d.analysis.labels.label_scores(cfg, labels="pred")

# %%
# NBVAL_CHECK_OUTPUT
assert P.shape == D.shape
assert P.min() >= 0 < P.max()
both = (P > 0) & (theirs > 0)
# stored in millimetres; pyrender may draw where open3d casts
np.testing.assert_allclose(np.median(np.abs(theirs[both] - P[both])), 0, atol=2e-3)
print("rendering the stored mesh gives the stored projected depth")

# %% [markdown]
# ## Summary
# - Each view votes for the place of the surface. The TSDF is the mean of the votes; the mesh is where it is zero.
# - The projected depth is the mesh seen from the frame's camera. It corrects reflections that move over the floor.
# - It blurs edges, and it fails where a reflection covers the same place in most views.
#
# ## Exercises
# 1. Set `tau=0.25` in `tsdf_on_ray`. The mean becomes a majority vote: is the zero nearer to the true depth?
# 2. Replace `np.nanmean` by `np.nanmedian`, or a lower quantile. What changes in the room where it fails? (`-p recipe
#    robust` does this: [robust](../docs/robust.md).)
# 3. Run the notebook with `-p integrate_every 2` (and `-p run dense`): more votes. Does it help where it fails?
#
# **Next:** [03_fuse](03_fuse.ipynb) decides, pixel by pixel, which of the two to believe.
#
# *Parameters.* Every name in `d3d.config.PARAMETERS` can be set (`-p voxel_m 0.04`); a wrong name or value is an
# error. The first output names the profile ([profiles](../docs/profiles.md)). "No module named ..." means that the
# notebook runs in another Python: select the one that d3d is installed in (Kernel > Change Kernel, `papermill -k`).
