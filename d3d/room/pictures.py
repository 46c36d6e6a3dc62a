"""The picture and the video of a room: image, depth before and after, and where the mesh replaced the prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from d3d import figures, fusion
from d3d.datasets.capture.scene import CaptureScene
from d3d.datasets.videos import Frame, video_writer
from d3d.figures import colours
from d3d.figures.beside import GAP, beside
from d3d.geometry import nearest_depth
from d3d.io import atomic
from d3d.pipeline import stages
from d3d.pipeline.graph import Key
from d3d.pipeline.scenes import dataset, training_scenes
from d3d.pipeline.settings import Config
from d3d.progress import track

ROWS = 5  # frames of the picture
FRAMES_A_SECOND = 10
PIXELS = 320 * 240  # of one picture of the video
TITLES = ("image", "depth before", "depth after", "depth from the mesh")


def write_picture(
    config: Config, key: Key, maps: Mapping[str, np.ndarray], shown: Sequence[int], path: Path
) -> None:
    """Draw some frames in rows: image, depth before and after, and the pixels whose label is the mesh's depth.

    Args:
        maps: depth (n, h, w) by "before" and "after".
        shown: indices of their frames in the capture.
    """
    training = training_scenes(config)[0]
    scene, triples = training.scene, training.triples.indices
    sources = stages.label_sources(config, key.arch, key.labels)
    strategy = fusion.find_strategy(key.labels)

    def replaced(triple: np.ndarray) -> np.ndarray:
        inputs = sources.inputs(scene, triple)
        return strategy.use_proj(inputs) & (inputs.proj > 0)

    place = {frame: k for k, frame in enumerate(shown)}
    whole = {frame: k for k, frame in enumerate(dataset(config).scenes("all")[0].frame_ids)}
    usable = [t for t in triples if whole[scene.frame_ids[t[0]]] in place]
    changed = [(replaced(t), t) for t in usable]
    rows = []
    for part in np.array_split(np.arange(len(changed)), min(ROWS, len(changed))):
        mask, triple = changed[max(part, key=lambda k: changed[k][0].mean())]
        at = place[whole[scene.frame_ids[triple[0]]]]
        image = scene.image(int(triple[0]), config.data.size_hw)
        arrays = (image, maps["before"][at], maps["after"][at], marked(image, mask))
        kinds = ("image", "depth", "depth", "image")
        rows.append([figures.Panel(*p) for p in zip(TITLES, arrays, kinds, strict=True)])
    figures.save_png(figures.grid(rows, width_in=12, unit=dataset(config).short_unit), path, 110)


def marked(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a pale image (h, w, 3) with the mask in colour."""
    pale = 128 + image.mean(axis=2, keepdims=True).repeat(3, axis=2) / 2
    pale[mask] = 0.35 * pale[mask] + 0.65 * np.array(colours.rgb(colours.VERMILLION))
    return pale.astype(np.uint8)


def write_video(
    config: Config, scene: CaptureScene, maps: Mapping[str, np.ndarray], shown: Sequence[int], path: Path
) -> None:
    """Write a video of the frames: image, depth before and depth after, with one range of colours.

    Args:
        maps, shown: as for `write_picture`.
    """
    h, w = config.data.size_hw
    enlarge = (PIXELS / (h * w)) ** 0.5
    size_hw = tuple(round(n * enlarge / 2) * 2 for n in (h, w))
    top, unit = colours.upper_limit(maps["after"][:: max(1, len(shown) // 40)]), dataset(config).short_unit
    with atomic(path) as temporary, video_writer(temporary) as add:
        for k, i in enumerate(track(shown, "video", unit="frame")):
            depths = [nearest_depth(maps[name][k], size_hw) for name in ("before", "after")]
            picture = beside(scene.image(i, size_hw), depths, top, unit)
            add(Frame(_titled(picture, size_hw[1]), k / FRAMES_A_SECOND))


def _titled(picture: np.ndarray, width: int) -> np.ndarray:
    """Add a line of titles above the parts of a picture."""
    font = ImageFont.load_default(16)
    whole = Image.new("RGB", (picture.shape[1], picture.shape[0] + 24), "white")
    whole.paste(Image.fromarray(picture), (0, 24))
    draw = ImageDraw.Draw(whole)
    for k, title in enumerate(TITLES[:3]):
        draw.text((k * (width + GAP) + width / 2, 12), title, fill="black", font=font, anchor="mm")
    return np.array(whole)
