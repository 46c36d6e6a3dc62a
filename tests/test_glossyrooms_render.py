"""The generator of GlossyRooms: light, reflections, masks and depth on scenes with a known answer; whole rooms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from helpers import children_of, is_alive
from scipy import ndimage

from d3d.datasets import find_triples, open_dataset
from d3d.errors import ConfigError, DataError, WriteError
from glossyrooms import camera, make, optics, render, rooms, textures
from glossyrooms.mesh import GLOSSY, LIGHT, MATT, MIRROR, Builder, Material
from glossyrooms.mitsuba_setup import load_denoiser, load_mitsuba
from glossyrooms.textures import Texture

HW = (48, 64)
K = camera.intrinsics(HW)


def plain(kind: int, value: float, roughness: float = 1e-3) -> Material:
    return Material("plain", kind, Texture(np.full((4, 4, 3), value, np.float32), (1.0, 1.0)), roughness)


def pose_at(x: float, y: float, z: float, pitch_deg: float = 90.0) -> np.ndarray:
    """Return the pose of a camera that looks along +y of the world and down by the pitch."""
    a = np.deg2rad(pitch_deg)
    forward, right = np.array([0, np.cos(a), -np.sin(a)]), np.array([1.0, 0, 0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack((right, np.cross(forward, right), forward), axis=1)
    pose[:3, 3] = x, y, z
    return pose


def box_room(b: Builder, floor: Material, walls: Material, size: float = 4.0, height: float = 3.0) -> None:
    s, h = size, height
    b.patch((0, 0, 0), (s, 0, 0), (0, s, 0), (0, 0, 1), floor)
    b.patch((0, 0, h), (s, 0, 0), (0, s, 0), (0, 0, -1), walls)
    for origin, u, facing in (
        ((0, 0, 0), (s, 0, 0), (0, 1, 0)),
        ((0, s, 0), (s, 0, 0), (0, -1, 0)),
        ((0, 0, 0), (0, s, 0), (1, 0, 0)),
        ((s, 0, 0), (0, s, 0), (-1, 0, 0)),
    ):
        b.patch(origin, u, (0, 0, h), facing, walls)


@pytest.fixture(scope="module")
def mi():
    return load_mitsuba(threads=1)


@pytest.fixture
def few_samples(monkeypatch):
    """Bake coarsely, for tests that do not depend on noise."""
    monkeypatch.setattr(render, "DIRECT_SAMPLES", 8)
    monkeypatch.setattr(render, "GATHER_RAYS", 4)
    monkeypatch.setattr(render, "BOUNCES", 1)


def test_in_a_furnace_everything_is_as_bright_as_the_walls(mi):
    """Inside walls that all glow with radiance 1 every matt point gets irradiance pi, also where it sees little."""
    b = Builder(np.random.default_rng(0))
    box_room(b, plain(LIGHT, 1.0), plain(LIGHT, 1.0))
    with b.at(2, 2, 1.5):
        b.cushion((0.3, 0.3, 0.3), plain(MATT, 0.5), 1.0)
    renderer = render.Renderer(mi, b.finish(), 0)
    received = renderer._direct(np.random.default_rng(0))
    ball = np.linalg.norm(renderer.geometry.vertices - [2, 2, 1.5], axis=1) < 0.31
    assert received[ball].mean() == pytest.approx(1, abs=0.02)


def test_light_between_matt_walls_sums_to_the_geometric_series(mi):
    """In a closed room of albedo a the light that bounced is a / (1 - a) of the direct light, on average."""
    b = Builder(np.random.default_rng(0))
    albedo = 0.5
    box_room(b, plain(MATT, albedo), plain(MATT, albedo))
    b.patch((1.7, 1.7, 2.99), (0.6, 0, 0), (0, 0.6, 0), (0, 0, -1), plain(LIGHT, 20.0))
    g = b.finish()
    renderer = render.Renderer(mi, g, 0)
    renderer.bake()
    direct = renderer._direct(np.random.default_rng(1))
    corner_area = np.bincount(g.faces.ravel(), np.repeat(renderer._area / 3, 3), len(g.vertices))
    matt = corner_area * (np.bincount(g.faces.ravel(), np.repeat(g.material == 2, 3), len(g.vertices)) == 0)
    total = (matt @ renderer._irradiance)[0] / (matt @ direct)[0]
    # two bounces of the series: 1 + a + a^2, less what the lamp itself takes
    assert total == pytest.approx(1 + albedo + albedo**2, rel=0.04)


def test_depth_material_and_highlights_are_where_geometry_puts_them(mi):
    """A lamp on the ceiling over a polished floor: its mirror image lies as deep below the floor as it hangs above."""
    b = Builder(np.random.default_rng(0))
    box_room(b, plain(GLOSSY, 0.3), plain(MATT, 0.5))
    b.patch((1.5, 2.5, 2.98), (1.0, 0, 0), (0, 0.5, 0), (0, 0, -1), plain(LIGHT, 20.0))
    renderer = render.Renderer(mi, b.finish(), 0)
    pose = pose_at(2.0, 1.0, 1.5, pitch_deg=60)
    depth, kind, highlight, virtual = renderer.geometry_maps(pose, K, HW)
    y, x = np.mgrid[: HW[0], : HW[1]]
    rays = np.stack(((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(HW)), axis=-1) @ pose[:3, :3].T
    floor = kind == GLOSSY
    assert floor.mean() > 0.5
    np.testing.assert_allclose(depth[floor], (1.5 / -rays[..., 2])[floor], atol=1e-4)
    # where the straight rays meet the lamp's mirror image at z = -2.98
    t = (1.5 + 2.98) / -rays[..., 2].clip(max=-1e-6)
    at = pose[:3, 3] + t[..., None] * rays
    image = floor & (at[..., 0] > 1.5) & (at[..., 0] < 2.5) & (at[..., 1] > 2.5) & (at[..., 1] < 3.0)
    assert image.sum() > 20
    np.testing.assert_array_equal(highlight, image)
    np.testing.assert_allclose(virtual[image], t[image], atol=1e-3)
    assert (virtual[~image] == 0).all()


def test_a_polished_floor_shows_the_lamp_by_fresnel(mi):
    """The reflection's radiance is the lamp's times the reflectance at that angle."""
    b = Builder(np.random.default_rng(0))
    box_room(b, plain(GLOSSY, 0.0), plain(MATT, 0.0), size=8.0)
    b.patch((0, 5.0, 2.98), (8.0, 0, 0), (0, 2.9, 0), (0, 0, -1), plain(LIGHT, 1.0))
    renderer = render.Renderer(mi, b.finish(), 0)
    pose = pose_at(4.0, 1.0, 1.5, pitch_deg=40)
    radiance = renderer.radiance(pose, K, HW, 0)[..., 0]
    _, _, highlight, _ = renderer.geometry_maps(pose, K, HW)
    y, x = np.nonzero(ndimage.binary_erosion(highlight, iterations=2))  # its edges mix with what is beside it
    rays = (
        np.stack(((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(len(x))), axis=-1)
        @ pose[:3, :3].T
    )
    cosine = -rays[:, 2] / np.linalg.norm(rays, axis=1)
    expected = optics.fresnel(cosine)
    assert len(x) > 100
    close = np.isclose(radiance[y, x], expected, rtol=0.02)
    assert close.mean() > 0.99  # GGX has long tails: now and then one of a pixel's nine rays goes elsewhere


def test_fresnel_at_known_angles():
    """0.04 at normal incidence, 0.0892 at 60 degrees (n = 1.5, unpolarised; Born and Wolf), 1 at grazing incidence."""
    np.testing.assert_allclose(optics.fresnel(np.array([1.0, 0.5, 0.0])), [0.04, 0.0892, 1.0], atol=1e-4)


def test_ggx_samples_spread_with_roughness_about_the_mirror_direction():
    rng = np.random.default_rng(0)
    normal = np.broadcast_to([0.0, 0, 1], (20000, 3))
    eye = np.broadcast_to(np.array([0.6, 0, 0.8]), (20000, 3))
    spreads = []
    for alpha in (1e-3, 0.02, 0.1):
        out, _, weight = optics.sample_ggx(normal, eye, np.full(20000, alpha), rng.random((20000, 2)))
        np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(
            out.mean(axis=0)[:2] / out.mean(axis=0)[2], [-0.75, 0], atol=2 * alpha**2 + 0.02
        )
        # a share of about alpha^2 / tan^2 of the half vectors leans so far that its ray would go below the surface
        assert weight.mean() == pytest.approx(1, abs=2 * alpha**2 + 0.002)
        spreads.append(np.median(np.linalg.norm(out - [-0.6, 0, 0.8], axis=1)))
    assert spreads[0] < 0.005 < spreads[1] < 0.1 < spreads[2]


def test_mirrors_show_the_room_and_are_marked(mi, few_samples):
    b = Builder(np.random.default_rng(0))
    box_room(b, plain(MATT, 0.3), plain(MATT, 0.3))
    b.patch((1, 3.99, 0.5), (2, 0, 0), (0, 0, 2), (0, -1, 0), plain(MIRROR, 0.8))
    b.patch((1.5, 0.01, 1.0), (1, 0, 0), (0, 0, 1), (0, 1, 0), plain(LIGHT, 5.0))
    renderer = render.Renderer(mi, b.finish(), 0)
    pose = pose_at(2.0, 2.0, 1.5, pitch_deg=0)
    radiance = renderer.radiance(pose, K, HW, 0)[..., 0]
    depth, kind, highlight, _ = renderer.geometry_maps(pose, K, HW)
    middle = radiance[HW[0] // 2, HW[1] // 2]
    assert kind[HW[0] // 2, HW[1] // 2] == MIRROR
    assert depth[HW[0] // 2, HW[1] // 2] == pytest.approx(1.99, abs=1e-3)
    assert middle == pytest.approx(5.0 * render.MIRROR_REFLECTANCE, rel=0.02)
    assert not highlight.any()  # a mirror's images are no highlights: they are a list of their own


def test_scalar_and_llvm_trace_the_same(mi, tmp_path):
    if mi.variant().startswith("scalar"):
        pytest.skip("this machine has no LLVM that mitsuba works with")
    code = (
        "import numpy as np, sys\n"
        "from glossyrooms import camera, render, rooms, tracing\n"
        "from glossyrooms.mitsuba_setup import load_mitsuba\n"
        "room = rooms.build(3)\n"
        "tracer = tracing.Tracer(load_mitsuba(sys.argv[1], threads=1), room.geometry)\n"
        "pose = camera.walk(3, 2, room.focus, room.radius)[0]\n"
        "way = render._directions(pose, camera.intrinsics((24, 32)), *np.mgrid[:32, :24].reshape(2, -1))\n"
        "hit = tracer(pose[None, :3, 3].astype(np.float32), way)\n"
        "np.savez(sys.argv[2], t=hit.t, face=hit.face, bary=hit.bary)\n"
    )
    found = []
    for variant in ("scalar_rgb", "llvm_ad_rgb"):
        path = f"{variant}.npz"
        subprocess.run([sys.executable, "-c", code, variant, path], check=True, cwd=tmp_path)
        found.append(np.load(tmp_path / path))
    a, b = found
    same = a["face"] == b["face"]
    assert same.mean() > 0.995  # an edge may fall either way
    np.testing.assert_allclose(a["t"][same], b["t"][same], rtol=1e-4)
    np.testing.assert_allclose(a["bary"][same], b["bary"][same], atol=1e-3)


@pytest.mark.parametrize("floor", rooms.FLOORS)
def test_a_room_follows_from_its_seed(floor):
    one, two, other = rooms.build(11, floor), rooms.build(11, floor), rooms.build(12, floor)
    np.testing.assert_array_equal(one.geometry.vertices, two.geometry.vertices)
    for a, b in zip(one.geometry.materials, two.geometry.materials, strict=True):
        np.testing.assert_array_equal(a.texture.image, b.texture.image)
    assert one.spec == two.spec != other.spec
    kinds = {m.kind for m in one.geometry.materials}
    assert LIGHT in kinds
    assert (MIRROR in kinds) == (floor == "mirror")
    assert one.geometry.materials[0].kind == (MATT if floor == "matt" else GLOSSY)  # the floor comes first


def test_every_surface_of_a_room_is_sound():
    g = rooms.build(5).geometry
    assert g.faces.min() == 0
    assert g.faces.max() == len(g.vertices) - 1
    np.testing.assert_allclose(np.linalg.norm(g.normals, axis=1), 1, atol=1e-4)
    for m in g.materials:
        assert np.isfinite(m.texture.image).all()
        assert m.texture.image.min() >= 0
        if m.kind in (MATT, GLOSSY):
            assert m.texture.image.max() <= textures.MAX_ALBEDO + 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_walks_satisfy_the_triple_rule(seed):
    room = rooms.build(seed)
    poses = camera.walk(seed, 80, room.focus, room.radius)
    assert len(find_triples(poses, every=1)) >= 0.95 * 78
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1, atol=1e-9)
    position = poses[:, :3, 3]
    assert (position > 0.3).all()
    assert (position[:, :2] < np.array(room.size[:2]) - 0.3).all()
    assert (poses[:, 2, 2] < 0).all()  # looks down


def test_seeds_are_never_shared():
    seeds = [s for split in make.SPLITS for k in range(50) for s in make.seeds_of(split, k)]
    assert len(seeds) == len(set(seeds))


def tiny_job(tmp_path, split="train", **settings):
    s = make.Settings(**{"frames": 8, "height": 48, "width": 64, **settings})
    return make.Job(split, 0, str(tmp_path), s, True, "auto")


@pytest.fixture
def any_room(monkeypatch):
    """Accept the first candidate, since eight frames may show no highlight."""
    monkeypatch.setattr(make, "fault", lambda *_: "")


def test_the_same_room_is_the_same_bytes(tmp_path, few_samples, any_room):
    written = []
    for folder in ("a", "b"):
        job = tiny_job(tmp_path / folder)
        make.make_room(job)
        written.append(job.path.read_bytes())
    assert written[0] == written[1]
    assert make.is_done(job)
    with pytest.raises(ConfigError, match="frames is 8, not 9"):
        make.is_done(tiny_job(tmp_path / "b", frames=9))
    job.path.write_bytes(b"no archive")
    with pytest.raises(ConfigError, match="not a room of this generator"):
        make.is_done(job)


def test_rejected_candidates_are_counted_and_an_impossible_room_is_an_error(
    tmp_path, few_samples, monkeypatch
):
    reasons = iter(["too few highlights", "triple rule", "too few highlights", ""])
    monkeypatch.setattr(make, "fault", lambda *_: next(reasons))
    job = tiny_job(tmp_path)
    assert make.make_room(job) == {"too few highlights": 2, "triple rule": 1}
    with zipfile.ZipFile(job.path) as archive:
        scene = json.loads(archive.read("scene.json"))
    assert scene["seed"] == 3
    assert scene["spec"]["rejected"] == {"too few highlights": 2, "triple rule": 1}
    monkeypatch.setattr(make, "fault", lambda *_: "too few highlights")
    monkeypatch.setattr(make, "ATTEMPTS", 2)
    with pytest.raises(DataError, match=r"none of 2 seeds fits.*too few highlights.*2"):
        make.make_room(tiny_job(tmp_path / "other"))


def test_candidates_are_judged_by_what_their_camera_sees(mi):
    room = rooms.build(0)
    poses = camera.walk(0, 40, room.focus, room.radius)
    hw = (36, 48)
    small = camera.intrinsics(hw)
    still = np.repeat(poses[:1], 40, axis=0)
    assert make.fault(mi, room, still, small, hw) == "triple rule"
    low = poses.copy()
    low[:, 2, 3] = 0.2
    assert make.fault(mi, room, low, small, hw) == "camera too near"
    upwards = poses.copy()
    upwards[:, :3, :3] = upwards[:, :3, :3] @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert make.fault(mi, room, upwards, small, hw) == "too few highlights"


def test_a_failed_write_leaves_no_half_room(tmp_path, few_samples, any_room, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(WriteError, match="the disk is full"):
        make.make_room(tiny_job(tmp_path))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.slow
def test_the_command_makes_a_set_goes_on_after_a_kill_and_leaves_no_process(tmp_path):
    options = "--train 1 --val 1 --test 0 --frames 20 --width 64 --height 48 --workers 2"
    command = [sys.executable, "-m", "glossyrooms.make", "--out", str(tmp_path / "set"), *options.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 60
    while len(children := children_of(first.pid)) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    assert len(children) >= 2
    time.sleep(2)  # the workers are at work
    first.send_signal(signal.SIGKILL)
    first.wait()
    end = time.monotonic() + 20
    while any(is_alive(pid) for pid in children) and time.monotonic() < end:
        time.sleep(0.2)
    assert not [pid for pid in children if is_alive(pid)], "workers go on after their parent was killed"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "2 rooms" in done.stdout
    assert "rejected" in done.stdout
    dataset = open_dataset("glossyrooms", tmp_path / "set")
    assert len(dataset.scenes("train")[0]) == len(dataset.scenes("val")[0]) == 20
    assert (tmp_path / "set" / "contact_sheet.png").is_file()
    before = {p: p.read_bytes() for p in (tmp_path / "set").rglob("*") if p.is_file()}
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "2 of 2 rooms exist already" in again.stdout
    assert before == {p: p.read_bytes() for p in (tmp_path / "set").rglob("*") if p.is_file()}


def test_bad_options_are_one_line(capsys):
    assert make.main(["--train", "0", "--val", "0", "--test", "0"]) == 1
    assert make.main(["--width", "8"]) == 1
    assert make.main(["--variant", "no_such_variant", "--out", "nowhere"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)


def test_the_rooms_that_ship_are_what_the_generator_makes(mi):
    """Compares images, not bytes, since another machine may round differently."""
    scene = open_dataset("glossyrooms").scenes("val")[0]
    room = rooms.build(scene.seed, scene.spec["floor"])
    poses = camera.walk(scene.seed, len(scene), room.focus, room.radius)
    np.testing.assert_allclose(poses, scene.world_T_cams, atol=1e-6)
    renderer = render.Renderer(mi, room.geometry, scene.seed)
    renderer.bake()
    renderer.expose(poses[:: make.LOOK_EVERY], camera.intrinsics((72, 96)), (72, 96))
    denoise = load_denoiser(threads=1, quality="balanced")
    for i in (10, 60):
        depth, kind, highlight, _ = renderer.geometry_maps(poses[i], scene.K(i), scene.size_hw)
        assert (np.abs(depth - scene.depth(i)) < 2e-3).mean() > 0.999
        assert (kind == scene.material(i)).mean() > 0.999
        assert (highlight == scene.highlight_mask(i)).mean() > 0.999
        image = renderer.image(poses[i], scene.K(i), scene.size_hw, i, denoise)
        # what is left is JPEG
        assert np.abs(image.astype(float) - scene.image(i)).mean() < 4
