"""Translate the tensor names of published checkpoints to the names of d3d.

Two kinds of tensors are left out, because the networks do not use them: the classifiers (`fc`, `cls_head`) and the
convolutions X_00_Conv_0 and X_01/02/03_Conv_0 of the grid. Copies of a tensor under several names are read once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from d3d.errors import DataError
from d3d.models.tensors import Shapes, Tensors, checked

RESNET18 = "ResNet-18 encoder"
MPVIT_SMALL = "MPViT-small encoder"
EFFICIENTNET_LITE0 = "EfficientNet-Lite0 encoder"


def with_article(kind: str) -> str:
    """Add the article: "a ResNet-18 encoder", "an EfficientNet-Lite0 encoder"."""
    # "a MPViT-small encoder" is part of stored identities
    return f"{'an' if kind.startswith('E') else 'a'} {kind}"


def recognise(names: Iterable[str]) -> str | None:
    """Recognise a network part by its public tensor names ("ResNet-18 encoder", "hrdepth decoder"); None if unknown."""
    names = set(names)
    if any(name.startswith("patch_embed_stages.") for name in names):
        small = any(name.startswith("mhca_stages.2.mhca_blks.2.MHCA_layers.5.") for name in names)
        tiny_or_base = any(name.startswith("mhca_stages.1.mhca_blks.0.MHCA_layers.3.") for name in names)
        return MPVIT_SMALL if small and not tiny_or_base else "MPViT of another size than small"
    for prefix in ("encoder.", ""):  # "encoder." for Monodepth2, "" for torchvision and timm
        if f"{prefix}layer1.0.conv1.weight" in names:
            deeper = {f"{prefix}layer1.0.conv3.weight", f"{prefix}layer1.2.conv1.weight"} & names
            return "ResNet encoder deeper than 18 layers" if deeper else RESNET18
    if {"_conv_stem.weight", "conv_stem.weight"} & names:
        lite0 = {"_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"} & names
        deeper = {
            "_blocks.16._project_conv.weight",
            "blocks.1.2.conv_pw.weight",
            "blocks.2.2.conv_pw.weight",
        } & names
        attention = any("._se_" in name or ".se." in name for name in names)
        if lite0 and not deeper and not attention:
            return EFFICIENTNET_LITE0
        return "EfficientNet or MobileNet other than EfficientNet-Lite0"
    if "convs.f4.conv_se.weight" in names or "decoder.0.ca.fc.0.weight" in names:
        return "monovit decoder"
    if "convs.X_31_attention.conv_se.weight" in names or "decoder.16.conv_se.weight" in names:
        return "hrdepth decoder"
    if "decoder.9.conv.conv.weight" in names and "decoder.14.conv.weight" not in names:
        return "monodepth2 decoder"
    return None


def translate(arch: str, kind: str, shapes: Shapes, tensors: Tensors, where: str) -> dict[str, Tensor]:
    """Rename the public tensors of an encoder or a decoder to the names of d3d.

    Args:
        arch: name of the network, which selects the naming table.
        kind: required result of `recognise`.
        shapes: name in d3d ("encoder.…") -> shape, for every tensor of the encoder or decoder.
        tensors: public name -> tensor.
        where: file name, for messages.

    Raises:
        DataError: the tensors belong to another network; copies of a tensor differ; or tensors are missing, unexpected
            or have a wrong shape. The message uses the public names.
    """
    found = recognise(tensors)
    if found not in (None, kind):
        raise DataError(
            f"{where} looks like {with_article(found)}, but {arch} needs {with_article(kind)} here."
        )
    unique: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = _canonical(arch, name)
        if re.match(_UNUSED, name):
            continue
        first = unique.setdefault(name, tensor)
        if first is not tensor and not torch.equal(first, tensor):
            raise DataError(
                f"{where}: the copies of {name} under several names differ. Is the file complete?"
            )
    public = {name: _public_name(arch, name) for name in shapes}
    torchvision = kind == RESNET18 and not any(name.startswith("encoder.") for name in unique)
    if torchvision or "conv_stem.weight" in unique:  # conv_stem: Lite0 of timm
        public = {ours: ours.removeprefix("encoder.") for ours in public}
    unique = checked({public[name]: shape for name, shape in shapes.items()}, unique, where)
    return {ours: unique[name] for ours, name in public.items()}


def _public_name(arch: str, name: str) -> str:
    for pattern, replacement in _TO_PUBLIC[arch]:
        name = re.sub(pattern, replacement, name)
    return name


_UNUSED = r"(encoder\.)?fc\.|cls_head\.|convs\.X_0[0123]_Conv_0\.|_(conv_head|bn1|fc)\.|(conv_head|bn2|classifier)\."

# Modules of the grid in the order of the list `decoder.N`; depth.pth stores a second copy of each module there
_GRID = (
    *(f"X_{row}{col}_Conv_0" for col in range(5) for row in range(5 - col)),
    "X_04_Conv_1",
    *(f"X_{node}_attention" for node in ("31", "22", "13", "04")),
    *(f"X_{row}0_Conv_1" for row in (1, 2, 3)),
    *("X_02_downsample", "X_11_Conv_1", "X_12_downsample", "X_21_Conv_1", "X_03_downsample", "X_12_Conv_1"),
)
_DECODER_LIST: dict[str, tuple[str, ...]] = {
    "monodepth2": (),
    "hrdepth": (*_GRID, *(f"dispConvScale{s}" for s in range(4))),
    "monovit": ("f4", "f3", "f2", "f1", *_GRID, *(f"dispconv{s}" for s in range(4))),
}

PUBLISHED = tuple(_DECODER_LIST)  # networks with published checkpoints


def _canonical(arch: str, name: str) -> str:
    """Map the several public names of a tensor to the name in the tables of this module."""
    listed = re.match(r"decoder\.(\d+)\.", name)
    modules = _DECODER_LIST.get(arch, ())
    if listed and int(listed[1]) < len(modules):
        return f"convs.{modules[int(listed[1])]}.{name[listed.end() :]}"
    return re.sub(r"\.MHCA_layers\.\d+\.(factoratt_crpe\.(?=crpe\.))?(cpe|crpe)\.", r".\2.", name)


Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]

# Names of d3d -> public names; all rules are applied in this order
_GRID_RULES: Rules = [
    (r"^decoder\.(?:grid\.)?(reduce|nodes|final|heads)\.", r"\1."),
    (r"^reduce\.(\d\d)\.conv\.", r"convs.X_\1_Conv_0.conv.conv."),
    (r"^nodes\.(\d)(\d)\.block\.", lambda m: f"convs.X_{int(m[1]) + 1}{int(m[2]) - 1}_Conv_1.conv."),
    (r"^nodes\.(\d\d)\.narrow\.", r"convs.X_\1_downsample.conv."),
    (r"^nodes\.(\d\d)\.attention\.", r"convs.X_\1_attention.fc."),
    (r"^nodes\.(\d\d)\.conv\.", r"convs.X_\1_attention.conv_se."),
    (r"^final\.", "convs.X_04_Conv_1.conv."),
    (r"\.fc\.squeeze\.", ".fc.0."),
    (r"\.fc\.excite\.", ".fc.2."),
]
_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # number of blocks in each stage of EfficientNet-Lite0


def _lite_block(match: re.Match[str]) -> str:
    """Map timm's name of a layer to the name in the public file, which numbers all blocks."""
    stage, block, layer = int(match[1]), int(match[2]), match[3]
    after = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    after |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    if stage == 0:  # the first block does not expand
        after |= {"bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    return f"_blocks.{sum(_BLOCKS[:stage]) + block}.{after[layer]}."


_STAGE = r"^encoder\.stages\.(\d)\."
_TO_PUBLIC: dict[str, Rules] = {
    "monodepth2": [
        (r"^decoder\.reduce\.(\d)\.", lambda m: f"decoder.{2 * (4 - int(m[1]))}.conv."),
        (r"^decoder\.fuse\.(\d)\.", lambda m: f"decoder.{2 * (4 - int(m[1])) + 1}.conv."),
        (r"^decoder\.heads\.(\d)\.", lambda m: f"decoder.{10 + int(m[1])}."),
    ],
    "lite": [
        (r"^encoder\.conv_stem\.", "_conv_stem."),
        (r"^encoder\.bn1\.", "_bn0."),
        (r"^encoder\.blocks\.(\d)\.(\d)\.(\w+)\.", _lite_block),
    ],
    "hrdepth": [*_GRID_RULES, (r"^heads\.(\d)\.", r"convs.dispConvScale\1.")],
    "monovit": [
        (r"^encoder\.stem\.", "stem."),
        (_STAGE + r"embeds\.(\d)\.", r"patch_embed_stages.\1.patch_embeds.\2.patch_conv."),
        (r"\.patch_conv\.depthwise\.", ".patch_conv.dwconv."),
        (r"\.pointwise\.conv\.", ".pwconv."),
        (r"\.pointwise\.bn\.", ".bn."),
        (_STAGE + r"paths\.(\d)\.", r"mhca_stages.\1.mhca_blks.\2."),
        (r"\.position\.conv\.", ".cpe.proj."),
        (r"\.relative\.convs\.", ".crpe.conv_list."),
        (r"\.blocks\.(\d)\.", r".MHCA_layers.\1."),
        (r"\.attention\.qkv\.", ".factoratt_crpe.qkv."),
        (r"\.attention\.project\.", ".factoratt_crpe.proj."),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.2\.", ".mlp.fc2."),
        (_STAGE + r"local\.enter\.", r"mhca_stages.\1.InvRes.conv1."),
        (_STAGE + r"local\.depthwise\.", r"mhca_stages.\1.InvRes.dwconv."),
        (_STAGE + r"local\.bn\.", r"mhca_stages.\1.InvRes.norm."),
        (_STAGE + r"local\.leave\.", r"mhca_stages.\1.InvRes.conv2."),
        (_STAGE + r"join\.", r"mhca_stages.\1.aggregate."),
        (r"^decoder\.adapters\.(\d)\.", lambda m: f"convs.f{int(m[1]) + 1}."),
        (r"^convs\.f(\d)\.attention\.", r"convs.f\1.ca.fc."),
        (r"^convs\.f(\d)\.conv\.", r"convs.f\1.conv_se."),
        *_GRID_RULES,
        (r"^heads\.(\d)\.", r"convs.dispconv\1."),
    ],
}
