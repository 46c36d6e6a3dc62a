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
# **Paper** section 3.2.4, Eq. 4. **In:** labels (computed now if not there, with all that they need).
# **Out:** the weights of a fresh network of the same architecture, `runs/<run>/distill/<arch>/<labels>`.
# **Time** at profile smoke: 12 s on one busy CPU core after 03, 33 s with nothing computed before;
# on one GPU not measured.
#
# `papermill 04_distill.ipynb out.ipynb -p arch hrdepth`
#
# Every other parameter of `d3d.config.PARAMETERS` can be set in the same way (`-p epochs 40`); an unknown
# name or value is an error that names the near misses. The first printed line says with which profile the
# outputs below were made; `-p profile demo` learns something (half an hour for the whole chain on
# two quiet CPU cores: [profiles](../docs/profiles.md)).

# %% tags=["parameters"]
profile: str = "smoke"  # smoke (nothing is learned), demo (half an hour), laptop (an evening), paper (a GPU)
arch: str = "monodepth2"  # network: monodepth2, hrdepth, monovit or lite
recipe: str = None  # paper (Eq. 3) or robust (recommended, docs/robust.md); sets the labels
labels: str = None  # label strategy of Table 6: uncer, pred, proj, diff, mv; None: that of the recipe
dataset: str = None  # glossyrooms or 7scenes; None: as the profile has it
root: str = None  # folder of the data set; None: the one that ships
seed: int = 0  # of initialisation, order and augmentation
run: str = None  # name of the folder under runs/; None: dataset-profile-seed
threshold_m: float = None  # alpha_uncer of Eq. 3, metres; None: as the profile has it

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
# ## Training
# The student has "the same network architecture as the self-supervised model, and is trained from scratch
# on the pseudo-labels":
#
# $$\mathcal{L}_\mathrm{depth} = |\log F_t - \log L_t|$$
#
# One image and its label are enough for a step: no sources, no poses, no warp. What an earlier stage should
# have left and did not is computed first, and the lines below say so.

# %%
d3d.stages.distill(cfg)
histories = {
    f"teacher, photometric loss, {cfg.arch}": d3d.stages.loss_history(cfg),
    f"student, Eq. 4, labels {cfg.labels}": d3d.stages.loss_history(cfg, labels=cfg.labels),
}
d3d.figures.loss_curves(histories)

# %% [markdown]
# ## Teacher, label and student on a training frame
# The student sees many labels of the same floor. Where a label is wrong in one view and right in most, it
# learns the rule and not the exception.

# %%
example = d3d.figures.dataset.example_triple(cfg)
frame = example.scene.frame_ids[example.row[0]]
teacher = d3d.stages.load_network(cfg, cfg.arch)
student = d3d.stages.load_network(cfg, cfg.arch, cfg.labels)
maps = {
    "teacher": d3d.predict(teacher, example.target),
    f"label ({cfg.labels})": d3d.stages.fuse(cfg).read(example.scene.name, frame),
    "student": d3d.predict(student, example.target),
}
d3d.figures.labels.against_truth(example.target, maps, example.gt, example.highlight, title=example.name)

# %% [markdown]
# "Our 3D distillation framework only modifies the training stage, without introducing additional
# computational cost or model parameters during inference":

# %%
# NBVAL_CHECK_OUTPUT
shapes = [{name: p.shape for name, p in network.named_parameters()} for network in (teacher, student)]
assert shapes[0] == shapes[1]
print("teacher and student have the same parameters")

# %% [markdown]
# Next: [05_evaluate](05_evaluate.ipynb) scores them on rooms that neither has seen.
