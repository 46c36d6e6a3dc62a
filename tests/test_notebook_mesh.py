"""The interactive mesh: its size after simplification, and a page that needs no network."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest

from d3d.errors import DataError
from d3d.notebook import mesh
from d3d.reconstruction import Mesh

pytest.importorskip("open3d")
pytest.importorskip("trimesh")


def sheet(n: int = 60) -> Mesh:
    """A bent sheet of 2 (n - 1)² triangles, red at one end and blue at the other."""
    y, x = np.mgrid[0:n, 0:n] / (n - 1)
    vertices = np.stack((x, y, 0.1 * np.sin(6 * x)), axis=-1).reshape(-1, 3)
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = (part.ravel() for part in (i[:-1, :-1], i[:-1, 1:], i[1:, :-1], i[1:, 1:]))
    triangles = np.concatenate((np.stack((a, b, c), 1), np.stack((b, d, c), 1))).astype(np.int32)
    colors = np.stack((255 * x, np.zeros_like(x), 255 * (1 - x)), axis=-1).reshape(-1, 3).astype(np.uint8)
    return Mesh(vertices, triangles, colors)


def test_a_simplified_mesh_keeps_shape_and_colours() -> None:
    whole = sheet()
    small = mesh.decimated(whole, 800)
    assert 700 < len(small.triangles) <= 800 < len(whole.triangles)
    assert small.triangles.max() < len(small.vertices)
    x, _, z = small.vertices.T
    assert np.abs(z - 0.1 * np.sin(6 * x)).max() < 0.01
    assert np.abs(small.colors[:, 0] / 255 - x).max() < 0.1


def test_a_small_mesh_is_left_as_it_is_and_an_empty_one_refused() -> None:
    whole = sheet(10)
    assert mesh.decimated(whole) is whole
    with pytest.raises(DataError, match="has no triangle"):
        mesh.decimated(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)))


def test_the_page_holds_the_mesh_and_loads_nothing() -> None:
    page = mesh.page(sheet(), np.array((0.0, 0.0, 1.0)), 'mesh of "a < b"')
    assert len(page) < 1_500_000
    # "http" also stands in three.js' own texts; what a browser would fetch is in src and href
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", page)
    assert "import(" not in page
    element = mesh.iframe(page, 'mesh of "a < b"')
    assert element.count("<iframe") == 1
    inside = re.search(r'srcdoc="([^"]*)"', element)[1]
    assert html.unescape(inside) == page
