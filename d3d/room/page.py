"""The page of a room."""

from __future__ import annotations

from pathlib import Path

from d3d.datasets.capture.scene import CaptureScene
from d3d.io import atomic
from d3d.pipeline.graph import Key
from d3d.pipeline.settings import Config


def write_page(config: Config, key: Key, scene: CaptureScene, folder: Path) -> None:
    with atomic(folder / "index.html") as temporary:
        temporary.write_text(
            f"<!doctype html><title>{scene.name}</title><img src=picture.png><video src=video.mp4 controls></video>"
        )
