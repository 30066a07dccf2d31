"""Vision transformers: ViT, DeiT and DINOv2; and Swin, whose blocks use windowed attention."""

from __future__ import annotations

import re

from graft.transfer.spellings.spelling import Spelling, counted_by_two

VIT, SWIN = "vision transformer", "Swin transformer"
_X = r"(weight|bias)"
_N = r"(\d{1,6})"
_PART = {"query": "q", "key": "k", "value": "v"}
_POOLER = "a pooler, which stands behind the features"
_MASK = "stands in for masked patches, in pre-training alone"
_INDEX = "counted from the window's size"

_HF_LAYER = rf"(?:encoder\.layer|layers)\.{_N}\."
_HF_BLOCK = rf"encoder\.layers\.{_N}\.blocks\.{_N}\."
_HF_QKV = rf"attention\.(?:(?:attention|self)\.(query|key|value)|([qkv])_proj)\.{_X}"
_HF_INNER = {
    rf"(?:layernorm_before|norm1)\.{_X}": "norm1",
    rf"(?:layernorm_after|norm2)\.{_X}": "norm2",
    rf"attention\.(?:output\.dense|o_proj)\.{_X}": "out",
    rf"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.{_X}": "fc1",
    rf"(?:output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)\.{_X}": "fc2",
}


def _hf_part(match: re.Match[str]) -> str:
    *numbers, word, letter, leaf = match.groups()
    return f"block.{'.'.join(numbers)}.{letter or _PART[word]}.{leaf}"


HUGGING_FACE_VIT = Spelling(
    owner="Hugging Face's",
    network=VIT,
    sign=r"embeddings\.cls_token",
    front=r"(?:(?:vit|deit|dinov2|dinov2_with_registers)\.)?",
    rules={
        r"embeddings\.cls_token": "cls",
        r"embeddings\.distillation_token": "dist",
        r"embeddings\.register_tokens": "reg",
        r"embeddings\.position_embeddings": "pos",
        rf"embeddings\.patch_embeddings\.projection\.{_X}": r"patch.\1",
        rf"{_HF_LAYER}{_HF_QKV}": _hf_part,
        **{f"{_HF_LAYER}{inner}": rf"block.\1.{name}.\2" for inner, name in _HF_INNER.items()},
        rf"{_HF_LAYER}mlp\.(gate|up)_proj\.{_X}": r"block.\1.\2.\3",
        rf"{_HF_LAYER}layer_scale([12])\.lambda1": r"block.\1.scale\2",
        rf"layernorm\.{_X}": r"norm.\1",
        rf"(?:cls_)?classifier\.{_X}": r"head.\1",
        rf"distillation_classifier\.{_X}": r"head_dist.\1",
    },
    idle={r"pooler\.dense\.(?:weight|bias)": _POOLER, r"embeddings\.mask_token": _MASK},
)

_TIMM_BLOCK = {
    rf"norm1\.{_X}": "norm1",
    rf"norm2\.{_X}": "norm2",
    rf"attn\.qkv\.{_X}": "qkv",
    rf"attn\.proj\.{_X}": "out",
    rf"mlp\.fc1\.{_X}": "fc1",
    rf"mlp\.fc2\.{_X}": "fc2",
}
_TIMM_VIT = {
    r"cls_token": "cls",
    r"dist_token": "dist",
    r"reg_token": "reg",
    r"pos_embed": "pos",
    rf"patch_embed\.proj\.{_X}": r"patch.\1",
    **{rf"blocks\.{_N}\.{inner}": rf"block.\1.{name}.\2" for inner, name in _TIMM_BLOCK.items()},
    rf"blocks\.{_N}\.ls([12])\.gamma": r"block.\1.scale\2",
    rf"(norm|head|head_dist)\.{_X}": r"\1.\2",
}
TIMM_VIT = Spelling(owner="timm's", network=VIT, sign=r"blocks\.0\.attn\.qkv\.weight", rules=_TIMM_VIT)

META_DINOV2 = Spelling(
    owner="Meta's",
    network=VIT,
    sign=r"mask_token",
    rules={
        **_TIMM_VIT,
        r"register_tokens": "reg",
        rf"blocks\.{_N}\.mlp\.w12\.{_X}": r"block.\1.fc1.\2",
        rf"blocks\.{_N}\.mlp\.w3\.{_X}": r"block.\1.fc2.\2",
    },
    idle={r"mask_token": _MASK},
)

_TV_LAYER = rf"encoder\.layers\.encoder_layer_{_N}\."
TORCHVISION_VIT = Spelling(
    owner="torchvision's",
    network=VIT,
    sign=r"encoder\.layers\.encoder_layer_0\.self_attention\.in_proj_weight",
    rules={
        r"class_token": "cls",
        r"encoder\.pos_embedding": "pos",
        rf"conv_proj\.{_X}": r"patch.\1",
        rf"{_TV_LAYER}ln_([12])\.{_X}": r"block.\1.norm\2.\3",
        rf"{_TV_LAYER}self_attention\.in_proj_{_X}": r"block.\1.qkv.\2",
        rf"{_TV_LAYER}self_attention\.out_proj\.{_X}": r"block.\1.out.\2",
        rf"{_TV_LAYER}mlp\.(?:0|linear_1)\.{_X}": r"block.\1.fc1.\2",
        rf"{_TV_LAYER}mlp\.(?:3|linear_2)\.{_X}": r"block.\1.fc2.\2",
        rf"encoder\.ln\.{_X}": r"norm.\1",
        rf"heads\.head\.{_X}": r"head.\1",
    },
)

HUGGING_FACE_SWIN = Spelling(
    owner="Hugging Face's",
    network=SWIN,
    sign=r"encoder\.layers\.0\.blocks\.0\.attention\.(?:self\.query|q_proj)\.weight",
    front=r"(?:swin\.)?",
    rules={
        rf"embeddings\.patch_embeddings\.projection\.{_X}": r"patch.\1",
        rf"embeddings\.norm\.{_X}": r"patch_norm.\1",
        rf"{_HF_BLOCK}{_HF_QKV}": _hf_part,
        **{f"{_HF_BLOCK}{inner}": rf"block.\1.\2.{name}.\3" for inner, name in _HF_INNER.items()},
        rf"{_HF_BLOCK}attention\.(?:self|relative_position_bias)\.relative_position_bias_table": r"block.\1.\2.table",
        rf"encoder\.layers\.{_N}\.downsample\.(norm|reduction)\.{_X}": (
            lambda match: f"merge.{int(match[1]) + 1}.{match[2]}.{match[3]}"  # at a stage's end, elsewhere at its begin
        ),
        rf"layernorm\.{_X}": r"norm.\1",
        rf"classifier\.{_X}": r"head.\1",
    },
    idle={r".*\.attention\.self\.relative_position_index": _INDEX},
)

TIMM_SWIN = Spelling(
    owner="timm's",
    network=SWIN,
    sign=r"layers\.0\.blocks\.0\.attn\.qkv\.weight",
    rules={
        rf"patch_embed\.proj\.{_X}": r"patch.\1",
        rf"patch_embed\.norm\.{_X}": r"patch_norm.\1",
        **{rf"layers\.{_N}\.blocks\.{_N}\.{inner}": rf"block.\1.\2.{name}.\3" for inner, name in _TIMM_BLOCK.items()},
        rf"layers\.{_N}\.blocks\.{_N}\.attn\.relative_position_bias_table": r"block.\1.\2.table",
        rf"layers\.{_N}\.downsample\.(norm|reduction)\.{_X}": r"merge.\1.\2.\3",
        rf"norm\.{_X}": r"norm.\1",
        rf"head\.fc\.{_X}": r"head.\1",
    },
)


_TV_BLOCK = rf"features\.([1357])\.{_N}\."
TORCHVISION_SWIN = Spelling(
    owner="torchvision's",
    network=SWIN,
    sign=r"features\.1\.0\.attn\.relative_position_bias_table",
    rules={
        rf"features\.0\.0\.{_X}": r"patch.\1",
        rf"features\.0\.2\.{_X}": r"patch_norm.\1",
        rf"{_TV_BLOCK}norm([12])\.{_X}": counted_by_two("block.{}.{}.norm{}.{}"),
        rf"{_TV_BLOCK}attn\.qkv\.{_X}": counted_by_two("block.{}.{}.qkv.{}"),
        rf"{_TV_BLOCK}attn\.proj\.{_X}": counted_by_two("block.{}.{}.out.{}"),
        rf"{_TV_BLOCK}mlp\.0\.{_X}": counted_by_two("block.{}.{}.fc1.{}"),
        rf"{_TV_BLOCK}mlp\.3\.{_X}": counted_by_two("block.{}.{}.fc2.{}"),
        rf"{_TV_BLOCK}attn\.relative_position_bias_table": counted_by_two("block.{}.{}.table"),
        rf"features\.([246])\.(norm|reduction)\.{_X}": counted_by_two("merge.{}.{}.{}"),
        rf"norm\.{_X}": r"norm.\1",
        rf"head\.{_X}": r"head.\1",
    },
)
