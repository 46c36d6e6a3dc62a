"""Write the model cards and the table of the networks that ship. All values come from the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d3d import io
from d3d.evaluation import arch_name
from d3d.models.shipped import Shipped, read_manifest

_IN_TABLE = ("all", "Reflection", "NoReflection", "highlight pixels")  # of the table over all networks
_STORED = {
    "int8": "8 bits a weight with a scale for each output channel",
    "float16": "half precision",
    "float32": "single precision",
}
METRICS_SHOWN = {"abs_rel": "Abs Rel ↓", "sq_rel": "Sq Rel ↓", "rmse": "RMSE ↓", "a1": "δ < 1.25 ↑"}

_CARD = """---
license: {licence_id}
library_name: d3d
pipeline_tag: depth-estimation
tags: [depth-estimation, monocular-depth]
---

# {name}

{about}. One RGB image in, depth in metres out.

```python
import d3d

model = d3d.load_model("{name}")
depth_m = d3d.predict(model, image)  # image: uint8 (h, w, 3)
```

| | |
| --- | --- |
{properties}

## Training

| | |
| --- | --- |
{training}

## Scores

Scores of this file on scenes that no training has seen. Depth is absolute: no scale is fitted to the truth. Each
number is a mean over images. "Highlight pixels" are pixels where a glossy surface mirrors a light. The network computed
in {precision}.

{scores}

## Error added by compression

{cost}

## Limits

- The network was trained on the {scenes} training scenes of `{dataset}` only, at {width}x{height} pixels. These scores
  contain no photographs.
- The paper's networks were trained and tested on ScanNet. Do not compare these scores with the paper's tables.
- Depth is metric for a camera like that of the training. For another camera, give `d3d.predict` its focal length in
  pixels (`focal_px`). d3d then resizes the image so that its focal length is that of the training.
- Depth lies between {low:g} and {high:g} m. The network does not handle mirrors, glass or outdoor scenes.
- A prediction comes from one image and has no uncertainty. Do not use it to control a robot or a vehicle.

## Licence

{licence}
"""

_README = """# Networks that ship

`python -m d3d ship` makes these networks, their cards, this page and `manifest.json`: see
[docs/networks.md](../../docs/networks.md).

```python
import d3d

d3d.models.available()                         # names and descriptions
model = d3d.load_model("{first}")
depth_m = d3d.predict(model, image)            # metres
```

The table shows Sq Rel (lower is better) of each file on scenes that no training has seen. Reflection and NoReflection
are lists of images. Highlight pixels are pixels where a glossy surface mirrors a light. Each name links to the model
card with data, command, commit, all scores, limits and licence.

{table}

All files together have {total:.1f} MB. Before d3d uses a file, it compares its sha256 with `manifest.json`.
"""


def write_cards(folder: Path) -> list[Path]:
    """Write the card of each network in a folder, and README.md with the table. Return the paths."""
    networks = dict(sorted(read_manifest(folder).networks.items()))
    texts = {f"{name}.md": card(name, entry) for name, entry in networks.items()}
    texts["README.md"] = readme(networks)
    for name, text in texts.items():
        with io.atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def card(name: str, entry: Shipped) -> str:
    """Return the model card of a network: Markdown with metadata for the Hugging Face hub."""
    f = entry.facts
    (height, width), (low, high) = f["image_hw"], f["depth_m"]
    data = f["data"]
    return _CARD.format(
        name=name,
        about=entry.about,
        licence_id=f["licence"].lower(),
        properties=_lines(
            {
                "network": f"{arch_name(entry.arch)} (`{entry.arch}`), {f['parameters'] / 1e6:.1f} million parameters",
                "file": f"{entry.bytes / 1e6:.1f} MB, {_STORED[entry.stored_as]}; sha256 `{entry.sha256}`",
                "trained at": f"{width}x{height} pixels (width x height)",
                "camera": f"focal lengths {f['focal_px'][0]:g} and {f['focal_px'][1]:g} pixels at that size, "
                f"horizontal field of view {f['field_of_view_deg']:g} degrees",
                "depth": f"{low:g} to {high:g} m, along the camera's axis",
            }
        ),
        training=_lines(_training(entry)),
        scores=_scores(f["scores"]),
        cost=_cost(f["cost"], entry.stored_as),
        precision=f["precision"],
        scenes=data["scenes"],
        dataset=data["dataset"],
        width=width,
        height=height,
        low=low,
        high=high,
        licence=_licence(entry),
    )


def _training(entry: Shipped) -> dict[str, str]:
    f = entry.facts
    made, data, initial = f["training"], f["data"], entry.training["initial"]
    schedule = entry.training["settings"]["training"]
    length = f"{schedule['steps']} steps" if schedule["steps"] is not None else f"{schedule['epochs']} epochs"
    source = initial["source"] + (f", sha256 `{initial['sha256']}`" if initial["sha256"] else " values")
    lines = {
        "data": f"`{data['dataset']}`: {data['scenes']} scenes, {data['triples']} triples, licence {data['licence']}",
        "result": f"`{entry.training['result']}` of profile {made['profile']}",
    }
    if f["labels"] is not None:
        fusion = ", ".join(
            f"{name} {value}" for name, value in f["labels"]["fusion"].items() if value is not None
        )
        lines["labels"] = f"`{f['labels']['labels']}`, round {f['labels']['round']}; {fusion}"
    commit = made.get("git") or "not in a repository"
    return lines | {
        "command": f"`{made['command']}`",
        "commit": f"`{commit}`{', with changes that were not committed' if made.get('dirty') else ''}",
        "length": f"{length} of {schedule['batch_size']} images, learning rate {schedule['learning_rate']:g}, "
        f"{schedule['precision']}",
        "seed": str(made["seed"]),
        "initial weights": source,
        "versions": ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        "machine": f"{made['machine']['device']}, {made['machine']['cores']} cores, {made['seconds']:.0f} s",
        "time": made["time"],
    }


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    head = f"| split | of | images | {' | '.join(METRICS_SHOWN.values())} |"
    lines = [
        f"| {row['split']} | {row['of']} | {row['images']} | {' | '.join(f'{row[m]:.3f}' for m in METRICS_SHOWN)} |"
        for row in scores
    ]
    return "\n".join([head, f"| --- | --- | ---: |{' ---: |' * len(METRICS_SHOWN)}", *lines])


def _cost(cost: Mapping[str, Any], stored_as: str) -> str:
    before = cost["float32"]
    tried = [
        f"{_STORED[kind]} {cost[kind]:.4g} ({cost[kind] / before - 1:+.2%})"
        for kind in _STORED
        if kind in cost and kind != "float32"
    ]
    return (
        f"Sq Rel on {cost['split']}: {before:.4g} before compression (float32), {', '.join(tried)}. "
        f"This file has {_STORED[stored_as]}."
    )


def _licence(entry: Shipped) -> str:
    f, initial = entry.facts, entry.training["initial"]
    data = f["data"]
    text = (
        f"The code of d3d is under the MIT licence; the data, `{data['dataset']}`, under {data['licence']}."
    )
    if f["initial_licence"]:
        text += (
            f" The encoder of this network started from {initial['source']}, which is under {f['initial_licence']};"
            f" the training has changed its weights. These weights are passed on under {f['licence']}."
        )
    else:
        text += f" These weights are under {f['licence']}."
    return text


def readme(networks: Mapping[str, Shipped]) -> str:
    """Return README.md with the table of all networks."""
    found = {
        name: {(r["split"], r["of"]): r["sq_rel"] for r in e.facts["scores"]} for name, e in networks.items()
    }
    columns = [c for c in dict.fromkeys(c for scores in found.values() for c in scores) if c[1] in _IN_TABLE]
    head = ["name", "description", "MB", "stored as", *map(" ".join, columns)]
    lines = [f"| {' | '.join(head)} |", f"| --- | --- | ---: | --- |{' ---: |' * len(columns)}"]
    for name, entry in networks.items():
        numbers = [f"{found[name][c]:.3f}" if c in found[name] else "–" for c in columns]
        cells = [f"[{name}]({name}.md)", entry.about, f"{entry.bytes / 1e6:.1f}", entry.stored_as, *numbers]
        lines.append(f"| {' | '.join(cells)} |")
    return _README.format(
        first=next(iter(networks), ""),
        table="\n".join(lines),
        total=sum(entry.bytes for entry in networks.values()) / 1e6,
    )


def _lines(rows: Mapping[str, str]) -> str:
    return "\n".join(f"| {name} | {text} |" for name, text in rows.items())
