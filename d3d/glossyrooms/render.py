"""Light in a room and its pictures: baked diffuse light, traced reflections, exact depth and masks.

Diffuse light does not depend on where one stands, so it is computed once a room, at vertices ten
centimetres apart: direct light by sampling the lights, then two bounces by gathering. A frame traces nine rays a
pixel, and from every glossy surface one more, drawn from its GGX distribution and weighted by Fresnel's
reflectance. What a mirror image is, where it is seen and how bright, therefore follows from the materials
alone. `d3d.glossyrooms.reference` renders the same room by mitsuba's path tracer, to compare.

Rays are traced by mitsuba; the shading is numpy's, so that the scalar variant, where the machine has no
LLVM, makes the same pictures, only slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from d3d.glossyrooms.mesh import GLOSSY, LIGHT, MIRROR, Geometry
from d3d.glossyrooms.textures import Texture

IOR = 1.5  # varnish, polished stone, glaze, plastic
MIRROR_REFLECTANCE = 0.88
SUBPIXELS = 3  # a side
DIRECT_SAMPLES, GATHER_RAYS, BOUNCES = 128, 96, 2
NEAREST_LIGHT_M = 0.12  # a lamp is not a point: no more light than from here
MIDDLE_GREY = 0.20  # mean luminance (geometric) that a camera exposes a room to


@dataclass(frozen=True)
class Hits:
    """Where n rays end. ``t`` counts in lengths of the direction; ``face`` is -1 where nothing is hit."""

    t: np.ndarray
    face: np.ndarray
    bary: np.ndarray


class Tracer:
    """First hits of rays with a geometry's triangles."""

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
        """First hits; directions need not be of unit length."""
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


class _Textures:
    """All textures of a room with their mipmaps in one flat array, looked up for many points at once."""

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
        """(height, width) of the finest level, (n, 2)."""
        return self._sizes[material, 0, 1:]

    def __call__(self, material: np.ndarray, uv: np.ndarray, texels_seen: np.ndarray) -> np.ndarray:
        """Bilinear values (n, 3) at the level whose texel is about as large as what a ray sees."""
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
    """Mean over 2x2 texels; an odd last row or column is doubled first, and one texel stays one."""
    h, w = image.shape[:2]
    image = np.pad(image, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2, 3).mean((1, 3), dtype=np.float32)


@dataclass(frozen=True)
class Surface:
    """What rays hit: n points with normals towards the rays' origins. ``light`` is false on a light's back."""

    point: np.ndarray
    normal: np.ndarray
    cosine: np.ndarray
    face: np.ndarray
    material: np.ndarray
    kind: np.ndarray
    light: np.ndarray
    corners: np.ndarray
    weights: np.ndarray


class Renderer:
    """A room whose diffuse light is baked, ready to make frames."""

    def __init__(self, mi: ModuleType, geometry: Geometry, seed: int) -> None:
        """Bakes; takes about ten seconds a room on one core.

        Args:
            mi: mitsuba with its variant set, from `load_mitsuba`.
            seed: of the sampling.
        """
        self.geometry, self.seed = geometry, seed
        self.exposure = 1.0  # until `expose`
        self.trace = Tracer(mi, geometry)
        self._textures = _Textures([m.texture for m in geometry.materials])
        self._kind = np.array([m.kind for m in geometry.materials])
        self._roughness = np.array([m.roughness for m in geometry.materials], np.float32)
        g = geometry
        a, b, c = (g.vertices[g.faces[:, k]] for k in range(3))
        cross = np.cross(b - a, c - a)
        self._area = np.linalg.norm(cross, axis=1) / 2
        self._facing = cross / np.maximum(2 * self._area[:, None], 1e-12)
        ua, ub, uc = (g.uv[g.faces[:, k]] for k in range(3))
        du, dv = ub - ua, uc - ua
        uv_area = np.abs(du[:, 0] * dv[:, 1] - du[:, 1] * dv[:, 0]) / 2
        h, w = self._textures.size(g.material).T
        self._texel_m = np.sqrt(self._area / np.maximum(uv_area * h * w, 1e-9)).clip(1e-4).astype(np.float32)
        self._irradiance = np.zeros_like(g.vertices)

    # light

    def bake(self) -> None:
        """Irradiance (n, 3) at the vertices, over pi: what a white matt surface there would send out."""
        rng = np.random.default_rng([self.seed, 3])
        direct = self._smooth(self._direct(rng))
        self._irradiance = direct
        for _ in range(BOUNCES):
            self._irradiance = (direct + self._smooth(self._gathered(rng))).astype(np.float32)

    def _direct(self, rng: np.random.Generator) -> np.ndarray:
        g = self.geometry
        lights = np.flatnonzero(self._kind[g.material] == LIGHT)
        result = np.zeros((len(g.vertices), 3))
        if not len(lights):
            return result
        middle = g.uv[g.faces[lights]].mean(axis=1)
        power = self._area[lights] * self._textures(
            g.material[lights], middle, np.full(len(lights), 16.0)
        ).mean(1)
        # half by power, half by area: a dim window must not be sampled by three rays
        chance = 0.5 * power / power.sum() + 0.5 * self._area[lights] / self._area[lights].sum()
        cumulative = np.cumsum(chance)
        n = len(g.vertices)
        for k in range(DIRECT_SAMPLES):
            pick = (k + rng.random(n)) / DIRECT_SAMPLES
            chosen = np.searchsorted(cumulative, pick * cumulative[-1]).clip(max=len(lights) - 1)
            face = lights[chosen]
            u, v = rng.random((2, n))
            over = u + v > 1
            u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
            weights = np.stack((1 - u - v, u, v), axis=1).astype(np.float32)
            point = _interpolate(g.vertices, g.faces[face], weights)
            uv = _interpolate(g.uv, g.faces[face], weights)
            way = point - g.bake_points
            squared = _dot(way, way).clip(1e-9)
            length = np.sqrt(squared)
            at_light = -_dot(way, self._facing[face]) / length
            here = _dot(way, g.normals) / length
            sees = (at_light > 0) & (here > 0)
            hit = self.trace(g.bake_points[sees], way[sees])
            sees[sees] = (hit.face < 0) | (hit.t > 0.995)
            radiance = self._textures(g.material[face], uv, np.full(n, 1.0))
            factor = (
                here * at_light / np.maximum(squared, NEAREST_LIGHT_M**2) * self._area[face] / chance[chosen]
            )
            result += np.where(sees, factor / (np.pi * DIRECT_SAMPLES), 0)[:, None] * radiance
        return result

    def _gathered(self, rng: np.random.Generator) -> np.ndarray:
        """Light that arrives from surfaces which are not lights."""
        g, n = self.geometry, len(self.geometry.vertices)
        tangent, bitangent = _frame(g.normals)
        result = np.zeros((n, 3))
        strata = int(np.sqrt(GATHER_RAYS))
        for i in range(strata):
            for j in range(GATHER_RAYS // strata):
                u = (i + rng.random(n)) / strata
                angle = 2 * np.pi * (j + rng.random(n)) / (GATHER_RAYS // strata)
                r = np.sqrt(u)
                x, y, z = (r * np.cos(angle))[:, None], (r * np.sin(angle))[:, None], np.sqrt(1 - u)[:, None]
                way = x * tangent + y * bitangent + z * g.normals
                hit = self.trace(g.bake_points, way)
                seen = np.flatnonzero(hit.face >= 0)
                surface = self._surface(hit, g.bake_points[seen], way[seen].astype(np.float32), seen)
                footprint = 0.3 * hit.t[seen]
                radiance = self._diffuse(surface, footprint)
                glossy = surface.kind == GLOSSY
                # the coat's own reflection, as if matt: its direction matters little for light that has bounced
                radiance[glossy] += 0.09 * self._light_at(surface)[glossy]
                radiance[surface.kind == LIGHT] = 0
                result[seen] += radiance
        return result / (strata * (GATHER_RAYS // strata))

    def _smooth(self, values: np.ndarray) -> np.ndarray:
        """Half of each vertex, half of the mean of its neighbours in the same surface: halves the noise."""
        f = self.geometry.faces
        edges = np.concatenate((f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]))
        edges = np.concatenate((edges, edges[:, ::-1]))
        total, count = np.zeros_like(values), np.zeros(len(values))
        for channel in range(3):
            total[:, channel] = np.bincount(edges[:, 0], values[edges[:, 1], channel], len(values))
        count = np.bincount(edges[:, 0], minlength=len(values)).clip(1)[:, None]
        return 0.5 * values + 0.5 * total / count

    # surfaces

    def _surface(self, hit: Hits, origins: np.ndarray, directions: np.ndarray, which: np.ndarray) -> Surface:
        """The surfaces hit by the rays ``which``, whose origins and directions are given."""
        g = self.geometry
        face = hit.face[which]
        b = hit.bary[which]
        weights = np.stack((1 - b[:, 0] - b[:, 1], b[:, 0], b[:, 1]), axis=1).astype(np.float32)
        corners = g.faces[face]
        normal = _interpolate(g.normals, corners, weights)
        normal /= np.sqrt(_dot(normal, normal)).clip(1e-9)[:, None]
        length = np.sqrt(_dot(directions, directions))
        cosine = -_dot(normal, directions) / length
        back = _dot(self._facing[face], directions) > 0
        normal[back] *= -1
        # a smooth normal may look away from the viewer at a silhouette
        cosine = np.maximum(np.where(back, -cosine, cosine), 0.02)
        material = g.material[face]
        kind = self._kind[material]
        point = origins + hit.t[which, None] * directions
        return Surface(point, normal, cosine, face, material, kind, (kind == LIGHT) & ~back, corners, weights)

    def _light_at(self, s: Surface) -> np.ndarray:
        return _interpolate(self._irradiance, s.corners, s.weights)

    def _texture_at(self, s: Surface, footprint_m: np.ndarray) -> np.ndarray:
        uv = _interpolate(self.geometry.uv, s.corners, s.weights)
        return self._textures(s.material, uv, footprint_m / self._texel_m[s.face])

    def _diffuse(self, s: Surface, footprint_m: np.ndarray) -> np.ndarray:
        """Radiance (n, 3) without the coats' reflections: texture times light, or a light's own."""
        texture = self._texture_at(s, footprint_m)
        radiance = texture * self._light_at(s)
        # what enters and leaves through the coat: 1.1 x 0.908 x (1 - F), with 1.1 of mitsuba's plastic, see module
        through = 1 - fresnel(s.cosine)
        radiance *= np.where(s.kind == GLOSSY, through, 1)[:, None]
        radiance[s.kind == MIRROR] = 0
        lit = s.kind == LIGHT
        radiance[lit] = np.where(s.light[lit, None], texture[lit], 0.02)
        return radiance

    # frames

    def expose(self, poses_n44: np.ndarray, K: np.ndarray, size_hw: tuple[int, int]) -> None:
        """Sets the one exposure of a room from the mean luminance of some of its frames."""
        logs = []
        for pose in poses_n44:
            base, coat, _, _ = self._layers(pose, K, size_hw, np.random.default_rng(0), 1)
            logs.append(np.log(np.maximum((base + coat).mean(axis=-1), 1e-3)).mean())
        self.exposure = MIDDLE_GREY / float(np.exp(np.mean(logs)))

    def image(
        self, pose: np.ndarray, K: np.ndarray, size_hw: tuple[int, int], frame: int, denoise
    ) -> np.ndarray:
        """A frame as a camera would give it, uint8 (h, w, 3) sRGB.

        Only the reflections are noisy, so only they are denoised; textures stay as they are.
        """
        rng = np.random.default_rng([self.seed, 4, frame])
        base, coat, share, normal = self._layers(pose, K, size_hw, rng, SUBPIXELS)
        if (coat > 0).any():
            coat = denoise(coat, np.repeat(share[..., None], 3, axis=-1), normal)
        return develop(self.exposure * (base + coat))

    def radiance(self, pose: np.ndarray, K: np.ndarray, size_hw: tuple[int, int], frame: int) -> np.ndarray:
        """Exposed linear radiance (h, w, 3), not denoised: what the path tracer is compared with."""
        base, coat, _, _ = self._layers(
            pose, K, size_hw, np.random.default_rng([self.seed, 4, frame]), SUBPIXELS
        )
        return self.exposure * (base + coat)

    def _layers(
        self, pose: np.ndarray, K: np.ndarray, size_hw: tuple[int, int], rng: np.random.Generator, side: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Diffuse and emitted radiance, reflections (h, w, 3), share of glossy samples (h, w), normals (h, w, 3)."""
        h, w = size_hw
        n = side * side
        steps = (np.arange(side) + 0.5) / side - 0.5
        dy, dx = (a.ravel() for a in np.meshgrid(steps, steps, indexing="ij"))
        y, x = np.mgrid[:h, :w].reshape(2, -1, 1)
        directions = _directions(pose, K, (x + dx).ravel(), (y + dy).ravel())
        origin = pose[:3, 3].astype(np.float32)
        hit = self.trace(origin[None], directions)
        seen = np.flatnonzero(hit.face >= 0)
        s = self._surface(hit, origin, directions[seen], seen)
        length = np.sqrt(_dot(directions[seen], directions[seen]))
        spread = 1 / (K[0, 0] * side)  # of a ray, radians
        distance = hit.t[seen] * length
        base = np.zeros((h * w * n, 3), np.float32)
        base[seen] = self._diffuse(s, spread * distance / np.sqrt(s.cosine))
        coat, share = np.zeros((h * w * n, 3), np.float32), np.zeros(h * w * n, np.float32)
        glossy = np.flatnonzero((s.kind == GLOSSY) | (s.kind == MIRROR))
        if len(glossy):
            share[seen[glossy]] = 1
            coat[seen[glossy]] = self._reflection(
                s, glossy, directions[seen], distance, spread, seen % n, n, rng
            )
        normals = np.zeros((h * w * n, 3), np.float32)
        normals[seen] = s.normal

        def mean(a: np.ndarray) -> np.ndarray:
            a = a.reshape(h, w, n, -1)
            return (
                sum(a[:, :, k] for k in range(n)) / n
            )  # five times as fast as numpy's mean over a short axis

        return mean(base), mean(coat), mean(share)[..., 0], mean(normals)

    def _reflection(
        self,
        s: Surface,
        glossy: np.ndarray,
        directions: np.ndarray,
        distance: np.ndarray,
        spread: float,
        subpixel: np.ndarray,
        n: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Radiance (m, 3) that the coats of the surfaces ``glossy`` send to the eye: one ray each."""
        normal, material = s.normal[glossy], s.material[glossy]
        towards = directions[glossy] / np.sqrt(_dot(directions[glossy], directions[glossy]))[:, None]
        alpha = np.where(s.kind[glossy] == MIRROR, 1e-3, self._roughness[material])
        # the pixel's samples share out the unit square, each pixel in an order of its own
        m = len(glossy)
        side = int(np.sqrt(n))
        k = (subpixel[glossy] + rng.integers(n)) % n
        u = np.stack(((k % side + rng.random(m)) / side, (k // side + rng.random(m)) / side), axis=1)
        out, half_cosine, shadow = _sample_ggx(normal, -towards, alpha, u)
        f = np.where(s.kind[glossy] == MIRROR, MIRROR_REFLECTANCE, fresnel(half_cosine)) * shadow
        start = s.point[glossy] + 1e-4 * normal
        up = np.flatnonzero(_dot(out, normal) > 1e-3)
        hit = self.trace(start[up], out[up])
        met = np.flatnonzero(hit.face >= 0)
        seen = up[met]
        there = self._surface(hit, start[seen], out[seen], met)
        footprint = (spread * (distance[glossy][seen] + hit.t[met]) + alpha[seen] * hit.t[met]) / np.sqrt(
            there.cosine
        )
        result = np.zeros((m, 3), np.float32)
        result[seen] = f[seen, None] * self._diffuse(there, footprint)
        return result

    def geometry_maps(
        self, pose: np.ndarray, K: np.ndarray, size_hw: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the pixels' centres see, exactly.

        Returns:
            z-depth (h, w) in metres, 0 where nothing is hit; material kind (h, w) uint8; highlight (h, w) bool,
            the mirror ray of a glossy pixel meets a light; virtual depth (h, w) in metres, the z-depth at
            which that mirror image appears, 0 elsewhere and on curved surfaces, whose images are not there.
        """
        h, w = size_hw
        y, x = np.mgrid[:h, :w].reshape(2, -1)
        directions = _directions(pose, K, x, y)  # z is 1 in the camera: t is z-depth
        origin = pose[:3, 3].astype(np.float32)
        hit = self.trace(origin[None], directions)
        seen = np.flatnonzero(hit.face >= 0)
        s = self._surface(hit, origin, directions[seen], seen)
        kind = np.zeros(h * w, np.uint8)
        kind[seen] = s.kind
        highlight, virtual = np.zeros(h * w, bool), np.zeros(h * w, np.float32)
        glossy = np.flatnonzero(s.kind == GLOSSY)
        if len(glossy):
            normal, way = s.normal[glossy], directions[seen[glossy]]
            mirrored = way - 2 * _dot(way, normal)[:, None] * normal
            start = s.point[glossy] + 1e-4 * normal
            second = self.trace(start, mirrored.astype(np.float32))
            met = np.flatnonzero(second.face >= 0)
            there = self._surface(second, start[met], mirrored[met], met)
            pixels = seen[glossy[met[there.light]]]
            highlight[pixels] = True
            flat = self.geometry.flat[hit.face[pixels]]
            virtual[pixels] = np.where(flat, hit.t[pixels] + second.t[met[there.light]], 0)
        maps = hit.t.astype(np.float32), kind, highlight, virtual
        return tuple(a.reshape(h, w) for a in maps)


def fresnel(cosine: np.ndarray) -> np.ndarray:
    """Reflectance of a dielectric coat for unpolarised light, exact: Schlick's is a fifth too low at 60 degrees."""
    c = cosine.clip(0, 1)
    g = np.sqrt(IOR**2 - 1 + c**2)
    return 0.5 * ((g - c) / (g + c)) ** 2 * (1 + ((c * (g + c) - 1) / (c * (g - c) + 1)) ** 2)


def develop(exposed: np.ndarray) -> np.ndarray:
    """Exposed linear radiance to sRGB, uint8: nearly linear up to the mid tones, with a film's shoulder above."""
    mapped = 1 - np.exp(-1.25 * exposed)
    encoded = np.where(mapped <= 0.0031308, 12.92 * mapped, 1.055 * mapped ** (1 / 2.4) - 0.055)
    return (255 * encoded + 0.5).astype(np.uint8)


def _directions(pose: np.ndarray, K: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """World directions (n, 3) through pixel coordinates, of length such that z is 1 in the camera."""
    rays = np.stack(((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(x.shape)), axis=1)
    return (rays @ pose[:3, :3].T).astype(np.float32)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products of rows (n,); numpy's sum over an axis of three is ten times as slow."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _interpolate(values: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Values at vertices to points in triangles, (n, k)."""
    return sum(weights[:, k, None] * values[corners[:, k]] for k in range(3))


def _frame(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors (n, 3) at right angles to the normals and to each other (Duff et al. 2017)."""
    x, y, z = normal.T
    sign = np.where(z >= 0, 1.0, -1.0)
    a = -1 / (sign + z)
    b = x * y * a
    tangent = np.stack((1 + sign * x * x * a, sign * b, -sign * x), axis=1)
    return tangent, np.stack((b, sign + y * y * a, -y), axis=1)


def _sample_ggx(
    normal: np.ndarray, eye: np.ndarray, alpha: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reflected directions (n, 3) from the visible normals of GGX (Heitz 2018).

    Returns:
        directions; cosine between eye and half vector; Smith's shadowing of the way out. Fresnel's
        reflectance at that cosine times the shadowing is the weight of a sample.
    """
    tangent, bitangent = _frame(normal)
    local = np.stack([_dot(eye, axis) for axis in (tangent, bitangent, normal)], axis=1)
    local[:, 2] = local[:, 2].clip(0.02)
    stretched = local * np.stack((alpha, alpha, np.ones_like(alpha)), axis=1)
    stretched /= np.sqrt(_dot(stretched, stretched))[:, None]
    t1, t2 = _frame(stretched)
    r, phi = np.sqrt(u[:, 0]), 2 * np.pi * u[:, 1]
    p1, p2 = r * np.cos(phi), r * np.sin(phi)
    blend = 0.5 * (1 + stretched[:, 2])
    # Heitz's frame has its first axis in the plane of the surface: the warp is symmetric only there
    flat = np.stack((-stretched[:, 1], stretched[:, 0], np.zeros(len(u))), axis=1)
    size = np.sqrt(_dot(flat, flat))[:, None]
    t1 = np.where(size > 1e-6, flat / size.clip(1e-6), t1)
    t2 = np.cross(stretched, t1)
    p2 = (1 - blend) * np.sqrt((1 - p1**2).clip(0)) + blend * p2
    p3 = np.sqrt((1 - p1**2 - p2**2).clip(0))
    half = p1[:, None] * t1 + p2[:, None] * t2 + p3[:, None] * stretched
    half *= np.stack((alpha, alpha, np.ones_like(alpha)), axis=1)
    half[:, 2] = half[:, 2].clip(1e-6)
    half /= np.sqrt(_dot(half, half))[:, None]
    cosine = _dot(local, half).clip(0, 1)
    out = 2 * cosine[:, None] * half - local
    z = out[:, 2].clip(1e-3, 1)
    shadow = 2 / (1 + np.sqrt(1 + alpha**2 * (1 / z**2 - 1)))
    world = out[:, :1] * tangent + out[:, 1:2] * bitangent + out[:, 2:] * normal
    return world.astype(np.float32), cosine, np.where(out[:, 2] > 0, shadow, 0)
