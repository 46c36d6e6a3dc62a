"""The tensor names of published checkpoints, translated to the names of the networks here.

Three kinds of tensor are left out on purpose, because no network here uses them: the classifiers (`fc`,
`cls_head`) and the convolutions X_00_Conv_0 and X_01/02/03_Conv_0 of the grid. A tensor that a file stores
under several names is taken once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from d3d.errors import DataError
from d3d.models.tensors import check_tensors

RESNET18 = "ResNet-18 encoder"
MPVIT_SMALL = "MPViT-small encoder"


def recognise(names: Iterable[str]) -> str | None:
    """Return what the tensors of these public names are ("ResNet-18 encoder", "hrdepth decoder"), or None."""
    names = set(names)
    if any(name.startswith("patch_embed_stages.") for name in names):
        small = any(name.startswith("mhca_stages.2.mhca_blks.2.MHCA_layers.5.") for name in names)
        tiny_or_base = any(name.startswith("mhca_stages.1.mhca_blks.0.MHCA_layers.3.") for name in names)
        return MPVIT_SMALL if small and not tiny_or_base else "MPViT of another size than small"
    for prefix in ("encoder.", ""):  # Monodepth2's prefix; torchvision and timm have none
        if f"{prefix}layer1.0.conv1.weight" in names:
            deeper = {f"{prefix}layer1.0.conv3.weight", f"{prefix}layer1.2.conv1.weight"} & names
            return "ResNet encoder deeper than 18 layers" if deeper else RESNET18
    if "convs.f4.conv_se.weight" in names or "decoder.0.ca.fc.0.weight" in names:
        return "monovit decoder"
    if "convs.X_31_attention.conv_se.weight" in names or "decoder.16.conv_se.weight" in names:
        return "hrdepth decoder"
    if "decoder.9.conv.conv.weight" in names and "decoder.14.conv.weight" not in names:
        return "monodepth2 decoder"
    return None


def translate(
    arch: str,
    kind: str,
    shapes: Mapping[str, Sequence[int]],
    tensors: Mapping[str, Tensor],
    where: str,
) -> dict[str, Tensor]:
    """Rename the public tensors of one half of a network, its encoder or its decoder.

    Args:
        arch: the network, whose naming table is used.
        kind: what the tensors must be, as `recognise` calls it.
        shapes: the shape of every tensor of this half, by our name in the whole network ("encoder.…").
        tensors: the tensors by their public names.
        where: the file, for messages.

    Returns:
        The tensors by our names.

    Raises:
        DataError: the tensors are another network's; copies of one tensor differ; or tensors are missing,
            misshapen or not expected, named as in the file.
    """
    found = recognise(tensors)
    if found not in (None, kind):
        raise DataError(f"{where} looks like a {found}, but {arch} needs a {kind} here.")
    unique: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = _canonical(arch, name)
        if re.match(_UNUSED, name):
            continue
        if name in unique and not torch.equal(unique[name], tensor):
            raise DataError(f"{where}: the copies of {name} under several names differ; which one counts?")
        unique.setdefault(name, tensor)
    public = {_public_name(arch, name): shape for name, shape in shapes.items()}
    for name, shape in public.items():
        if name.endswith("num_batches_tracked"):  # old files lack this counter, and nothing here reads it
            unique.setdefault(name, torch.zeros(tuple(shape), dtype=torch.long))
    check_tensors(public, unique, where)
    return {ours: unique[name] for ours, name in zip(shapes, public, strict=True)}


def _public_name(arch: str, name: str) -> str:
    for pattern, replacement in _TO_PUBLIC[arch]:
        name, hits = re.subn(pattern, replacement, name)
        if hits:
            break
    return name


_UNUSED = r"encoder\.fc\.|cls_head\.|convs\.X_0[0123]_Conv_0\."

# The grid's modules in the order of the list `decoder.N`: depth.pth stores each of them a second time under it
_GRID = (
    *(f"X_{row}{col}_Conv_0" for col in range(5) for row in range(5 - col)),
    "X_04_Conv_1",
    *(f"X_{node}_attention" for node in ("31", "22", "13", "04")),
    *(f"X_{row}0_Conv_1" for row in (1, 2, 3)),
    *("X_02_downsample", "X_11_Conv_1", "X_12_downsample", "X_21_Conv_1", "X_03_downsample", "X_12_Conv_1"),
)
_DECODER_LIST = {
    "hrdepth": (*_GRID, *(f"dispConvScale{s}" for s in range(4))),
    "monovit": ("f4", "f3", "f2", "f1", *_GRID, *(f"dispconv{s}" for s in range(4))),
}


def _canonical(arch: str, name: str) -> str:
    """Return the name that the tables here use for a tensor that a public file stores under several names."""
    listed = re.match(r"decoder\.(\d+)\.", name)
    modules = _DECODER_LIST.get(arch, ())
    if listed and int(listed[1]) < len(modules):
        return f"convs.{modules[int(listed[1])]}.{name[listed.end() :]}"
    return re.sub(r"\.MHCA_layers\.\d+\.(factoratt_crpe\.(?=crpe\.))?(cpe|crpe)\.", r".\2.", name)


def _node_below(match: re.Match[str]) -> str:
    row, column = int(match[1][0]), int(match[1][1])
    return f"convs.X_{row + 1}{column - 1}_Conv_1.conv.conv."


Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]

_RESNET: Rules = [(r"^encoder\.", "encoder.")]


def _grid_rules(prefix: str, head: str) -> Rules:
    return [
        (rf"^{prefix}reduce\.(\d\d)\.conv\.", r"convs.X_\1_Conv_0.conv.conv."),
        (rf"^{prefix}nodes\.(\d\d)\.block\.conv\.", _node_below),
        (rf"^{prefix}nodes\.(\d\d)\.narrow\.", r"convs.X_\1_downsample.conv."),
        (rf"^{prefix}nodes\.(\d\d)\.attention\.squeeze\.", r"convs.X_\1_attention.fc.0."),
        (rf"^{prefix}nodes\.(\d\d)\.attention\.excite\.", r"convs.X_\1_attention.fc.2."),
        (rf"^{prefix}nodes\.(\d\d)\.conv\.", r"convs.X_\1_attention.conv_se."),
        (rf"^{prefix}final\.conv\.", r"convs.X_04_Conv_1.conv.conv."),
        (rf"^{prefix}heads\.(\d)\.", rf"convs.{head}\1."),
    ]


def _adapter(public: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"convs.f{int(match[1]) + 1}.{public}"


_EMBED = r"^encoder\.stages\.(\d)\.embeds\.(\d)\."
_PATH = r"^encoder\.stages\.(\d)\.paths\.(\d)\."
_BLOCK = _PATH + r"blocks\.(\d)\."
_LOCAL = r"^encoder\.stages\.(\d)\.local\."
_PUBLIC_EMBED = r"patch_embed_stages.\1.patch_embeds.\2.patch_conv."
_PUBLIC_PATH = r"mhca_stages.\1.mhca_blks.\2."
_PUBLIC_BLOCK = _PUBLIC_PATH + r"MHCA_layers.\3."

# Our names -> public names; the first pattern that matches counts. Of the public names of encoders, only those of the
# ResNet begin with "encoder."
_TO_PUBLIC: dict[str, Rules] = {
    "monodepth2": [
        *_RESNET,
        (r"^decoder\.reduce\.(\d)\.", lambda m: f"decoder.{2 * (4 - int(m[1]))}.conv."),
        (r"^decoder\.fuse\.(\d)\.", lambda m: f"decoder.{2 * (4 - int(m[1])) + 1}.conv."),
        (r"^decoder\.heads\.(\d)\.", lambda m: f"decoder.{10 + int(m[1])}."),
    ],
    "hrdepth": [*_RESNET, *_grid_rules(r"decoder\.", "dispConvScale")],
    "monovit": [
        (r"^encoder\.stem\.", "stem."),
        (_EMBED + r"depthwise\.", _PUBLIC_EMBED + "dwconv."),
        (_EMBED + r"pointwise\.conv\.", _PUBLIC_EMBED + "pwconv."),
        (_EMBED + r"pointwise\.bn\.", _PUBLIC_EMBED + "bn."),
        (_PATH + r"position\.conv\.", _PUBLIC_PATH + "cpe.proj."),
        (_PATH + r"relative\.convs\.", _PUBLIC_PATH + "crpe.conv_list."),
        (_BLOCK + r"attention\.qkv\.", _PUBLIC_BLOCK + "factoratt_crpe.qkv."),
        (_BLOCK + r"attention\.project\.", _PUBLIC_BLOCK + "factoratt_crpe.proj."),
        (_BLOCK + r"mlp\.0\.", _PUBLIC_BLOCK + "mlp.fc1."),
        (_BLOCK + r"mlp\.2\.", _PUBLIC_BLOCK + "mlp.fc2."),
        (_BLOCK + r"norm", _PUBLIC_BLOCK + "norm"),
        (_LOCAL + r"enter\.", r"mhca_stages.\1.InvRes.conv1."),
        (_LOCAL + r"depthwise\.", r"mhca_stages.\1.InvRes.dwconv."),
        (_LOCAL + r"bn\.", r"mhca_stages.\1.InvRes.norm."),
        (_LOCAL + r"leave\.", r"mhca_stages.\1.InvRes.conv2."),
        (r"^encoder\.stages\.(\d)\.join\.", r"mhca_stages.\1.aggregate."),
        (r"^decoder\.adapters\.(\d)\.attention\.squeeze\.", _adapter("ca.fc.0.")),
        (r"^decoder\.adapters\.(\d)\.attention\.excite\.", _adapter("ca.fc.2.")),
        (r"^decoder\.adapters\.(\d)\.conv\.", _adapter("conv_se.")),
        *_grid_rules(r"decoder\.grid\.", "dispconv"),
    ],
}
