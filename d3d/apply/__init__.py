"""A trained network on a user's own files: which images and videos, with which camera, and what is written."""

from d3d.apply.files import predict_files
from d3d.apply.results import FOR_IMAGES, FOR_VIDEOS, OUTPUTS

__all__ = ["FOR_IMAGES", "FOR_VIDEOS", "OUTPUTS", "predict_files"]
