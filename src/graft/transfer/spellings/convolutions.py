"""Convolutional networks: ResNet and ConvNeXt (both versions)."""

from __future__ import annotations

import re

from graft.transfer.spellings.spelling import Spelling, counted_by_two

RESNET, CONVNEXT = "ResNet", "ConvNeXt"
_X = r"(weight|bias)"
_N = r"(\d{1,6})"
_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

_HF_UNIT = rf"encoder\.stages\.{_N}\.layers\.{_N}\."
HUGGING_FACE_RESNET = Spelling(
    owner="Hugging Face's",
    network=RESNET,
    sign=r"encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
    front=r"(?:resnet\.)?",
    rules={
        r"embedder\.embedder\.convolution\.weight": "stem.conv",
        rf"embedder\.embedder\.normalization\.{_NORM}": r"stem.norm.\1",
        rf"{_HF_UNIT}layer\.{_N}\.convolution\.weight": r"unit.\1.\2.conv\3",
        rf"{_HF_UNIT}layer\.{_N}\.normalization\.{_NORM}": r"unit.\1.\2.norm\3.\4",
        rf"{_HF_UNIT}shortcut\.convolution\.weight": r"unit.\1.\2.shortcut.conv",
        rf"{_HF_UNIT}shortcut\.normalization\.{_NORM}": r"unit.\1.\2.shortcut.norm.\3",
        rf"classifier\.1\.{_X}": r"head.\1",
    },
)


def _from_one(match: re.Match[str]) -> str:
    """Stages and convolutions are counted from 1."""
    stage, block, kind, number, *leaf = match.groups()
    return ".".join([f"unit.{int(stage) - 1}.{block}.{ {'conv': 'conv', 'bn': 'norm'}[kind] }{int(number) - 1}", *leaf])


def _shortcut(match: re.Match[str]) -> str:
    stage, block, *leaf = match.groups()
    return f"unit.{int(stage) - 1}.{block}.shortcut.{'norm.' + leaf[0] if leaf else 'conv'}"


_LAYER = rf"layer{_N}\.{_N}\."
COMMON_RESNET = Spelling(
    owner="timm's and torchvision's",
    network=RESNET,
    sign=r"layer1\.0\.conv1\.weight",
    rules={
        r"conv1\.weight": "stem.conv",
        rf"bn1\.{_NORM}": r"stem.norm.\1",
        rf"{_LAYER}(conv)([123])\.weight": _from_one,
        rf"{_LAYER}(bn)([123])\.{_NORM}": _from_one,
        rf"{_LAYER}downsample\.0\.weight": _shortcut,
        rf"{_LAYER}downsample\.1\.{_NORM}": _shortcut,
        rf"fc\.{_X}": r"head.\1",
    },
)

HUGGING_FACE_CONVNEXT = Spelling(
    owner="Hugging Face's",
    network=CONVNEXT,
    sign=r"encoder\.stages\.0\.layers\.0\.dwconv\.weight",
    front=r"(?:(?:convnext|convnextv2)\.)?",
    rules={
        rf"embeddings\.patch_embeddings\.{_X}": r"patch.\1",
        rf"embeddings\.layernorm\.{_X}": r"patch_norm.\1",
        rf"{_HF_UNIT}dwconv\.{_X}": r"unit.\1.\2.conv.\3",
        rf"{_HF_UNIT}layernorm\.{_X}": r"unit.\1.\2.norm.\3",
        rf"{_HF_UNIT}pwconv([12])\.{_X}": r"unit.\1.\2.fc\3.\4",
        rf"{_HF_UNIT}grn\.{_X}": r"unit.\1.\2.grn.\3",
        rf"{_HF_UNIT}layer_scale_parameter": r"unit.\1.\2.scale",
        rf"encoder\.stages\.{_N}\.downsampling_layer\.([01])\.{_X}": r"merge.\1.\2.\3",
        rf"layernorm\.{_X}": r"norm.\1",
        rf"classifier\.{_X}": r"head.\1",
    },
)

_BLOCK = rf"stages\.{_N}\.blocks\.{_N}\."
TIMM_CONVNEXT = Spelling(
    owner="timm's",
    network=CONVNEXT,
    sign=r"stages\.0\.blocks\.0\.conv_dw\.weight",
    rules={
        rf"stem\.0\.{_X}": r"patch.\1",
        rf"stem\.1\.{_X}": r"patch_norm.\1",
        rf"{_BLOCK}conv_dw\.{_X}": r"unit.\1.\2.conv.\3",
        rf"{_BLOCK}norm\.{_X}": r"unit.\1.\2.norm.\3",
        rf"{_BLOCK}mlp\.fc([12])\.{_X}": r"unit.\1.\2.fc\3.\4",
        rf"{_BLOCK}mlp\.grn\.{_X}": r"unit.\1.\2.grn.\3",
        rf"{_BLOCK}gamma": r"unit.\1.\2.scale",
        rf"stages\.{_N}\.downsample\.([01])\.{_X}": r"merge.\1.\2.\3",
        rf"head\.norm\.{_X}": r"norm.\1",
        rf"head\.fc\.{_X}": r"head.\1",
    },
)

_FEATURE = rf"features\.([1357])\.{_N}\."
TORCHVISION_CONVNEXT = Spelling(
    owner="torchvision's",
    network=CONVNEXT,
    sign=r"features\.1\.0\.layer_scale",
    rules={
        rf"features\.0\.0\.{_X}": r"patch.\1",
        rf"features\.0\.1\.{_X}": r"patch_norm.\1",
        rf"{_FEATURE}block\.0\.{_X}": counted_by_two("unit.{}.{}.conv.{}"),
        rf"{_FEATURE}block\.2\.{_X}": counted_by_two("unit.{}.{}.norm.{}"),
        rf"{_FEATURE}block\.3\.{_X}": counted_by_two("unit.{}.{}.fc1.{}"),
        rf"{_FEATURE}block\.5\.{_X}": counted_by_two("unit.{}.{}.fc2.{}"),
        rf"{_FEATURE}layer_scale": counted_by_two("unit.{}.{}.scale"),
        rf"features\.([246])\.([01])\.{_X}": counted_by_two("merge.{}.{}.{}"),
        rf"classifier\.0\.{_X}": r"norm.\1",
        rf"classifier\.2\.{_X}": r"head.\1",
    },
)
