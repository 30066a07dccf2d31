"""JAX checkpoints in .npz archives: vision transformers and BiT ResNets, under timm's names and in torch's layout.

Supports the files of google-research/vision_transformer and big_vision (blocks numbered or stacked), and of
google-research/big_transfer. Names follow timm's `_load_weights` of the two families.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graft.transfer.donor import Donor
from graft.transfer.donors.sniff import refused
from graft.transfer.ledger import TensorInfo

Shape = tuple[int, ...]

_PREFIX = re.compile(r"^(opt/target/|params/img/|params/|resnet/)")
_MOST_BLOCKS = 1024
_STACKED = "Transformer/encoderblock/"
_BLOCK = r"Transformer/encoderblock_(\d+)/"
_UNIT = r"block(\d+)/unit(\d+)/"


@dataclass(frozen=True, slots=True)
class _Layout:
    """An axis order, applied to shapes and to values."""

    ranks: tuple[int, ...]
    shape: Callable[[Shape], Shape]
    value: Callable[[Tensor], Tensor]


_SAME = _Layout((1, 2, 3, 4), lambda s: s, lambda v: v)
_HWIO = _Layout((4,), lambda s: (s[3], s[2], s[0], s[1]), lambda v: v.permute(3, 2, 0, 1))
_DENSE = _Layout((2,), lambda s: (s[1], s[0]), torch.t)
_HEADS_IN = _Layout((3,), lambda s: (s[1] * s[2], s[0]), lambda v: v.flatten(1).t())  # D, heads, width
_HEADS_OUT = _Layout((3,), lambda s: (s[2], s[0] * s[1]), lambda v: v.flatten(0, 1).t())  # heads, width, D
_HEADS_BIAS = _Layout((2,), lambda s: (s[0] * s[1],), lambda v: v.reshape(-1))

_PARTS = ("query", "key", "value")
_RULES: tuple[tuple[str, str, _Layout], ...] = (
    (r"embedding/kernel", "patch_embed.proj.weight", _HWIO),
    (r"embedding/bias", "patch_embed.proj.bias", _SAME),
    (r"cls", "cls_token", _SAME),
    (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed", _SAME),
    (r"Transformer/encoder_norm/scale", "norm.weight", _SAME),
    (r"Transformer/encoder_norm/bias", "norm.bias", _SAME),
    (r"(pre_logits|head)/kernel", r"\1.weight", _DENSE),
    (r"(pre_logits|head)/bias", r"\1.bias", _SAME),
    (_BLOCK + r"LayerNorm_0/scale", r"blocks.\1.norm1.weight", _SAME),
    (_BLOCK + r"LayerNorm_0/bias", r"blocks.\1.norm1.bias", _SAME),
    (_BLOCK + r"LayerNorm_[12]/scale", r"blocks.\1.norm2.weight", _SAME),
    (_BLOCK + r"LayerNorm_[12]/bias", r"blocks.\1.norm2.bias", _SAME),
    (_BLOCK + r"MlpBlock_[03]/Dense_0/kernel", r"blocks.\1.mlp.fc1.weight", _DENSE),
    (_BLOCK + r"MlpBlock_[03]/Dense_0/bias", r"blocks.\1.mlp.fc1.bias", _SAME),
    (_BLOCK + r"MlpBlock_[03]/Dense_1/kernel", r"blocks.\1.mlp.fc2.weight", _DENSE),
    (_BLOCK + r"MlpBlock_[03]/Dense_1/bias", r"blocks.\1.mlp.fc2.bias", _SAME),
    (_BLOCK + r"MultiHeadDotProductAttention_[01]/out/kernel", r"blocks.\1.attn.proj.weight", _HEADS_OUT),
    (_BLOCK + r"MultiHeadDotProductAttention_[01]/out/bias", r"blocks.\1.attn.proj.bias", _SAME),
    (_BLOCK + r"MultiHeadDotProductAttention_[01]/(query|key|value)/kernel", r"blocks.\1.attn.qkv.weight", _HEADS_IN),
    (_BLOCK + r"MultiHeadDotProductAttention_[01]/(query|key|value)/bias", r"blocks.\1.attn.qkv.bias", _HEADS_BIAS),
    (r"root_block/standardized_conv2d/kernel", "stem.conv.weight", _HWIO),
    (r"group_norm/gamma", "norm.weight", _SAME),
    (r"group_norm/beta", "norm.bias", _SAME),
    (r"head/conv2d/kernel", "head.fc.weight", _HWIO),
    (r"head/conv2d/bias", "head.fc.bias", _SAME),
    (_UNIT + r"([abc])/standardized_conv2d/kernel", r"stages.\1.blocks.\2.conv\3.weight", _HWIO),
    (_UNIT + r"([abc])/group_norm/gamma", r"stages.\1.blocks.\2.norm\3.weight", _SAME),
    (_UNIT + r"([abc])/group_norm/beta", r"stages.\1.blocks.\2.norm\3.bias", _SAME),
    (_UNIT + r"a/proj/standardized_conv2d/kernel", r"stages.\1.blocks.\2.downsample.conv.weight", _HWIO),
)


@dataclass(frozen=True, slots=True)
class _Source:
    """An array, or one block of a stacked array, and the order of its axes."""

    array: str
    block: int | None
    layout: _Layout


def is_jax(names: Sequence[str]) -> bool:
    """Whether these are the names of JAX's vision transformers or BiT ResNets."""
    bare = {_PREFIX.sub("", name) for name in names}
    transformer = "embedding/kernel" in bare and any(name.startswith("Transformer/") for name in bare)
    return transformer or "root_block/standardized_conv2d/kernel" in bare


def in_torch_layout(donor: Donor) -> Donor:
    """The same donor under timm's names. Arrays without a rule keep their names, with a remark.

    Raises:
        InputError: an array has a rank that does not fit its name, or an attention layer lacks query, key or value.
    """
    path = Path(donor.source)
    grouped: dict[str, list[_Source]] = {}
    others: list[str] = []
    for array, info in donor.infos.items():
        targets = _targets(path, array, info.shape)
        if not targets:
            others.append(array)
            targets = [(array, _Source(array, None, _SAME))]
        for name, source in targets:
            grouped.setdefault(name, []).append(source)
    infos = {name: _info(path, donor, name, sources) for name, sources in grouped.items()}
    remarks = ["a JAX checkpoint: names as timm has them, kernels turned to O, I, H, W, query, key and value joined"]
    remarks += [f"no torch layout known, left as they are: {', '.join(others[:5])}"] if others else []
    return Donor(
        source=donor.source,
        format="npz",
        infos=infos,
        reader=lambda name: _value(donor, grouped[name]),
        remarks=[*donor.remarks, *remarks],
        closer=donor.close,
    )


def _targets(path: Path, array: str, shape: Shape) -> list[tuple[str, _Source]]:
    bare = _PREFIX.sub("", array)
    if not bare.startswith(_STACKED):
        return [(name, _Source(array, None, layout)) for name, layout in _match(path, bare, shape)]
    blocks = shape[0] if shape else 0
    if blocks > _MOST_BLOCKS:
        raise refused(path, expected=f"at most {_MOST_BLOCKS} stacked blocks", received=f"{array} of shape {shape}")
    return [
        (name, _Source(array, block, layout))
        for block in range(blocks)
        for name, layout in _match(path, bare.replace(_STACKED, f"Transformer/encoderblock_{block}/", 1), shape[1:])
    ]


def _match(path: Path, bare: str, shape: Shape) -> list[tuple[str, _Layout]]:
    for pattern, replacement, layout in _RULES:
        match = re.fullmatch(pattern, bare)
        if match is None:
            continue
        if len(shape) not in layout.ranks:
            ranks = " or ".join(map(str, layout.ranks))
            raise refused(path, expected=f"{bare} with {ranks} axes", received=f"one of shape {shape}")
        return [(_numbered(match, replacement), layout)]
    return []


def _numbered(match: re.Match[str], replacement: str) -> str:
    """The target's name. BiT counts blocks and units from 1, and names its convolutions by letters."""
    if not replacement.startswith("stages."):
        return match.expand(replacement)
    stage, unit, *letter = match.groups()
    counted = [str(int(stage) - 1), str(int(unit) - 1), *("abc".index(each) + 1 for each in letter)]
    return re.sub(r"\\(\d)", lambda group: str(counted[int(group[1]) - 1]), replacement)


def _ordered(sources: list[_Source]) -> list[_Source]:
    """Query, key and value in the order in which timm joins them."""
    return sorted(sources, key=lambda each: next((i for i, part in enumerate(_PARTS) if f"/{part}/" in each.array), 0))


def _info(path: Path, donor: Donor, name: str, sources: list[_Source]) -> TensorInfo:
    expected = 3 if ".attn.qkv." in name and name not in donor.infos else 1
    shapes = {_shape(donor, source) for source in sources}
    dtypes = {donor.infos[source.array].dtype for source in sources}
    if len(sources) != expected or len(shapes) > 1 or len(dtypes) > 1:
        raise refused(
            path,
            expected=f"{expected} arrays of one shape and type for {name}",
            received=", ".join(f"{source.array} {donor.infos[source.array].shape}" for source in sources),
        )
    shape = shapes.pop()
    return TensorInfo(shape=(shape[0] * expected, *shape[1:]) if shape else shape, dtype=dtypes.pop())


def _shape(donor: Donor, source: _Source) -> Shape:
    shape = donor.infos[source.array].shape
    return source.layout.shape(shape if source.block is None else shape[1:])


def _value(donor: Donor, sources: list[_Source]) -> Tensor:
    parts = [source.layout.value(_array(donor, source)) for source in _ordered(sources)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()


def _array(donor: Donor, source: _Source) -> Tensor:
    value = donor.read(source.array)
    return value if source.block is None else value[source.block]
