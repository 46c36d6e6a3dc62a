"""Frames, picture and numbers of the label viewer, as pure functions. `d3d.notebook.viewer` adds the controls.

The picture is composed of coloured arrays, because matplotlib is too slow while a slider moves.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from d3d import evaluation, fusion
from d3d.analysis.labels import sq_rel_by_pixels
from d3d.errors import rounded, unknown
from d3d.figures import colours
from d3d.figures.frames import filled, frame_of
from d3d.figures.panels import signed_error
from d3d.pipeline import stages
from d3d.pipeline.config import Config

PROJECTED, NO_SURFACE = colours.rgb(colours.ORANGE), colours.rgb(colours.SKY_BLUE)

# Pixels of the composed picture
_CELL_W, _GAP, _TITLE_H, _LEGEND_H, _FONT = 300, 10, 24, 48, 14
_INK = (32, 32, 32)


@dataclass(frozen=True)
class View:
    """The state of the viewer: the values of its controls."""

    scene: str
    frame: str
    arch: str
    labels: str
    threshold_m: float


@dataclass(frozen=True)
class ShownFrame:
    """A target frame in the viewer; maps (h, w) at the network's size, metres."""

    image: np.ndarray
    inputs: fusion.LabelInputs  # predicted depth D, projected depth P and the other inputs of the label rule
    uncertainty: np.ndarray  # uncertainty of the label rule; the ensemble's for a rule without uncertainty
    truth: np.ndarray | None  # 0 where unknown
    highlight: np.ndarray | None
    score: Callable[[np.ndarray], Mapping[str, float]]  # Sq Rel (m) by kind of pixel; empty without truth
    sq_rel: Mapping[str, Mapping[str, float]]  # the scores of "D" and "P"


class TargetFrames:
    """The target frames of a run, read on demand. Missing results of earlier stages are computed first."""

    def __init__(self, config: Config):
        self.config = config
        # the viewer sets its own threshold
        self._sources = functools.cache(functools.partial(stages.label_sources, config, threshold_m=0.0))
        for arch in config.networks:
            self._sources(arch, config.labels)
        self._ensemble = stages.uncertainty(config)
        found = stages.training_scenes(config)
        self._scenes = {s.scene.name: s.scene for s in found}
        self._rows = {
            s.scene.name: {s.scene.frame_ids[row[0]]: row for row in s.triples.indices} for s in found
        }
        # cached: a moving slider reads the same frame repeatedly
        self.read = functools.lru_cache(maxsize=8)(self._read)

    @property
    def scenes(self) -> list[str]:
        """Names of the scenes that have target frames."""
        return list(self._rows)

    def ids(self, scene: str) -> list[str]:
        """Return the ids of a scene's target frames; a `ConfigError` for an unknown scene."""
        if scene not in self._rows:
            raise unknown("training scene", scene, self._rows)
        return list(self._rows[scene])

    @property
    def labels(self) -> list[str]:
        """The selectable label rules: the run's own first, then all rules without their own mesh."""
        others = [name for name, strategy in fusion.STRATEGIES.items() if not strategy.mesh]
        return list(dict.fromkeys((self.config.labels, *others)))

    def has_truth(self, scene: str) -> bool:
        """Whether a scene has ground-truth depth."""
        return self._scenes[scene].has_depth

    def _read(self, scene: str, frame: str, arch: str, labels: str) -> ShownFrame:
        """Read a frame for one network and one label rule."""
        if frame not in self.ids(scene):
            raise unknown(f"target frame of {scene}", frame, self.ids(scene))
        row, opened = self._rows[scene][frame], self._scenes[scene]
        i = int(row[0])
        inputs = self._sources(arch, labels).inputs(opened, row)
        std = self._ensemble.read_of(opened, i) if inputs.uncertainty is None else inputs.uncertainty
        truth = {"gt": opened.depth(i), "highlight": opened.highlight_mask(i)}
        score = functools.partial(sq_rel_by_pixels, self.config, **truth)
        sq_rel = {"D": score(inputs.pred), "P": score(filled(inputs.pred, inputs.proj))}
        shown = frame_of(self.config, opened, i, {})
        return ShownFrame(shown.image, inputs, std, shown.gt, shown.highlight, score, sq_rel)


def apply_rule(shown: ShownFrame, labels: str, threshold_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Apply Eq. 3, or another label rule, at a threshold.

    Returns:
        The pixels for which the rule selects the projected depth, bool (h, w); and the label (h, w), metres. The label
        is the predicted depth where the mesh has no surface.
    """
    inputs = replace(shown.inputs, threshold_m=threshold_m)
    strategy = fusion.find_strategy(labels)
    wanted = strategy.use_proj(inputs)
    return wanted, fusion.choose(inputs.pred, strategy.other(inputs), wanted)


def uses_threshold(labels: str) -> bool:
    """Whether the labels depend on a threshold."""
    return "uncertainty" in fusion.find_strategy(labels).needs


def picture(shown: ShownFrame, view: View, limit_m: float) -> Image.Image:
    """Draw one picture with legends: image, D, P, ground truth; U, the pixels with P, label L, its error.

    Args:
        limit_m: upper end of the colour scale of uncertainty.
    """
    wanted, label = apply_rule(shown, view.labels, view.threshold_m)
    pred, proj, truth = shown.inputs.pred, shown.inputs.proj, shown.truth
    error = None if truth is None else signed_error(label, truth)
    tops = {"depth": colours.upper_limit((pred, proj, truth)), "uncertainty": limit_m}
    # of D, not of L: the colours do not change while the threshold moves
    tops["signed"] = colours.upper_limit([None if truth is None else signed_error(pred, truth)], "signed")
    cells = [
        ("image" if shown.highlight is None else "image (line: highlight)", "", shown.image),
        ("predicted depth D", "depth", pred),
        ("projected depth P", "depth", proj),
        ("true depth", "depth", truth),
        ("uncertainty U", "uncertainty", shown.uncertainty),
        (
            f"takes P: {_share(shown, wanted):.1%} of the pixels",
            "",
            _mask_picture(shown.image, wanted, proj > 0),
        ),
        ("label L", "depth", label),
        ("L − truth", "signed", error),
    ]
    columns, step, cell_h = 4, _CELL_W + _GAP, round(_CELL_W * pred.shape[0] / pred.shape[1])
    below = len(cells) // columns * (_TITLE_H + cell_h)
    page = Image.new("RGB", (columns * step - _GAP, below + _LEGEND_H), "white")
    draw, font = ImageDraw.Draw(page), _font()
    for k, (title, kind, array) in enumerate(cells):
        x, y = k % columns * step, k // columns * (_TITLE_H + cell_h)
        draw.text((x, y + _TITLE_H - 5), title, _INK, font, anchor="ls")
        if array is None:
            draw.text((x, y + _TITLE_H + _FONT), "the data set has none here", _INK, font, anchor="ls")
            continue
        # maps show single pixels; only the photograph is smoothed
        how = Image.Resampling.BILINEAR if k == 0 else Image.Resampling.NEAREST
        coloured = colours.coloured(array, kind, tops[kind]) if kind else array
        cell = np.asarray(Image.fromarray(coloured).resize((_CELL_W, cell_h), how))
        if shown.highlight is not None and (k == 0 or kind == "signed"):
            cell = _outlined(cell, shown.highlight)
        page.paste(Image.fromarray(cell), (x, y + _TITLE_H))
    mark = view.threshold_m if uses_threshold(view.labels) else None
    _bar(page, 0, below + 6, "uncertainty", limit_m, mark)
    _swatches(page, step, below + 6, {"P": PROJECTED, "D, no surface to project": NO_SURFACE})
    _bar(page, 2 * step, below + 6, "depth", tops["depth"])
    if error is not None:
        _bar(page, 3 * step, below + 6, "signed", tops["signed"])
    return page


def _share(shown: ShownFrame, wanted: np.ndarray) -> float:
    """The share of pixels with P: selected by the rule, with a surface of the mesh."""
    return float((wanted & (shown.inputs.proj > 0)).mean())


def png(page: Image.Image) -> bytes:
    """Encode a picture as PNG with fast compression."""
    buffer = io.BytesIO()
    page.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), _FONT)


def _mask_picture(image: np.ndarray, wanted: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """The image in grey; one colour marks pixels with P, another selected pixels without a surface."""
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None] / 255
    result = np.repeat(0.35 + 0.55 * grey, 3, axis=2)
    for where, colour in ((wanted & hit, PROJECTED), (wanted & ~hit, NO_SURFACE)):
        result[where] = (np.array(colour) / 255 * (0.55 + 0.45 * grey))[where]
    return (result * 255).round().astype(np.uint8)


def _outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture with a white line, with black edges, around the pixels of a mask; the mask may have any size."""
    h, w = picture.shape[:2]
    area = Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST)
    grown = (area.convert("L").filter(ImageFilter.MaxFilter(size)) for size in (1, 3, 5, 7))
    inside, one, two, three = (np.asarray(ring) > 0 for ring in grown)
    result = picture.copy()
    result[three & ~inside] = 0
    result[two & ~one] = 255
    return result


def _bar(page: Image.Image, x: int, y: int, kind: str, limit: float, mark: float | None = None) -> None:
    """A colour bar with its ends, name and unit; a triangle above it points at ``mark``."""
    draw, font, name = ImageDraw.Draw(page), _font(), colours.NAMES[kind]
    ends = rounded(colours.limits(kind, limit)[0], 2), f"{rounded(limit, 2)} {colours.UNITS[kind]}"
    left = x + round(font.getlength(ends[0])) + 5
    right = x + _CELL_W - round(font.getlength(ends[1])) - 5
    ramp = Image.fromarray(colours.table(kind)[None]).resize((right - left, 12), Image.Resampling.BILINEAR)
    page.paste(ramp, (left, y + 4))
    draw.rectangle((left, y + 4, right - 1, y + 15), outline=(120, 120, 120))
    draw.text((x, y + 16), ends[0], _INK, font, anchor="ls")
    draw.text((x + _CELL_W, y + 16), ends[1], _INK, font, anchor="rs")
    if mark is not None:
        name = f"{name}; threshold {rounded(mark)} {colours.UNITS[kind]}"
        at = left + min(1.0, mark / limit) * (right - left - 1)
        draw.polygon([(at - 6, y - 4), (at + 6, y - 4), (at, y + 4)], _INK)
        draw.line((at, y + 4, at, y + 15), "white", 3)
        draw.line((at, y + 4, at, y + 15), _INK, 1)
    draw.text((x + _CELL_W / 2, y + 34), name, _INK, font, anchor="ms")


def _swatches(page: Image.Image, x: int, y: int, named: Mapping[str, tuple[int, int, int]]) -> None:
    draw, font = ImageDraw.Draw(page), _font()
    for name, colour in named.items():
        draw.rectangle((x, y + 4, x + 14, y + 16), colour, (120, 120, 120))
        draw.text((x + 20, y + 16), name, _INK, font, anchor="ls")
        x += 20 + round(font.getlength(name)) + 18


def numbers(shown: ShownFrame, view: View) -> tuple[float, pd.DataFrame]:
    """Return the share of pixels with P, and Sq Rel (metres) of D, P and L by kind of pixel (empty without truth)."""
    wanted, label = apply_rule(shown, view.labels, view.threshold_m)
    return _share(shown, wanted), pd.DataFrame({**shown.sq_rel, "L": shown.score(label)})


def sentence(view: View, share: float) -> str:
    """Describe the view in a sentence, the alternative text of the picture."""
    threshold = f", threshold {view.threshold_m:.3f} m" if uses_threshold(view.labels) else ""
    rule = f"{evaluation.arch_name(view.arch)}; labels {view.labels}{threshold}"
    return f"{view.scene}, frame {view.frame}, {rule}: {share:.1%} of the pixels take the projected depth"
