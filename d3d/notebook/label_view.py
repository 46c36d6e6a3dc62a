"""The live viewer's frames, picture and numbers: pure functions, which `d3d.notebook.widgets` puts controls around.

The picture is composed of coloured arrays, not drawn as a matplotlib Figure: it is redrawn while a slider moves.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from d3d import evaluation, figures, fusion
from d3d.errors import unknown
from d3d.geometry import nearest_depth
from d3d.metrics import depth_metrics
from d3d.pipeline import runs, stages
from d3d.pipeline.config import ENSEMBLE, Config
from d3d.prediction import DepthStore

# Okabe and Ito's orange and sky blue: told apart by the colour-blind, and both from grey
PROJECTED, NO_SURFACE = (230, 159, 0), (86, 180, 233)

# Pixels of the composed picture
_CELL_W, _GAP, _TITLE_H, _LEGEND_H, _FONT = 300, 10, 24, 48, 14
_INK = (32, 32, 32)


@dataclass(frozen=True)
class View:
    """What is looked at: the viewer's state."""

    scene: str
    frame: str
    arch: str
    labels: str
    threshold_m: float


@dataclass(frozen=True)
class Shown:
    """One target frame of a run as the viewer shows it; maps (h, w) at the network's size, metres.

    Attributes:
        inputs: predicted depth D, projected depth P and what else the label rule looks at.
        uncertainty: U of the label rule, or the ensemble's where the rule looks at none.
        truth: 0 where there is none; None where the data set has none.
        highlight: bool, or None where nobody knows.
        sq_rel: kind of pixels ("all", "highlight", "diffuse") -> Sq Rel (metres) of "D" and "P", which no
            threshold changes; empty without truth.
    """

    image: np.ndarray
    inputs: fusion.LabelInputs
    uncertainty: np.ndarray
    truth: np.ndarray | None
    highlight: np.ndarray | None
    sq_rel: Mapping[str, Mapping[str, float]]


class Frames:
    """A run's target frames, each read when it is asked for; what an earlier stage should have left is computed."""

    def __init__(self, config: Config):
        self.config = config
        for arch in ENSEMBLE:
            stages.project(config, arch)
        own = fusion.find_strategy(config.labels).uncertainty
        for uncertainty in dict.fromkeys(("ensemble", own)):
            for arch in ENSEMBLE if uncertainty != "ensemble" else ("",):
                stages.uncertainty(config, uncertainty, arch)
        self._scenes = {s.scene.name: s.scene for s in stages.training_scenes(config)}
        self._rows = {
            s.scene.name: {s.scene.frame_ids[row[0]]: row for row in s.triples.indices}
            for s in stages.training_scenes(config)
        }
        # a moving slider asks for the same frame again and again
        self.read = functools.lru_cache(maxsize=8)(self._read)
        self.truth = functools.lru_cache(maxsize=8)(self._truth)

    @property
    def scenes(self) -> list[str]:
        """Names of the scenes that have target frames."""
        return list(self._rows)

    def of(self, scene: str) -> list[str]:
        """Ids of a scene's target frames."""
        if scene not in self._rows:
            raise unknown("training scene", scene, self._rows)
        return list(self._rows[scene])

    @property
    def labels(self) -> list[str]:
        """The label rules whose uncertainty is there, the run's own first."""
        return list(dict.fromkeys((self.config.labels, *fusion.STRATEGIES)))

    def has_truth(self, scene: str) -> bool:
        """Whether the data set has true depth of a scene."""
        return self._scenes[scene].has_depth

    def _row(self, scene: str, frame: str) -> np.ndarray:
        if frame not in self.of(scene):
            raise unknown(f"target frame of {scene}", frame, self.of(scene))
        return self._rows[scene][frame]

    def _read(self, scene: str, frame: str, arch: str, labels: str) -> Shown:
        """A frame, as one network and one label rule see it."""
        config, size_hw = self.config, self.config.data.size_hw
        row, opened = self._row(scene, frame), self._scenes[scene]
        inputs = stages.label_inputs(config, arch, opened, row, labels)
        uncertainty = inputs.uncertainty
        if uncertainty is None:
            folder = runs.stage_folder(config, "uncertainty", labels="ensemble")
            uncertainty = DepthStore(folder).read(scene, frame)
        depth = {"D": inputs.pred, "P": np.where(inputs.proj > 0, inputs.proj, inputs.pred)}
        scores = {name: self.sq_rel(scene, frame, d) for name, d in depth.items()}
        return Shown(
            opened.image(int(row[0]), size_hw),
            inputs,
            uncertainty,
            nearest_depth(self.truth(scene, frame)[0], size_hw),
            opened.highlight_mask(int(row[0]), size_hw),
            {kind: {name: s[kind] for name, s in scores.items()} for kind in scores["D"]},
        )

    def _truth(self, scene: str, frame: str) -> tuple[np.ndarray | None, dict[str, np.ndarray | None]]:
        """True depth at its own size, and which of its pixels are scored together."""
        opened, index = self._scenes[scene], int(self._row(scene, frame)[0])
        gt, highlight = opened.depth(index), opened.highlight_mask(index)
        if gt is None:
            return None, {}
        masks = {"all": None}
        if highlight is not None:
            masks |= {"highlight": highlight, "diffuse": ~highlight}
        return gt, {k: m for k, m in masks.items() if (gt > 0 if m is None else m & (gt > 0)).any()}

    def sq_rel(self, scene: str, frame: str, depth: np.ndarray) -> dict[str, float]:
        """Sq Rel (metres) of a depth map by kind of pixels, as an evaluation counts it; empty without truth."""
        (gt, masks), c = self.truth(scene, frame), self.config
        return {
            kind: depth_metrics(depth, gt, m, c.evaluation.scale, c.data.min_depth, c.data.max_depth)[
                "sq_rel"
            ]
            for kind, m in masks.items()
        }


def choice(shown: Shown, labels: str, threshold_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 3, or another rule, at a threshold.

    Returns:
        where the rule wants the projected depth, bool (h, w); and the label (h, w), metres, which
        is the predicted depth also where the rule wants the projected one and the mesh was not hit.
    """
    inputs = replace(shown.inputs, threshold_m=threshold_m)
    wanted = fusion.find_strategy(labels).use_proj(inputs)
    return wanted, fusion.choose(inputs.pred, inputs.proj, wanted)


def uses_threshold(labels: str) -> bool:
    """Whether a threshold changes these labels."""
    return "uncertainty" in fusion.find_strategy(labels).needs


def picture(shown: Shown, view: View, limit_m: float) -> Image.Image:
    """Image, D, P, truth; U, what takes P, label L, its error: one picture with its legends.

    Args:
        limit_m: upper end of the colours of uncertainty; the threshold is marked on its bar.
    """
    wanted, label = choice(shown, view.labels, view.threshold_m)
    pred, proj, truth = shown.inputs.pred, shown.inputs.proj, shown.truth
    depths = [d[d > 0] for d in (pred, proj, truth) if d is not None]
    far = max(float(np.percentile(d, 98)) for d in depths if d.size)
    error = None if truth is None else np.where(truth > 0, label - truth, np.nan)
    signed = figures.SIGNED_LIMIT_M
    taken = f"takes P: {(wanted & (proj > 0)).mean():.1%} of the pixels"
    cells = [
        ("image" if shown.highlight is None else "image (line: highlight)", shown.image),
        ("predicted depth D", coloured(pred, "depth", far)),
        ("projected depth P", coloured(proj, "depth", far)),
        ("true depth", None if truth is None else coloured(truth, "depth", far)),
        ("uncertainty U", coloured(shown.uncertainty, "uncertainty", limit_m)),
        (taken, _mask_picture(shown.image, wanted, proj > 0)),
        ("label L", coloured(label, "depth", far)),
        ("L − truth", None if error is None else coloured(error, "signed", signed)),
    ]
    h, w = pred.shape
    cell_h = round(_CELL_W * h / w)
    columns, rows = 4, 2
    size = columns * (_CELL_W + _GAP) - _GAP, rows * (_TITLE_H + cell_h) + _LEGEND_H
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), _font(_FONT)
    for k, (title, array) in enumerate(cells):
        x, y = k % columns * (_CELL_W + _GAP), k // columns * (_TITLE_H + cell_h)
        draw.text((x, y + _TITLE_H - 5), title, _INK, font, anchor="ls")
        if array is None:
            draw.text((x, y + _TITLE_H + _FONT), "the data set has none here", _INK, font, anchor="ls")
            continue
        # true pixels, so that what a threshold switches is seen; the photograph is smoothed
        how = Image.Resampling.BILINEAR if k == 0 else Image.Resampling.NEAREST
        cell = np.asarray(Image.fromarray(array).resize((_CELL_W, cell_h), how))
        if shown.highlight is not None and title in ("image (line: highlight)", "L − truth"):
            cell = _outlined(cell, shown.highlight)
        page.paste(Image.fromarray(cell), (x, y + _TITLE_H))
    y = rows * (_TITLE_H + cell_h) + 6
    mark = view.threshold_m if uses_threshold(view.labels) else None
    _bar(page, 0, y, "uncertainty", limit_m, mark)
    _swatches(page, _CELL_W + _GAP, y, {"P": PROJECTED, "D, no surface to project": NO_SURFACE})
    _bar(page, 2 * (_CELL_W + _GAP), y, "depth", far)
    if error is not None:
        _bar(page, 3 * (_CELL_W + _GAP), y, "signed", signed)
    return page


def png(page: Image.Image) -> bytes:
    """The bytes of a PNG, quickly rather than as few as can be: they go from the kernel to the browser."""
    buffer = io.BytesIO()
    page.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def coloured(array: np.ndarray, kind: str, limit: float) -> np.ndarray:
    """A map (h, w) in the colours of the figures, uint8 (h, w, 3); white where it is not finite, or depth is 0."""
    low = -limit if kind == "signed" else 0.0
    with np.errstate(invalid="ignore"):
        index = np.nan_to_num((array - low) * (255.999 / (limit - low))).clip(0, 255).astype(np.uint8)
    result = _table(kind)[index]
    result[~np.isfinite(array) | ((array <= 0) & (kind == "depth"))] = 255
    return result


@functools.cache
def _table(kind: str) -> np.ndarray:
    """The 256 colours of a kind, uint8 (256, 3)."""
    from matplotlib import colormaps

    return (colormaps[figures.COLOURS[kind]](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def _mask_picture(image: np.ndarray, wanted: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """The image in grey, coloured where the projected depth is taken, and where it is wanted but there is none."""
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None] / 255
    result = np.repeat(0.35 + 0.55 * grey, 3, axis=2)
    for where, colour in ((wanted & hit, PROJECTED), (wanted & ~hit, NO_SURFACE)):
        result[where] = (np.array(colour) / 255 * (0.55 + 0.45 * grey))[where]
    return (result * 255).round().astype(np.uint8)


def _outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture with a line around the set pixels of a mask of any size: white in black, seen on any colour."""
    h, w = picture.shape[:2]
    area = Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST)
    rings = [area.convert("L")]
    for _ in range(3):
        rings.append(rings[-1].filter(ImageFilter.MaxFilter(3)))
    inside, one, two, three = (np.asarray(r) > 0 for r in rings)
    result = picture.copy()
    result[three & ~inside] = 0
    result[two & ~one] = 255
    return result


def _bar(page: Image.Image, x: int, y: int, kind: str, limit: float, mark: float | None = None) -> None:
    """A colour bar with its ends, name and unit; ``mark`` is pointed at from above."""
    low = -limit if kind == "signed" else 0.0
    draw, font = ImageDraw.Draw(page), _font(_FONT)
    ends = f"{low:g}", f"{limit:.2g} {figures.UNITS[kind]}"
    left = x + round(font.getlength(ends[0])) + 5
    right = x + _CELL_W - round(font.getlength(ends[1])) - 5
    ramp = Image.fromarray(_table(kind)[None]).resize((right - left, 12), Image.Resampling.BILINEAR)
    page.paste(ramp, (left, y + 4))
    draw.rectangle((left, y + 4, right - 1, y + 15), outline=(120, 120, 120))
    draw.text((x, y + 16), ends[0], _INK, font, anchor="ls")
    draw.text((x + _CELL_W, y + 16), ends[1], _INK, font, anchor="rs")
    name = figures.NAMES[kind]
    if mark is not None:
        name = f"{name}; threshold {mark:.3g} {figures.UNITS[kind]}"
        at = left + min(1.0, mark / limit) * (right - left - 1)
        draw.polygon([(at - 6, y - 4), (at + 6, y - 4), (at, y + 4)], _INK)
        draw.line((at, y + 4, at, y + 15), "white", 3)
        draw.line((at, y + 4, at, y + 15), _INK, 1)
    draw.text((x + _CELL_W / 2, y + 34), name, _INK, font, anchor="ms")


def _swatches(page: Image.Image, x: int, y: int, named: Mapping[str, tuple[int, int, int]]) -> None:
    draw, font = ImageDraw.Draw(page), _font(_FONT)
    for name, colour in named.items():
        draw.rectangle((x, y + 4, x + 14, y + 16), colour, (120, 120, 120))
        draw.text((x + 20, y + 16), name, _INK, font, anchor="ls")
        x += 20 + round(font.getlength(name)) + 18


def numbers(frames: Frames, view: View) -> tuple[float, pd.DataFrame]:
    """What a picture does not say.

    Returns:
        the share of pixels that take P; Sq Rel (metres) of D, P and L by kind of pixels, without rows where there
        is no truth.
    """
    shown = frames.read(view.scene, view.frame, view.arch, view.labels)
    wanted, label = choice(shown, view.labels, view.threshold_m)
    of_label = frames.sq_rel(view.scene, view.frame, label)
    rows = {kind: {**both, "L": of_label[kind]} for kind, both in shown.sq_rel.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["D", "P", "L"])
    return float((wanted & (shown.inputs.proj > 0)).mean()), table


def sentence(view: View, share: float) -> str:
    """What is shown, in words: also the picture's text for those who cannot see it."""
    rule = f"labels {view.labels}" + (
        f", threshold {view.threshold_m:.3f} m" if uses_threshold(view.labels) else ""
    )
    return (
        f"{view.scene}, frame {view.frame}, {evaluation.arch_name(view.arch)}; {rule}: {share:.1%} of the pixels "
        "take the projected depth"
    )
