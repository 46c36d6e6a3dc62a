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
# **Paper** sections 3.2.1 and 3.2.2. **In:** a pretrained network (trained now if it is not there).
# **Out:** predicted depth $D_t$, one mesh a scene, projected depth $P_t$: `runs/<run>/predict` and
# `/project`. **Time** at profile smoke: 13 s on one busy CPU core after 01; on one GPU not measured.
#
# `papermill 02_project.ipynb out.ipynb -p arch hrdepth -p trunc_m 0.25`
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
import numpy as np

cfg = d3d.config.resolve(globals())
print(d3d.config.describe(cfg))

# %% [markdown]
# ## Fusing the predicted depth into a mesh
# A highlight is view-dependent: it covers another part of the floor in each view. "Reflective surfaces can
# be accurately reconstructed by aggregating the predicted depth of these views." TSDF fusion averages the
# depth of every 10th frame (voxel 0.05 m, truncation 1.0 m at profile paper), and a mesh is extracted.

# %%
projected = d3d.stages.project(cfg)
predicted = d3d.stages.predict(cfg)
example = d3d.figures.dataset.example_triple(cfg)
views = d3d.notebook.mesh.views(cfg, example.scene, example.row[0])
d3d.figures.contact_sheet(list(views.values()), list(views), columns=3, title=example.scene.name)

# %% [markdown]
# ## Predicted and projected depth
# The mesh's depth seen from the frame's own camera is the projected depth $P_t$. It is smoother than $D_t$:
# "the projected depth is lacking high-frequency details due to volumetric averaging over multiple views".
# White: no surface is hit.

# %%
frame = example.scene.frame_ids[example.row[0]]
D, P = predicted.read(example.scene.name, frame), projected.read(example.scene.name, frame)
maps = {"predicted D": D, "projected P": P}
d3d.figures.labels.against_truth(example.target, maps, example.gt, example.highlight, title=example.name)

# %% [markdown]
# The errors of both over the training frames, all pixels first. Where no surface is hit $D$ stands in for
# $P$. The highlight and diffuse rows are there only where the data set has a mask.

# %%
d3d.analysis.labels.label_scores(cfg, labels="pred")

# %%
# NBVAL_CHECK_OUTPUT
mesh = d3d.stages.read_mesh(cfg, cfg.arch, example.scene)
again = d3d.reconstruction.render_depth(
    mesh, example.K, example.scene.world_T_cams[example.row[:1]], P.shape
)[0]
assert P.shape == D.shape
assert P.min() >= 0 < P.max()
both = (P > 0) & (again > 0)
assert (
    np.median(np.abs(again[both] - P[both])) < 2e-3
)  # stored in millimetres; pyrender may draw where open3d casts
print("rendering the stored mesh gives the stored projected depth")

# %% [markdown]
# Next: [03_fuse](03_fuse.ipynb) decides, pixel by pixel, which of the two to believe.
