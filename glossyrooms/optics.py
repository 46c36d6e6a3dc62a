"""Reflection of a clear coat: Fresnel's reflectance, GGX microfacets, and vector algebra for many rays at once."""

from __future__ import annotations

import numpy as np

IOR = 1.5  # varnish, polished stone, glaze, plastic


def fresnel(cosine: np.ndarray) -> np.ndarray:
    """Return the exact reflectance of a dielectric coat for unpolarised light.

    Schlick's approximation is 20 % too low at 60 degrees.
    """
    c = cosine.clip(0, 1)
    g = np.sqrt(IOR**2 - 1 + c**2)
    return 0.5 * ((g - c) / (g + c)) ** 2 * (1 + ((c * (g + c) - 1) / (c * (g - c) + 1)) ** 2)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the dot products of rows, (n,). This is ten times as fast as numpy's sum over an axis of three."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def interpolate(values: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Interpolate values at vertices to points in triangles, (n, k)."""
    return sum(weights[:, k, None] * values[corners[:, k]] for k in range(3))


def tangent_frame(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two unit vectors (n, 3) orthogonal to the normals and to each other (Duff et al. 2017)."""
    x, y, z = normal.T
    sign = np.where(z >= 0, 1.0, -1.0)
    a = -1 / (sign + z)
    b = x * y * a
    tangent = np.stack((1 + sign * x * x * a, sign * b, -sign * x), axis=1)
    return tangent, np.stack((b, sign + y * y * a, -y), axis=1)


def sample_ggx(
    normal: np.ndarray, eye: np.ndarray, alpha: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample reflected directions (n, 3) from the visible normals of GGX (Heitz 2018).

    Returns:
        directions (n, 3); cosine (n,) between eye and half vector; Smith's shadowing (n,) of the outgoing direction.
        The weight of a sample is Fresnel's reflectance at that cosine times the shadowing.
    """
    tangent, bitangent = tangent_frame(normal)
    local = np.stack([dot(eye, axis) for axis in (tangent, bitangent, normal)], axis=1)
    local[:, 2] = local[:, 2].clip(0.02)
    stretched = local * np.stack((alpha, alpha, np.ones_like(alpha)), axis=1)
    stretched /= np.sqrt(dot(stretched, stretched))[:, None]
    t1, t2 = tangent_frame(stretched)
    r, phi = np.sqrt(u[:, 0]), 2 * np.pi * u[:, 1]
    p1, p2 = r * np.cos(phi), r * np.sin(phi)
    blend = 0.5 * (1 + stretched[:, 2])
    # the warp is symmetric only if the first axis lies in the plane of the surface
    flat = np.stack((-stretched[:, 1], stretched[:, 0], np.zeros(len(u))), axis=1)
    size = np.sqrt(dot(flat, flat))[:, None]
    t1 = np.where(size > 1e-6, flat / size.clip(1e-6), t1)
    t2 = np.cross(stretched, t1)
    p2 = (1 - blend) * np.sqrt((1 - p1**2).clip(0)) + blend * p2
    p3 = np.sqrt((1 - p1**2 - p2**2).clip(0))
    half = p1[:, None] * t1 + p2[:, None] * t2 + p3[:, None] * stretched
    half *= np.stack((alpha, alpha, np.ones_like(alpha)), axis=1)
    half[:, 2] = half[:, 2].clip(1e-6)
    half /= np.sqrt(dot(half, half))[:, None]
    cosine = dot(local, half).clip(0, 1)
    out = 2 * cosine[:, None] * half - local
    z = out[:, 2].clip(1e-3, 1)
    shadow = 2 / (1 + np.sqrt(1 + alpha**2 * (1 / z**2 - 1)))
    world = out[:, :1] * tangent + out[:, 1:2] * bitangent + out[:, 2:] * normal
    return world.astype(np.float32), cosine, np.where(out[:, 2] > 0, shadow, 0)
