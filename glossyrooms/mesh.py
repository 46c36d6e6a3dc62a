"""Triangles with materials: the geometry of a room as flat arrays.

Surfaces are cut into cells of twelve centimetres, because diffuse light is baked at vertices.
World axes: x and y on the floor, z up, metres.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from glossyrooms.textures import Texture

CELL_M = 0.12
MATT, GLOSSY, MIRROR, LIGHT = range(4)
KINDS = ("matt", "glossy", "mirror", "light")


@dataclass(frozen=True, eq=False)  # compared by identity: two surfaces that look alike are two materials
class Material:
    """The material of a surface.

    Attributes:
        name: name of the surface.
        kind: MATT, GLOSSY (a clear dielectric coat over the texture), MIRROR or LIGHT (texture is radiance).
        texture: albedo, or radiance of a light.
        roughness: GGX alpha of the coat; 0.001 is polished.
    """

    name: str
    kind: int
    texture: Texture
    roughness: float = 0.1


@dataclass(frozen=True)
class Geometry:
    """A finished room: n vertices, m triangles.

    Attributes:
        vertices, normals: (n, 3) float32; normals are smooth on curved parts.
        bake_points: (n, 3) points at which the light of a vertex is computed, shifted into its own surface, since a
            vertex on an edge would lie inside the neighbouring surface.
        uv: (n, 2) in tiles of the texture.
        faces: (m, 3) int32; material (m,) index into ``materials``; flat (m,) bool, part of a plane.
    """

    vertices: np.ndarray
    normals: np.ndarray
    bake_points: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    material: np.ndarray
    flat: np.ndarray
    materials: tuple[Material, ...]


class Builder:
    """Collects surfaces under a current transform."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._world_T_local = np.eye(4)
        self._parts: list[dict[str, np.ndarray]] = []
        self._count = 0
        self._materials: list[Material] = []

    @contextlib.contextmanager
    def at(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Iterator[None]:
        """Place everything added in this context at (x, y, z), turned by ``yaw`` radians, in the outer frame."""
        before = self._world_T_local
        c, s = np.cos(yaw), np.sin(yaw)
        step = np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, z], [0, 0, 0, 1]])
        self._world_T_local = before @ step
        try:
            yield
        finally:
            self._world_T_local = before

    def mesh(
        self,
        vertices: np.ndarray,
        normals: np.ndarray,
        bake_points: np.ndarray,
        uv: np.ndarray,
        faces: np.ndarray,
        material: Material,
        flat: bool,
    ) -> None:
        """Add triangles given in the current frame."""
        R, t = self._world_T_local[:3, :3], self._world_T_local[:3, 3]
        if not any(m is material for m in self._materials):
            self._materials.append(material)
        index = next(k for k, m in enumerate(self._materials) if m is material)
        self._parts.append(
            {
                "vertices": vertices @ R.T + t,
                "normals": normals @ R.T,
                "bake_points": bake_points @ R.T + t,
                "uv": uv,
                "faces": faces + self._count,
                "material": np.full(len(faces), index),
                "flat": np.full(len(faces), flat),
            }
        )
        self._count += len(vertices)

    def patch(
        self,
        origin: tuple[float, float, float],
        u: tuple[float, float, float],
        v: tuple[float, float, float],
        facing: tuple[float, float, float],
        material: Material,
        cell_m: float = CELL_M,
    ) -> None:
        """Add a parallelogram with corner ``origin`` and edges ``u``, ``v``, visible from the side of ``facing``."""
        origin, u, v, facing = (np.asarray(a, float) for a in (origin, u, v, facing))
        lengths = np.linalg.norm(u), np.linalg.norm(v)
        nu, nv = (max(1, round(length / cell_m)) for length in lengths)
        s, t = (a.reshape(-1, 1) for a in np.meshgrid(np.linspace(0, 1, nu + 1), np.linspace(0, 1, nv + 1)))
        normal = np.cross(u, v) / (lengths[0] * lengths[1])
        normal /= np.linalg.norm(normal)
        turned = normal @ facing < 0
        if turned:
            normal = -normal
        # a fifth of a cell inwards, two millimetres above
        inner_s = s.clip(0.2 / nu, 1 - 0.2 / nu)
        inner_t = t.clip(0.2 / nv, 1 - 0.2 / nv)
        size = material.texture.size_m
        if size is None:
            uv = np.hstack((s, t))
        else:
            uv = np.hstack((s * lengths[0] / size[0], t * lengths[1] / size[1])) + self.rng.random(2)
        k = np.arange((nu + 1) * (nv + 1)).reshape(nv + 1, nu + 1)
        a, b, c, d = k[:-1, :-1].ravel(), k[:-1, 1:].ravel(), k[1:, 1:].ravel(), k[1:, :-1].ravel()
        faces = np.concatenate((np.stack((a, b, c), 1), np.stack((a, c, d), 1)))
        self.mesh(
            origin + s * u + t * v,
            np.broadcast_to(normal, (k.size, 3)),
            origin + inner_s * u + inner_t * v + 0.002 * normal,
            uv,
            faces[:, ::-1] if turned else faces,
            material,
            flat=True,
        )

    def box(
        self,
        low: tuple[float, float, float],
        high: tuple[float, float, float],
        material: Material,
        top: Material | None = None,
        front: Material | None = None,
        bottom: bool = False,
        cell_m: float = CELL_M,
    ) -> None:
        """Add an upright box; ``front`` is its side towards -y of the current frame."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        self.patch((x0, y0, z1), (dx, 0, 0), (0, dy, 0), (0, 0, 1), top or material, cell_m)
        if bottom:
            self.patch((x0, y0, z0), (dx, 0, 0), (0, dy, 0), (0, 0, -1), material, cell_m)
        self.patch((x0, y0, z0), (dx, 0, 0), (0, 0, dz), (0, -1, 0), front or material, cell_m)
        self.patch((x1, y1, z0), (-dx, 0, 0), (0, 0, dz), (0, 1, 0), material, cell_m)
        self.patch((x0, y1, z0), (0, -dy, 0), (0, 0, dz), (-1, 0, 0), material, cell_m)
        self.patch((x1, y0, z0), (0, dy, 0), (0, 0, dz), (1, 0, 0), material, cell_m)

    def _grid(self, points: np.ndarray, uv: np.ndarray, material: Material, closed: bool) -> None:
        """Add a curved sheet of points (rows, columns, 3); its outside is the side of columns x rows."""
        if closed:
            points = np.concatenate((points, points[:, :1]), axis=1)
        du, dv = np.gradient(points, axis=1), np.gradient(points, axis=0)
        if closed:
            du[:, 0] = du[:, -1] = points[:, 1] - points[:, -2]
        normals = np.cross(du, dv)
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        flat_normals = np.divide(normals, length, out=np.zeros_like(normals), where=length > 1e-12)
        # at a pole a row shrinks to a point: the mean normal of the next row is the axis
        for row, inner in ((0, 1), (-1, -2)):
            lost = length[row, :, 0] <= 1e-12
            flat_normals[row, lost] = flat_normals[inner].mean(axis=0)
        flat_normals /= np.linalg.norm(flat_normals, axis=-1, keepdims=True).clip(1e-9)
        rows, columns = points.shape[:2]
        k = np.arange(rows * columns).reshape(rows, columns)
        a, b, c, d = k[:-1, :-1].ravel(), k[:-1, 1:].ravel(), k[1:, 1:].ravel(), k[1:, :-1].ravel()
        faces = np.concatenate((np.stack((a, b, c), 1), np.stack((a, c, d), 1)))
        vertices, normals = points.reshape(-1, 3), flat_normals.reshape(-1, 3)
        self.mesh(
            vertices, normals, vertices + 0.004 * normals, uv.reshape(-1, 2), faces, material, flat=False
        )

    def lathe(self, profile: list[tuple[float, float]], material: Material, segments: int = 20) -> None:
        """Add a body of revolution about z; ``profile`` is (radius, height) from the bottom up."""
        profile = np.asarray(profile, float)
        angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
        r, z = profile[:, :1], profile[:, 1:]
        points = np.stack(
            (r * np.cos(angle), r * np.sin(angle), np.broadcast_to(z, (len(r), segments))), axis=-1
        )
        size = material.texture.size_m or (1.0, 1.0)
        across = np.linspace(0, 2 * np.pi * r.max() / size[0], segments + 1)
        up = np.append(0, np.cumsum(np.linalg.norm(np.diff(profile, axis=0), axis=1))) / size[1]
        uv = np.stack(np.broadcast_arrays(across[None], up[:, None]), axis=-1) + self.rng.random(2)
        self._grid(points, uv, material, closed=True)

    def cushion(self, half: tuple[float, float, float], material: Material, square: float = 0.35) -> None:
        """Add a superellipsoid with half axes ``half``; ``square`` 1 is an ellipsoid, 0 is a box."""
        longitude = np.linspace(-np.pi, np.pi, 24, endpoint=False)
        latitude = np.linspace(-np.pi / 2, np.pi / 2, 13)[:, None]

        def power(x: np.ndarray) -> np.ndarray:
            return np.sign(x) * np.abs(x) ** square

        points = np.stack(
            np.broadcast_arrays(
                half[0] * power(np.cos(latitude)) * power(np.cos(longitude)),
                half[1] * power(np.cos(latitude)) * power(np.sin(longitude)),
                half[2] * power(np.sin(latitude)),
            ),
            axis=-1,
        )
        size = material.texture.size_m or (1.0, 1.0)
        closed = np.concatenate((points, points[:, :1]), axis=1)
        uv = (closed[..., :2] + 0.5 * closed[..., 2:]) / np.asarray(size) + self.rng.random(2)
        self._grid(points, uv, material, closed=True)

    def finish(self) -> Geometry:
        """Return the arrays of all surfaces."""
        merged = {k: np.concatenate([p[k] for p in self._parts]) for k in self._parts[0]}
        for k in ("vertices", "normals", "bake_points", "uv"):
            merged[k] = np.ascontiguousarray(merged[k], np.float32)
        merged["faces"] = np.ascontiguousarray(merged["faces"], np.int32)
        merged["material"] = merged["material"].astype(np.int32)
        return Geometry(**merged, materials=tuple(self._materials))
