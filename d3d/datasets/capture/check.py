"""Check by pixels whether the poses of a capture explain its images, and find a reading that explains them better.

Measured on 12 rendered rooms (E34): the median error is .025 to .06 under the right reading, and .08 to .28 under
inverted poses and other axes: at least 2.3 times as much in each room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from d3d.datasets.capture.description import Axes, Convention, Poses
from d3d.datasets.capture.scene import CaptureScene
from d3d.datasets.capture.sweep import Pair, Swept, choose_pairs, difference, sweep
from d3d.datasets.scene import Scene
from d3d.errors import DataError, counted, rounded
from d3d.geometry import nearest_depth, scale_intrinsics

GOOD, BAD = 0.06, 0.10  # median errors: poses explain the images below GOOD, and do not above BAD
_CLEARLY = 0.8  # another reading is clearly better if its error is below this share of the current error
# The same for a focal length that may be better. Measured on 14 scenes (E34): the right focal length leaves at most .90
# of the error of one that is wrong by a factor of 1.5, and a wrong one at least 1.09 of the error of the right one.
_SLIGHTLY = 0.95
_STILL = 0.01  # error between images of a camera that does not move
_BLURRED = 0.004  # mean difference of neighbouring pixels in images without any edge
_FACTORS = (0.667, 1.5)  # of a wrong focal length, and of intrinsics that belong to images of another size
_DEPTHS_M = (0.1, 50.0)  # median depth of a room, generously
_RATIO = 1.4  # largest accepted ratio of depth maps to swept depth, and its inverse the smallest
CURRENT = "as given"
_EXIF = "the other orientation of EXIF"


@dataclass(frozen=True)
class Report:
    """The result of the check.

    Attributes:
        errors: median photometric error by reading; `CURRENT` is the one in use.
        depth: median depth by plane sweep under the reading in use.
        depth_ratio: depth maps divided by swept depth, the median over pixels; None without depth maps.
        problem: the error found, and the option that mends it; "" if the poses explain the images.
        doubt: a possible error; "" without a doubt.
        pairs, swept: the compared frames, and their sweeps under the reading in use.
    """

    errors: dict[str, float]
    depth: float
    depth_ratio: float | None
    problem: str
    doubt: str
    pairs: list[Pair]
    swept: list[Swept]

    @property
    def lines(self) -> list[str]:
        """The report as text."""
        width = max(map(len, self.errors))
        listed = [f"  {name:{width}}  {error:.3f}" for name, error in self.errors.items()]
        head = f"photometric error of {len(self.pairs)} pairs of neighbours (right poses: below {GOOD:g})"
        verdict = self.problem or self.doubt or "The poses explain the images."
        return [head, *listed, f"median depth by the poses: {rounded(self.depth)}", verdict]


def check_capture(scene: CaptureScene) -> Report:
    """Check the poses of a capture against its images.

    Raises:
        DataError: too few frames, or images without any edge.
    """
    alternatives = {}
    for poses, axes in product(Poses.__args__, Axes.__args__):
        other = Convention(poses, axes)
        if other != scene.convention:
            options = [f"--axes {axes}"] * (axes != scene.convention.axes)
            options += [f"--poses {poses}"] * (poses != scene.convention.poses)
            alternatives[" ".join(options)] = scene.poses_in(other)
    turned = scene.poses_in(scene.convention, other_exif=True)
    if not np.array_equal(turned, scene.world_T_cams):
        alternatives[_EXIF] = turned
    return check_poses(scene, alternatives, not scene.relative)


def check_poses(scene: Scene, alternatives: Mapping[str, np.ndarray], metric: bool = True) -> Report:
    """Compare the poses of a scene with other readings by photometric error.

    Args:
        scene: the scene under the reading in use.
        alternatives: option that selects another reading -> poses (n, 4, 4) under that reading.
        metric: whether the poses should be in metres.
    """
    pairs = choose_pairs(scene)
    if not pairs:
        raise DataError(f"scene {scene.name!r}: {counted(len(scene), 'frame')}, too few to check the poses.")
    edges = np.median([float(p.images.diff(dim=-1).abs().mean()) for p in pairs])
    if edges < _BLURRED:
        raise DataError(
            f"scene {scene.name!r}: its images show no edges (blurred, or of one colour). Film again, slower and with "
            "more light."
        )
    given = scene.world_T_cams
    swept = [sweep(p, p.of(given)) for p in pairs]
    some = pairs[::2]  # enough, because errors of readings differ by a factor
    errors = {CURRENT: _median(s.error for s in swept[::2])}
    n = len(given)
    others = {**alternatives, "poses in reverse order": given[::-1]}
    alphabetical = sorted(range(n), key=str)
    if alphabetical != list(range(n)):
        others["poses in alphabetical order"] = given[np.argsort(alphabetical)]
    for name, poses in others.items():
        errors[name] = _median(sweep(p, p.of(poses)).error for p in some)
    for factor in _FACTORS:
        for name, scaled in (("focal length", _with_focal), ("intrinsics", _with_intrinsics)):
            errors[f"{name} x {factor:g}"] = _median(
                sweep(scaled(p, factor), p.of(given)).error for p in some
            )
    depth = float(np.median(np.stack([s.depth for s in swept])))
    ratio = _depth_ratio(scene, pairs, swept)
    still = float(np.median([difference(p) for p in pairs])) < _STILL
    problem, doubt = _verdict(errors, depth, ratio, still, metric)
    return Report(errors, depth, ratio, problem, doubt, pairs, swept)


def _median(errors) -> float:
    """Compute the median over the pairs of each pair's median over the pixels."""
    return float(np.median([np.median(e) for e in errors]))


def _with_focal(pair: Pair, factor: float) -> Pair:
    """Return the pair with a focal length ``factor`` times as long, and the same principal point."""
    return replace(pair, Ks=pair.Ks * torch.tensor([[factor, 1, 1], [1, factor, 1], [1, 1, 1]]))


def _with_intrinsics(pair: Pair, factor: float) -> Pair:
    """Return the pair with the intrinsics of images that are ``factor`` times as large."""
    Ks = pair.Ks.numpy()
    scaled = [scale_intrinsics(K, (100, 100), (100 * factor, 100 * factor)) for K in Ks]
    return replace(pair, Ks=torch.from_numpy(np.stack(scaled)))


def _depth_ratio(scene: Scene, pairs: Sequence[Pair], swept: Sequence[Swept]) -> float | None:
    ratios = []
    for pair, found in zip(pairs, swept, strict=True):
        if (measured := scene.depth(pair.frames[0])) is not None:
            measured = nearest_depth(measured, found.depth.shape)
            ratios.append(measured[measured > 0] / found.depth[measured > 0])
    ratios = np.concatenate(ratios) if ratios else np.array([])
    return float(np.median(ratios)) if len(ratios) else None


def _verdict(
    errors: Mapping[str, float], depth: float, ratio: float | None, still: bool, metric: bool
) -> tuple[str, str]:
    """Return the problem and the doubt; "" for none."""
    current = errors[CURRENT]
    best = min(errors, key=errors.get)
    if still:
        return (
            "",
            "The camera hardly moves between the compared frames, so the poses cannot be checked by pixels.",
        )
    # another reading above BAD does not explain the images either: poses of other images do not become right
    if errors[best] < min(BAD, _CLEARLY * current) and current - errors[best] > 0.008:
        return _mend(best, current, errors[best]), ""
    if current > BAD:
        return (
            f"The poses do not explain the images (error {current:.3f}), and no other reading does. Do they belong to "
            "these images, in this order? Do the intrinsics belong to these images (--intrinsics)? Is the video sharp?"
        ), ""
    if metric and not _DEPTHS_M[0] < depth < _DEPTHS_M[1]:
        guess = next((f for f in (0.001, 0.01) if _DEPTHS_M[0] < depth * f < _DEPTHS_M[1]), None)
        units = {0.001: "millimetres", 0.01: "centimetres"}
        advice = f" They look like {units[guess]}: add --metres-per-unit {guess}." if guess else ""
        return (
            f"By the poses, the scene's median depth is {rounded(depth)} m. The poses are not in metres.{advice}",
            "",
        )
    if ratio is not None and not 1 / _RATIO < ratio < _RATIO:
        return (
            f"The depth maps are {rounded(ratio)} times as deep as the poses say. Give the right --depth-scale (stored "
            f"values per metre; the present one times {rounded(ratio)} would fit), the scale of the poses "
            "(--metres-per-unit), or the intrinsics of these images (--intrinsics)."
        ), ""
    focal = min((name for name in errors if name.startswith("focal")), key=errors.get)
    if errors[focal] < _SLIGHTLY * current:
        return "", (
            f"A {focal} explains the images a little better (error {errors[focal]:.3f} instead of {current:.3f}). Are "
            "the intrinsics those of these images? If not, give the right ones with --intrinsics."
        )
    if current > GOOD:
        return "", (
            f"The error {current:.3f} is higher than usual: the video may be blurred, its exposure may vary, or its "
            "poses may be inexact."
        )
    return "", ""


def _mend(best: str, current: float, error: float) -> str:
    better = f"explains the images much better than the poses as given (error {error:.3f} instead of {current:.3f})"
    if best.startswith("--"):
        return f"Another reading of the poses {better}. Add {best}."
    if best.startswith("focal"):
        return f"A {best} {better}. Give the right intrinsics with --intrinsics."
    if best.startswith("intrinsics"):
        factor = float(best.rpartition(" ")[2])
        return (
            f"A focal length {factor:g} times as long {better}. The intrinsics belong to images of another size: give "
            "those of these images with --intrinsics."
        )
    if best == _EXIF:
        return (
            f"With {best}, the poses explain the images much better (error {error:.3f} instead of {current:.3f}). They "
            "belong to images turned upright. Write such images, for example by `mogrify -auto-orient images/*.jpg`."
        )
    return f"A list of the {best} {better}. Number images and poses in the same order, with leading zeros."
