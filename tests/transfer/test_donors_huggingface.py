"""What lies beside a file of Hugging Face's: epsilons and differences in the ledger, the twin that inspect names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from graft import transfer
from graft.config.faults import InputError
from graft.transfer.donors import open_donor
from graft.weights.contents import contents

SIZES: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}


def in_hugging_face_names(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A timm ViT's tensors as transformers would save them."""
    layer = "vit.encoder.layer."
    words = (
        ("blocks.", layer), ("norm1", "layernorm_before"), ("norm2", "layernorm_after"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"), ("attn.proj", "attention.output.dense"), ("cls_token", "vit.embeddings.cls_token"),
        ("pos_embed", "vit.embeddings.position_embeddings"), ("head.", "classifier."),
        ("patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
    )  # fmt: skip
    state: dict[str, torch.Tensor] = {}
    for name, value in module.state_dict().items():
        if ".qkv." in name:
            front, leaf = name.split("attn.qkv.")
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[f"{front.replace('blocks.', layer)}attention.attention.{part}.{leaf}"] = rows.clone()
            continue
        name = f"vit.layernorm.{name[5:]}" if name.startswith("norm.") else name  # noqa: PLW2901
        for before, after in words:
            name = name.replace(before, after)  # noqa: PLW2901
        state[name] = value.clone()
    return state


def folder_with(tmp_path: Path, module: torch.nn.Module | None = None, **beside: Any) -> Path:
    save_file(in_hugging_face_names(module or VisionTransformer(**SIZES)), tmp_path / "model.safetensors")
    for name, record in beside.items():
        text = record if isinstance(record, str) else json.dumps(record)
        (tmp_path / f"{name}.json").write_text(text)
    return tmp_path


def remarks(folder: Path) -> str:
    return "\n".join(transfer(folder, VisionTransformer(**SIZES)).remarks)


@pytest.mark.parametrize(
    ("config", "remark"),
    [
        ({"model_type": "vit", "layer_norm_eps": 1e-12}, "eps is 1e-12 in the donor, 1e-06 in the target"),
        ({"model_type": "vit"}, "eps is 1e-12 in the donor, 1e-06 in the target"),
        ({"model_type": "vit", "layer_norm_eps": 1e-6}, None),
        ({"model_type": "vit", "layer_norm_eps": 1e-6, "hidden_act": "relu"}, "hidden_act is 'relu', and timm's"),
        ({"model_type": "vit", "layer_norm_eps": "small"}, None),
        ({"model_type": "of another world", "hidden_act": "relu"}, None),
        ({}, None),
    ],
)
def test_what_the_twin_does_otherwise_is_remarked(config: dict[str, Any], remark: str | None, tmp_path: Path) -> None:
    found = remarks(folder_with(tmp_path, config=config))
    assert (" is " in found) == (remark is not None)
    assert remark is None or remark in found


def test_without_a_config_nothing_is_guessed(tmp_path: Path) -> None:
    assert "eps" not in remarks(folder_with(tmp_path))


def test_squashed_images_are_remarked(tmp_path: Path) -> None:
    processor = {"size": {"height": 16, "width": 16}}
    folder = folder_with(tmp_path, config={"model_type": "vit"}, preprocessor_config=processor)
    assert "resizes an image to a square whatever its sides" in remarks(folder)


@pytest.mark.parametrize("config", ["{", "[]", "[" * 100_000])
def test_a_damaged_config_is_answered(config: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected config\.json beside the weights as a JSON object"):
        open_donor(folder_with(tmp_path, config=config))


def test_inspect_names_the_twin(tmp_path: Path) -> None:
    module = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    with open_donor(folder_with(tmp_path, module, config={"model_type": "vit"})) as donor:
        found = contents(donor)
    assert "the names are Hugging Face's, of a vision transformer" in found.remarks
    twins = {each.name: each for each in found.architectures}
    assert (twins["vit_tiny_patch16_224"].kind, twins["vit_tiny_patch16_224"].classes) == ("shapes", 7)
