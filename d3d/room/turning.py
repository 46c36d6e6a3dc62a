"""Tell a camera that only turned from one that moved, by the matches of structure from motion.

Between two images of a camera that turned, all points move by one rotation of their rays. A distorted lens lets bundle
adjustment explain such a recording by a walk that never happened, with a small error. Therefore the matches are tested
before.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np

_ID = 2**31 - 1  # COLMAP: pair = first image * _ID + second image
_FOCALS = np.geomspace(0.4, 2.5, 25)  # tried focal lengths, in longest sides of the image
_TOLERANCE = 0.005  # of the longest side: parallax below this is not seen
_FEWEST_MATCHES, _MOST_MATCHES, _PAIRS = 30, 200, 60


def turned_share(database: Path) -> float:
    """Share of matches, 0 to 1, that a camera which only turns explains; 0 without matches.

    Each image is compared with the image that shows the same points farthest away. All pairs share a focal length, the
    one that explains most matches.

    Args:
        database: COLMAP's database with verified matches.
    """
    chosen = _far_pairs(database)
    if not chosen:
        return 0.0
    shares = [np.median([rotation_share(a, b, focal) for a, b in chosen]) for focal in _FOCALS]
    return float(max(shares))


def rotation_share(a: np.ndarray, b: np.ndarray, focal: float) -> float:
    """Share of matched points that the best rotation explains.

    Args:
        a, b: matched points (n, 2) in two images, relative to the centre, in longest sides of the image.
        focal: focal length, in longest sides.
    """
    rays_a, rays_b = (_rays(points, focal) for points in (a, b))
    good = np.ones(len(a), bool)
    for _ in range(4):
        U, _, Vt = np.linalg.svd(rays_b[good].T @ rays_a[good])
        R = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
        turned = rays_a @ R.T
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.linalg.norm(focal * turned[:, :2] / turned[:, 2:] - b, axis=1)
        error[~(turned[:, 2] > 0)] = np.inf
        good = error <= max(_TOLERANCE, float(np.median(error)))
    return float((error <= _TOLERANCE).mean())


def _rays(points: np.ndarray, focal: float) -> np.ndarray:
    rays = np.column_stack((points, np.full(len(points), focal)))
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _far_pairs(database: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Matched points of each image and the image in which they moved farthest; of at most 60 images."""
    with contextlib.closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as opened:
        sizes = "SELECT image_id, width, height FROM images JOIN cameras USING (camera_id)"
        size = {i: np.array((w, h), np.float64) for i, w, h in opened.execute(sizes)}
        points = {}
        for i, rows, cols, data in opened.execute("SELECT image_id, rows, cols, data FROM keypoints"):
            if rows:
                keypoints = np.frombuffer(data, np.float32).reshape(rows, cols)[:, :2]
                points[i] = (keypoints - size[i] / 2) / size[i].max()
        farthest: dict[int, tuple[float, np.ndarray, np.ndarray]] = {}
        verified = "SELECT pair_id, data FROM two_view_geometries WHERE rows >= ?"
        for pair, data in opened.execute(verified, (_FEWEST_MATCHES,)):
            i, j = divmod(pair, _ID)
            matched = np.frombuffer(data, np.uint32).reshape(-1, 2)
            matched = matched[:: -(-len(matched) // _MOST_MATCHES)]
            a, b = points[i][matched[:, 0]], points[j][matched[:, 1]]
            moved = float(np.median(np.linalg.norm(a - b, axis=1)))
            if i not in farthest or moved > farthest[i][0]:
                farthest[i] = (moved, a, b)
    found = [(a, b) for _, a, b in farthest.values()]
    return found[:: -(-len(found) // _PAIRS)] if found else []
