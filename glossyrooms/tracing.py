"""Find the first hits of rays with the triangles of a room, and look up textures at many points at once."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from glossyrooms.mesh import Geometry
from glossyrooms.textures import Texture


@dataclass(frozen=True)
class Hits:
    """First hits of n rays.

    Attributes:
        t: (n,) distance in units of the direction's length.
        face: (n,) index of the triangle; -1 if the ray hits nothing.
        bary: (n, 2) barycentric coordinates.
    """

    t: np.ndarray
    face: np.ndarray
    bary: np.ndarray


class Tracer:
    """Finds the first hits of rays with the triangles of a geometry."""

    def __init__(self, mi: ModuleType, geometry: Geometry) -> None:
        self._mi = mi
        self._scalar = mi.variant().startswith("scalar")
        mesh = mi.Mesh("room", len(geometry.vertices), len(geometry.faces))
        parameters = mi.traverse(mesh)
        parameters["vertex_positions"] = geometry.vertices.ravel()
        parameters["faces"] = geometry.faces.ravel().astype(np.uint32)
        parameters.update()
        self._scene = mi.load_dict({"type": "scene", "mesh": mesh})

    def __call__(self, origins_n3: np.ndarray, directions_n3: np.ndarray) -> Hits:
        """Return the first hits; directions may have any length."""
        mi = self._mi
        if self._scalar:
            return self._one_by_one(origins_n3, directions_n3)
        rays = mi.Ray3f(
            mi.Point3f(np.ascontiguousarray(origins_n3.T, np.float32)),
            mi.Vector3f(np.ascontiguousarray(directions_n3.T, np.float32)),
        )
        hit = self._scene.ray_intersect_preliminary(rays)
        t = np.array(hit.t)
        missed = ~np.isfinite(t)
        face = np.array(hit.prim_index).astype(np.int64)
        face[missed] = -1
        return Hits(np.where(missed, 0, t), face, np.array(hit.prim_uv).T.reshape(-1, 2))

    def _one_by_one(self, origins_n3: np.ndarray, directions_n3: np.ndarray) -> Hits:
        mi, n = self._mi, len(directions_n3)
        t, face, bary = np.zeros(n, np.float32), np.full(n, -1), np.zeros((n, 2), np.float32)
        for k, (o, d) in enumerate(
            zip(np.broadcast_to(origins_n3, (n, 3)).tolist(), directions_n3.tolist(), strict=True)
        ):
            hit = self._scene.ray_intersect_preliminary(mi.Ray3f(o, d))
            if hit.is_valid():
                t[k], face[k], bary[k] = hit.t, hit.prim_index, hit.prim_uv
        return Hits(t, face, bary)


class TextureStack:
    """All textures of a room with their mipmaps in one flat array."""

    LEVELS = 6

    def __init__(self, textures: list[Texture]) -> None:
        texels, offset, sizes = [], 0, []
        for texture in textures:
            image, levels = texture.image, []
            for _ in range(self.LEVELS):
                levels.append((offset, *image.shape[:2]))
                texels.append(image.reshape(-1, 3))
                offset += image.shape[0] * image.shape[1]
                image = _half(image)
            sizes.append(levels)
        self._texels = np.concatenate(texels)
        self._sizes = np.array(sizes)  # material, level, (offset, height, width)
        self._tiled = np.array([t.size_m is not None for t in textures])

    def size(self, material: np.ndarray) -> np.ndarray:
        """Return the (height, width) of the finest level, (n, 2)."""
        return self._sizes[material, 0, 1:]

    def __call__(self, material: np.ndarray, uv: np.ndarray, texels_seen: np.ndarray) -> np.ndarray:
        """Return bilinear values (n, 3) at the level whose texel is about as large as the footprint of the ray."""
        level = np.log2(np.maximum(texels_seen, 1)).round().astype(np.int64).clip(0, self.LEVELS - 1)
        offset, h, w = self._sizes[material, level].T
        tiled = self._tiled[material]
        x, y = (uv[:, 0] * w - 0.5).astype(np.float32), (uv[:, 1] * h - 0.5).astype(np.float32)
        x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        fx, fy = (x - x0)[:, None], (y - y0)[:, None]

        def at(ix: np.ndarray, iy: np.ndarray) -> np.ndarray:
            ix = np.where(tiled, ix % w, ix.clip(0, w - 1))
            iy = np.where(tiled, iy % h, iy.clip(0, h - 1))
            return self._texels[offset + iy * w + ix]

        below = at(x0, y0) * (1 - fx) + at(x0 + 1, y0) * fx
        above = at(x0, y0 + 1) * (1 - fx) + at(x0 + 1, y0 + 1) * fx
        return below * (1 - fy) + above * fy


def _half(image: np.ndarray) -> np.ndarray:
    """Return the mean over 2x2 texels; an odd last row or column is duplicated first."""
    h, w = image.shape[:2]
    image = np.pad(image, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2, 3).mean((1, 3), dtype=np.float32)
