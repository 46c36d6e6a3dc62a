"""The stages of the paper over a run's folder, in order; each computes what an earlier one should have left.

frames -> triples -> pretrain -> predict -> project -> uncertainty -> fuse -> distill -> evaluate. A
stage that is done is skipped; one that was killed goes on where it was. Every function takes the
configuration and returns the finished stage's folder (or what it read from it).
"""

from d3d.pipeline.scenes import dataset, evaluated_dataset, training_scenes
from d3d.pipeline.stages.chain import folder_of
from d3d.pipeline.stages.depth import mesh_of, predict, project, read_mesh
from d3d.pipeline.stages.labels import fuse, label_inputs, threshold, uncertainty
from d3d.pipeline.stages.networks import distill, load_network, loss_history, pretrain
from d3d.pipeline.stages.scores import evaluate, evaluated, results, run_all, tables

__all__ = [
    "dataset",
    "distill",
    "evaluate",
    "evaluated",
    "evaluated_dataset",
    "folder_of",
    "fuse",
    "label_inputs",
    "load_network",
    "loss_history",
    "mesh_of",
    "predict",
    "pretrain",
    "project",
    "read_mesh",
    "results",
    "run_all",
    "tables",
    "threshold",
    "training_scenes",
    "uncertainty",
]
