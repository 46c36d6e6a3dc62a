"""Apply a trained network to image and video files."""

from d3d.apply.files import predict_files
from d3d.apply.results import FOR_IMAGES, FOR_VIDEOS, OUTPUTS

__all__ = ["FOR_IMAGES", "FOR_VIDEOS", "OUTPUTS", "predict_files"]
