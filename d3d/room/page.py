"""The page of a room: one HTML file beside its pictures, which needs no network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from d3d.datasets.capture.check import GOOD
from d3d.errors import counted, rounded
from d3d.evaluation import arch_name
from d3d.io import atomic
from d3d.metrics import HIGHER_IS_BETTER, METRICS
from d3d.notebook import mesh as viewer
from d3d.reconstruction import Mesh

TRIANGLES = 60_000  # of a mesh in the page: 2 MB
_METRIC_NAMES = dict(
    zip(METRICS, ("Abs Rel", "Sq Rel", "RMSE", "RMSE log", "δ<1.25", "δ<1.25²", "δ<1.25³"), strict=True)
)
_TIMES = {  # of stages
    "pretrain": "training the first network",
    "predict": "predicting its depth",
    "uncertainty": "predicting its uncertainty",
    "project": "fusing the mesh",
    "fuse": "making the labels",
    "distill": "training the second network",
}


def write_page(
    about: Mapping[str, Any], meshes: Mapping[str, Mesh], world_T_cams: np.ndarray, path: Path
) -> None:
    """Write the page.

    Args:
        about: of `d3d.room.facts.facts`, with ``shown``, the number of frames in the video.
        meshes: by "before" and "after".
        world_T_cams: poses (n, 4, 4) of the frames. The first view of the meshes is from above behind the cameras.
    """
    up = -world_T_cams[:, :3, 1].mean(axis=0)  # the world of COLMAP has no upright axis
    forward = world_T_cams[:, :3, 2].mean(axis=0)
    small = {name: viewer.decimated(mesh, TRIANGLES) for name, mesh in meshes.items()}
    views = {}
    for name, mesh in small.items():
        title = f"mesh of {about['name']} {name}"
        page = viewer.page(mesh, up, title, (480, 560), small["after"], forward)
        views[f"mesh_{name}"] = viewer.iframe(page, title)
    template = Template(resources.files("d3d.room").joinpath("page.html").read_text(encoding="utf-8"))
    text = template.substitute(
        name=html.escape(about["name"]),
        summary=html.escape(_summary(about)),
        relative=_relative(about),
        shown=about["shown"],
        scores=_scores(about),
        facts=_rows(_facts(about)),
        files=_rows(_files(about)),
        network_h=about["network_hw"][0],
        network_w=about["network_hw"][1],
        **views,
    )
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _summary(about: Mapping[str, Any]) -> str:
    minutes = max(1, round(sum(about["seconds"].values()) / 60))
    return (
        f"{about['frames']} frames; two trainings of the network {arch_name(about['arch'])} on this room alone; "
        f"{minutes} {'minute' if minutes == 1 else 'minutes'}. The method is 3D Distillation (Shi et al., ICCV 2023), "
        f"with the recipe {about['recipe']!r} of d3d."
    )


def _relative(about: Mapping[str, Any]) -> str:
    if about["unit"] == "metres":
        return ""
    return (
        '<p class="note"><b>Relative units.</b> Nothing in this capture tells its scale, so no length here is in '
        "metres. The scene is scaled so that its median depth is 2.5. Proportions are right: twice the number is twice "
        "the distance. To get metres, measure one distance and repeat the command with <code>--distance A B METRES"
        "</code> or <code>--camera-height METRES</code>, and with another <code>--run</code>.</p>"
    )


def _scores(about: Mapping[str, Any]) -> str:
    """The metrics before and after as a table; "" for a capture without depth."""
    scores = about["scores"]
    if not scores:
        return ""
    rows = []
    for metric in METRICS:
        better = "higher" if metric in HIGHER_IS_BETTER else "lower"
        values = "".join(
            f'<td class="number">{scores[name][metric]:.3f}</td>' for name in ("before", "after")
        )
        rows.append(
            f"<tr><th>{html.escape(_METRIC_NAMES[metric])}</th>{values}<td>{better} is better</td></tr>"
        )
    scaled = ""
    if about["scores_scale"] == "median":
        scaled = " Each predicted depth map is first scaled to the median of its measured depth map."
    return (
        f"<h2>Scores</h2><p>Compared with the measured depth of {int(scores['after']['images'])} frames in the "
        f"middle of the walk, which no training has seen.{scaled} A depth sensor errs on shiny surfaces, too: there "
        f"the scores say little. Errors are in {about['unit']}.</p><table><tr><th></th><th>before</th><th>after</th>"
        f"<th></th></tr>{''.join(rows)}</table>"
    )


def _facts(about: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    (h, w), (low, high, degrees) = about["image_hw"], about["sources"]
    unit = about["unit"]
    left = f"; {counted(about['left_out'], 'more was', 'more were')} left out" if about["left_out"] else ""
    yield "frames", f"{about['frames']} of {w}x{h} pixels{left}"
    if found := about["found_poses"]:
        error = f", mean reprojection error {found['error_px']:.2f} pixels" if "error_px" in found else ""
        yield "camera poses", f"found by COLMAP for {found['registered']} of {found['frames']} frames{error}"
    else:
        yield "camera poses", "from the capture"
    if about["pose_error"] is None:
        yield "check of the poses", "left out"
    else:
        yield (
            "check of the poses",
            f"photometric error {about['pose_error']:.3f} (right poses: below {GOOD:g})",
        )
    yield "scale", _scale(about)
    apart = f"{rounded(low, 4)} to {rounded(high, 4)} {unit} away, turned by at most {degrees:g} degrees"
    yield "training frames", f"{about['targets']}, each with two neighbours {apart}"
    if about["held_out"]:
        yield "held out for the scores", f"{about['held_out']} frames"
    yield "range of depth", f"{' to '.join(rounded(d, 4) for d in about['depth_range'])} {unit}"
    for name, one in about["networks"].items():
        yield (
            f"network {name}",
            f"{arch_name(about['arch'])}, {one['length']} of {one['batch_size']} images, start: {one['start']}",
        )
    for name, seconds in about["seconds"].items():
        yield f"time of {_TIMES.get(name.split('/')[0], name)}", f"{seconds:.0f} s"


def _scale(about: Mapping[str, Any]) -> str:
    factor = about["units_per_unit_of_poses"]
    if about["unit"] != "metres":
        return f"unknown: relative units; one unit of the poses is {rounded(factor, 4)} of them"
    return "metres" if factor == 1 else f"metres; one unit of the poses is {rounded(factor, 4)} m"


def _files(about: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    h, w = about["image_hw"]
    what = f"depth after of every frame, {w}x{h}, 16-bit PNG in {about['depth_png']}; 0: unknown, or farther than 65.5"
    yield '<a href="depth/">depth/</a>', what
    for name in ("before", "after"):
        file = f"mesh_{name}.ply"
        yield (
            f'<a href="{file}">{file}</a>',
            "mesh in colour, in the coordinates and the unit of the capture's own poses",
        )
    yield '<a href="video.mp4">video.mp4</a>', "image, depth before, depth after"
    yield '<a href="picture.png">picture.png</a>', "some frames"
    yield '<a href="room.json">room.json</a>', "the facts and scores of this page for programs"


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    """Rows of a table. The first text is HTML, the second is not."""
    return "".join(f"<tr><th>{first}</th><td>{html.escape(second)}</td></tr>" for first, second in pairs)
