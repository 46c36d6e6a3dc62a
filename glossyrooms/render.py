"""Render a room: baked diffuse light, traced reflections, exact depth and masks.

Diffuse light does not depend on the viewpoint. It is computed once per room, at vertices twelve centimetres apart:
direct light by sampling the lights, then two bounces by gathering. A frame traces nine rays per pixel and one more ray
from every glossy surface, drawn from its GGX distribution and weighted by Fresnel's reflectance. The place and the
brightness of every mirror image therefore follow from the materials alone. `glossyrooms.reference` compares the
result with mitsuba's path tracer.

mitsuba traces the rays and numpy shades them. On a machine without LLVM, mitsuba's scalar variant makes the same
images more slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from glossyrooms.mesh import GLOSSY, LIGHT, MIRROR, Geometry
from glossyrooms.optics import dot, fresnel, interpolate, sample_ggx, tangent_frame
from glossyrooms.tracing import Hits, TextureStack, Tracer

MIRROR_REFLECTANCE = 0.88
SUBPIXELS = 3  # per side of a pixel
DIRECT_SAMPLES, GATHER_RAYS, BOUNCES = 128, 96, 2  # rays in a square grid of strata: 90 of 96
NEAREST_LIGHT_M = 0.12  # a lamp is not a point: closer points get the light of this distance
MIDDLE_GREY = 0.20  # geometric mean of the luminance after exposure


@dataclass(frozen=True)
class Surface:
    """The n points that rays hit. Normals point to the rays' origins; ``light`` is false on the back of a light."""

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
    """Renders frames of a room. `image` needs `bake` (five seconds per room) and `expose`; `geometry_maps` does not."""

    def __init__(self, mi: ModuleType, geometry: Geometry, seed: int, quick: bool = False) -> None:
        """Prepare a room.

        Args:
            mi: mitsuba with its variant set, from `load_mitsuba`.
            geometry: the room.
            seed: seed of the sampling.
            quick: half of the time: bake with half of the rays and one bounce less, and trace four rays per pixel
                instead of nine.
        """
        self.geometry, self.seed, self._quick = geometry, seed, quick
        self.exposure = 1.0  # until `expose`
        self.trace = Tracer(mi, geometry)
        self._textures = TextureStack([m.texture for m in geometry.materials])
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
        """Compute irradiance / pi (n, 3) at the vertices: the radiance of a white matt surface there."""
        rng = np.random.default_rng([self.seed, 3])
        direct = self._smooth(self._direct(rng))
        self._irradiance = direct
        for _ in range(BOUNCES - self._quick):
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
        # half by power, half by area: a dim window must get more than three rays
        chance = 0.5 * power / power.sum() + 0.5 * self._area[lights] / self._area[lights].sum()
        cumulative = np.cumsum(chance)
        n, samples = len(g.vertices), DIRECT_SAMPLES // (1 + self._quick)
        for k in range(samples):
            pick = (k + rng.random(n)) / samples
            chosen = np.searchsorted(cumulative, pick * cumulative[-1]).clip(max=len(lights) - 1)
            face = lights[chosen]
            u, v = rng.random((2, n))
            over = u + v > 1
            u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
            weights = np.stack((1 - u - v, u, v), axis=1).astype(np.float32)
            point = interpolate(g.vertices, g.faces[face], weights)
            uv = interpolate(g.uv, g.faces[face], weights)
            way = point - g.bake_points
            squared = dot(way, way).clip(1e-9)
            length = np.sqrt(squared)
            at_light = -dot(way, self._facing[face]) / length
            here = dot(way, g.normals) / length
            sees = (at_light > 0) & (here > 0)
            hit = self.trace(g.bake_points[sees], way[sees])
            sees[sees] = (hit.face < 0) | (hit.t > 0.995)
            radiance = self._textures(g.material[face], uv, np.full(n, 1.0))
            factor = (
                here * at_light / np.maximum(squared, NEAREST_LIGHT_M**2) * self._area[face] / chance[chosen]
            )
            result += np.where(sees, factor / (np.pi * samples), 0)[:, None] * radiance
        return result

    def _gathered(self, rng: np.random.Generator) -> np.ndarray:
        """Gather the light from surfaces other than lights."""
        g, n = self.geometry, len(self.geometry.vertices)
        tangent, bitangent = tangent_frame(g.normals)
        result = np.zeros((n, 3))
        rays = GATHER_RAYS // (1 + self._quick)
        strata = int(np.sqrt(rays))
        for i in range(strata):
            for j in range(rays // strata):
                u = (i + rng.random(n)) / strata
                angle = 2 * np.pi * (j + rng.random(n)) / (rays // strata)
                r = np.sqrt(u)
                x, y, z = (r * np.cos(angle))[:, None], (r * np.sin(angle))[:, None], np.sqrt(1 - u)[:, None]
                way = x * tangent + y * bitangent + z * g.normals
                hit = self.trace(g.bake_points, way)
                seen = np.flatnonzero(hit.face >= 0)
                surface = self._surface(hit, g.bake_points[seen], way[seen].astype(np.float32), seen)
                footprint = 0.3 * hit.t[seen]
                radiance = self._diffuse(surface, footprint)
                glossy = surface.kind == GLOSSY
                # treat the coat's reflection as matt: its direction matters little after a bounce
                radiance[glossy] += 0.09 * self._light_at(surface)[glossy]
                radiance[surface.kind == LIGHT] = 0
                result[seen] += radiance
        return result / (strata * (rays // strata))

    def _smooth(self, values: np.ndarray) -> np.ndarray:
        """Average each vertex with the mean of its neighbours in the same surface, which halves the noise."""
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
        """Return the surfaces hit by the rays with indices ``which``, given their origins and directions."""
        g = self.geometry
        face = hit.face[which]
        b = hit.bary[which]
        weights = np.stack((1 - b[:, 0] - b[:, 1], b[:, 0], b[:, 1]), axis=1).astype(np.float32)
        corners = g.faces[face]
        normal = interpolate(g.normals, corners, weights)
        normal /= np.sqrt(dot(normal, normal)).clip(1e-9)[:, None]
        length = np.sqrt(dot(directions, directions))
        cosine = -dot(normal, directions) / length
        back = dot(self._facing[face], directions) > 0
        normal[back] *= -1
        # a smooth normal may look away from the viewer at a silhouette
        cosine = np.maximum(np.where(back, -cosine, cosine), 0.02)
        material = g.material[face]
        kind = self._kind[material]
        point = origins + hit.t[which, None] * directions
        return Surface(point, normal, cosine, face, material, kind, (kind == LIGHT) & ~back, corners, weights)

    def _light_at(self, s: Surface) -> np.ndarray:
        return interpolate(self._irradiance, s.corners, s.weights)

    def _texture_at(self, s: Surface, footprint_m: np.ndarray) -> np.ndarray:
        uv = interpolate(self.geometry.uv, s.corners, s.weights)
        return self._textures(s.material, uv, footprint_m / self._texel_m[s.face])

    def _diffuse(self, s: Surface, footprint_m: np.ndarray) -> np.ndarray:
        """Return radiance (n, 3) without reflections of the coat: texture times light, or a light's radiance."""
        texture = self._texture_at(s, footprint_m)
        radiance = texture * self._light_at(s)
        # Light that passes through the coat, as in mitsuba's plastic: 1 / (n^2 (1 - 0.596)) = 1.1, where 0.596 is
        # reflected back inside, times the 0.908 of diffuse light that enters, is 1; times 1 - F on the way out
        through = 1 - fresnel(s.cosine)
        radiance *= np.where(s.kind == GLOSSY, through, 1)[:, None]
        radiance[s.kind == MIRROR] = 0
        lit = s.kind == LIGHT
        radiance[lit] = np.where(s.light[lit, None], texture[lit], 0.02)
        return radiance

    # frames

    def expose(self, poses_n44: np.ndarray, K: np.ndarray, size_hw: tuple[int, int]) -> None:
        """Set the exposure of the whole room from the mean luminance of some of its frames."""
        logs = []
        for pose in poses_n44:
            base, coat, _, _ = self._layers(pose, K, size_hw, np.random.default_rng(0), 1)
            logs.append(np.log(np.maximum((base + coat).mean(axis=-1), 1e-3)).mean())
        self.exposure = MIDDLE_GREY / float(np.exp(np.mean(logs)))

    def image(
        self,
        pose: np.ndarray,
        K: np.ndarray,
        size_hw: tuple[int, int],
        index: int,
        denoise,
        photograph: Callable[[np.ndarray, int], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Render a frame as uint8 sRGB (h, w, 3), by ``photograph`` (radiance, index) or by `develop`.

        Only the reflections are noisy, so only the reflections are denoised.
        """
        rng = np.random.default_rng([self.seed, 4, index])
        base, coat, share, normal = self._layers(pose, K, size_hw, rng, SUBPIXELS - self._quick)
        if (coat > 0).any():
            coat = denoise(coat, np.repeat(share[..., None], 3, axis=-1), normal)
        exposed = self.exposure * (base + coat)
        return photograph(exposed, index) if photograph else develop(exposed)

    def radiance(self, pose: np.ndarray, K: np.ndarray, size_hw: tuple[int, int], index: int) -> np.ndarray:
        """Return exposed linear radiance (h, w, 3) before denoising, for the comparison with the path tracer."""
        base, coat, _, _ = self._layers(
            pose, K, size_hw, np.random.default_rng([self.seed, 4, index]), SUBPIXELS
        )
        return self.exposure * (base + coat)

    def _layers(
        self, pose: np.ndarray, K: np.ndarray, size_hw: tuple[int, int], rng: np.random.Generator, side: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return base radiance and reflections (h, w, 3), the share of glossy samples (h, w) and normals (h, w, 3)."""
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
        length = np.sqrt(dot(directions[seen], directions[seen]))
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
        """Return the radiance (m, 3) that the surfaces ``glossy`` reflect to the eye, from one ray each."""
        normal, material = s.normal[glossy], s.material[glossy]
        towards = directions[glossy] / np.sqrt(dot(directions[glossy], directions[glossy]))[:, None]
        alpha = np.where(s.kind[glossy] == MIRROR, 1e-3, self._roughness[material])
        # stratify the unit square over the samples of a pixel, in a random order for each pixel
        m = len(glossy)
        side = int(np.sqrt(n))
        k = (subpixel[glossy] + rng.integers(n)) % n
        u = np.stack(((k % side + rng.random(m)) / side, (k // side + rng.random(m)) / side), axis=1)
        out, half_cosine, shadow = sample_ggx(normal, -towards, alpha, u)
        f = np.where(s.kind[glossy] == MIRROR, MIRROR_REFLECTANCE, fresnel(half_cosine)) * shadow
        start = s.point[glossy] + 1e-4 * normal
        up = np.flatnonzero(dot(out, normal) > 1e-3)
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
        """Return exact maps at the centres of the pixels.

        Returns:
            z-depth (h, w) in metres, 0 where nothing is hit; kind of material (h, w) uint8; highlight (h, w) bool,
            true where the mirror ray of a glossy pixel meets a light; virtual depth (h, w) in metres, the z-depth of
            that mirror image, 0 elsewhere and on curved surfaces, whose mirror images lie at other depths.
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
            mirrored = way - 2 * dot(way, normal)[:, None] * normal
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


def encode(exposed: np.ndarray) -> np.ndarray:
    """Map exposed linear radiance to sRGB in [0, 1]: nearly linear up to the mid tones, compressed above them."""
    mapped = 1 - np.exp(-1.25 * exposed)
    return np.where(mapped <= 0.0031308, 12.92 * mapped, 1.055 * mapped ** (1 / 2.4) - 0.055)


def develop(exposed: np.ndarray) -> np.ndarray:
    """Map exposed linear radiance to sRGB uint8."""
    return (255 * encode(exposed) + 0.5).astype(np.uint8)


def _directions(pose: np.ndarray, K: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return world directions (n, 3) through pixel coordinates, scaled so that z is 1 in the camera."""
    rays = np.stack(((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(x.shape)), axis=1)
    return (rays @ pose[:3, :3].T).astype(np.float32)
