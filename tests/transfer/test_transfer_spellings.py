"""Hugging Face's networks in their twins of timm and torchvision: the same function, each tensor accounted for.

The models are real ones of transformers', tiny and at random, saved as it saves them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.resnet import Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from graft import TransferError, transfer
from graft.transfer import Ledger

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
import transformers

VIT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8, "layer_norm_eps": 1e-6, "num_labels": 5,
}  # fmt: skip
DINO: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
SWIN: dict[str, Any] = {
    "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
    "num_labels": 5,
}  # fmt: skip
CONVNEXT: dict[str, Any] = {
    "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_labels": 5, "layer_norm_eps": 1e-6,
}  # fmt: skip
SIZES: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "num_classes": 5,
}  # fmt: skip
FEATURES: dict[str, Any] = {**SIZES, "num_classes": 0, "init_values": 1.0}
REGISTERS: dict[str, Any] = {**FEATURES, "reg_tokens": 4, "no_embed_class": True}
GATED: dict[str, Any] = {"mlp_ratio": 3, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}

HF = transformers
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "ViT into timm's": (
        lambda: HF.ViTForImageClassification(HF.ViTConfig(**VIT)),
        lambda: VisionTransformer(**SIZES),
    ),
    "ViT into torchvision's": (
        lambda: HF.ViTForImageClassification(HF.ViTConfig(**VIT)),
        lambda: TorchvisionViT(32, 8, 2, 2, 32, 64, num_classes=5),
    ),
    "ViT without a head, with a pooler": (
        lambda: HF.ViTModel(HF.ViTConfig(**VIT)),
        lambda: VisionTransformer(**{**SIZES, "num_classes": 0}),
    ),
    "distilled DeiT": (
        lambda: HF.DeiTForImageClassificationWithTeacher(HF.DeiTConfig(**VIT)),
        lambda: VisionTransformerDistilled(**SIZES),
    ),
    "Swin into timm's": (
        lambda: HF.SwinForImageClassification(HF.SwinConfig(**SWIN)),
        lambda: SwinTransformer(32, 2, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5),
    ),
    "Swin into torchvision's": (
        lambda: HF.SwinForImageClassification(HF.SwinConfig(**SWIN)),
        lambda: TorchvisionSwin([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=5),
    ),
    "ConvNeXt into timm's": (
        lambda: HF.ConvNextForImageClassification(HF.ConvNextConfig(**CONVNEXT)),
        lambda: ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=5),
    ),
    "ConvNeXt into torchvision's": (
        lambda: HF.ConvNextForImageClassification(HF.ConvNextConfig(**CONVNEXT)),
        lambda: TorchvisionConvNeXt(
            [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 2), CNBlockConfig(32, None, 1)],
            num_classes=5,
        ),
    ),
    "ConvNeXt V2": (
        lambda: HF.ConvNextV2ForImageClassification(HF.ConvNextV2Config(**CONVNEXT)),
        lambda: ConvNeXt(
            depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=5, use_grn=True, ls_init_value=None
        ),
    ),
    "ResNet into timm's": (
        lambda: HF.ResNetForImageClassification(
            HF.ResNetConfig(embedding_size=64, hidden_sizes=[256, 512, 1024, 2048], depths=[1, 1, 2, 1], num_labels=5)
        ),
        lambda: ResNet(Bottleneck, (1, 1, 2, 1), num_classes=5),
    ),
    "ResNet of basic blocks into torchvision's": (
        lambda: HF.ResNetForImageClassification(
            HF.ResNetConfig(
                embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[1, 1, 2, 1], layer_type="basic",
                num_labels=5,
            )
        ),
        lambda: TorchvisionResNet(BasicBlock, [1, 1, 2, 1], num_classes=5),
    ),
    "DINOv2": (lambda: HF.Dinov2Model(HF.Dinov2Config(**DINO)), lambda: VisionTransformer(**FEATURES)),
    "DINOv2 with registers": (
        lambda: HF.Dinov2WithRegistersModel(HF.Dinov2WithRegistersConfig(**DINO)),
        lambda: VisionTransformer(**REGISTERS),
    ),
    "DINOv2 with gated layers": (
        lambda: HF.Dinov2WithRegistersModel(HF.Dinov2WithRegistersConfig(**DINO, use_swiglu_ffn=True)),
        lambda: VisionTransformer(**{**REGISTERS, **GATED}),
    ),
}  # fmt: skip


@cache
def donor_of(case: str) -> nn.Module:
    """Small values, so that nothing that ten layers multiply grows out of the tolerance."""
    module, generator = CASES[case][0](), torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            width = value[0].numel() if value.dim() > 1 else 1
            drawn = torch.rand(value.shape, generator=generator)
            value.copy_(drawn + 0.5 if name.endswith("running_var") else (2 * drawn - 1) * (3 / width) ** 0.5)
    return module.eval()


def saved(case: str, folder: Path) -> Path:
    donor_of(case).save_pretrained(folder)
    return folder


def answers(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        if isinstance(module, HF.PreTrainedModel):
            found = module(images)
            return found.logits if hasattr(found, "logits") else found.last_hidden_state
        return module(images) if getattr(module, "num_classes", 5) else module.forward_features(images)


def assert_equal(case: str, target: nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = answers(donor_of(case), images)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(answers(target.eval(), images), expected, atol=1e-5 * scale, rtol=0)
    assert float(expected.std()) > 1e-3


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["folder", "file", "module"])
def test_the_twin_computes_what_the_donor_does(case: str, kind: str, tmp_path: Path) -> None:
    """Files have the names of old; the live module has those of transformers 5."""
    target = CASES[case][1]()
    donor: Any = donor_of(case)
    if kind != "module":
        donor = saved(case, tmp_path) / ("model.safetensors" if kind == "file" else "")
    ledger = transfer(donor, target)
    assert_equal(case, target)
    assert ledger.summary["parameters_transferred_fraction"] == 1.0
    assert any("recognised by its names: Hugging Face's" in remark for remark in ledger.remarks)


def accounted(case: str, folder: Path, target: nn.Module | None = None, **rules: Any) -> Ledger:
    return transfer(saved(case, folder), target or CASES[case][1](), **rules)


def test_the_ledger_shows_what_query_key_and_value_become(tmp_path: Path) -> None:
    ledger = accounted("ViT into timm's", tmp_path)
    entry = ledger.by_target["blocks.1.attn.qkv.weight"]
    front = "vit.encoder.layer.1.attention.attention"
    assert entry.verdict.value == "adapted"
    assert entry.sources == tuple(f"{front}.{part}.weight" for part in ("query", "key", "value"))
    assert entry.rule == (
        "Hugging Face's vision transformer by timm's names; join: W' = [query; key; value] along the outputs"
    )
    assert all(each.used for each in ledger.donor_tensors)


def test_a_class_token_takes_up_its_position_where_registers_have_none(tmp_path: Path) -> None:
    ledger = accounted("DINOv2 with registers", tmp_path)
    token = ledger.by_target["cls_token"]
    assert token.sources == ("embeddings.cls_token", "embeddings.position_embeddings")
    assert token.rule.endswith("class_position: cls_token' = cls_token + pos_embed[:, 0]")
    assert ledger.by_target["pos_embed"].rule.endswith("position_drop: W' = W[:, 1:]")
    assert ledger.by_target["reg_token"].sources == ("embeddings.register_tokens",)
    excused = {each.source: each.reason for each in ledger.donor_tensors if not each.used}
    assert excused == {"embeddings.mask_token": "stands in for masked patches, in pre-training alone"}


def test_without_registers_the_class_token_stays_as_it_is(tmp_path: Path) -> None:
    ledger = accounted("DINOv2", tmp_path)
    assert ledger.by_target["cls_token"].verdict.value == "renamed"
    assert ledger.by_target["blocks.0.ls1.gamma"].sources == ("encoder.layer.0.layer_scale1.lambda1",)


def test_a_window_s_index_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """Torchvision keeps it, timm and new files do not; old files of Hugging Face's do."""
    ledger = accounted("Swin into torchvision's", tmp_path)
    entry = ledger.by_target["features.1.0.attn.relative_position_index"]
    assert (entry.verdict.value, entry.sources) == ("initialized", ())
    assert "counts from its window's size" in entry.reason
    old = {name: value.clone() for name, value in donor_of("Swin into timm's").state_dict().items()}
    front = "swin.encoder.layers.0.blocks.0.attention."
    old = {name.replace("relative_position_bias.", "self."): value for name, value in old.items()}
    old[f"{front}self.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    target = CASES["Swin into timm's"][1]()
    ledger = transfer(old, target)
    assert_equal("Swin into timm's", target)
    assert [each.source for each in ledger.donor_tensors if not each.used] == [f"{front}self.relative_position_index"]


def test_a_layer_scale_gets_its_axes(tmp_path: Path) -> None:
    entry = accounted("ConvNeXt into torchvision's", tmp_path).by_target["features.1.0.layer_scale"]
    assert entry.rule.endswith("squeeze: W' = W.reshape(8, 1, 1)")


def test_metas_own_files_of_dinov2_are_known_too() -> None:
    donor = VisionTransformer(**{**FEATURES, "reg_tokens": 4})
    state = {name.replace("reg_token", "register_tokens"): value for name, value in donor.state_dict().items()}
    state["pos_embed"] = torch.rand(1, 17, 32)  # Meta's registers have no positions either
    target = VisionTransformer(**REGISTERS)
    ledger = transfer({**state, "mask_token": torch.zeros(1, 32)}, target)
    assert torch.equal(target.reg_token, state["register_tokens"])
    assert torch.equal(target.cls_token, state["cls_token"] + state["pos_embed"][:, :1])
    assert ledger.summary["excused"] == 1


@pytest.mark.parametrize("prefix", ["backbone.", "net.encoder."])
def test_a_network_inside_ones_own_is_found_on_both_sides(prefix: str, tmp_path: Path) -> None:
    case = "ViT without a head, with a pooler"
    twin, target = CASES[case][1](), nn.Module()
    inner = target
    *parents, last = prefix.rstrip(".").split(".")
    for name in parents:
        inner.add_module(name, nn.Module())
        inner = inner.get_submodule(name)
    inner.add_module(last, twin)
    state = {f"student.{name}": value for name, value in donor_of(case).state_dict().items()}
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "wrapped.safetensors")
    ledger = transfer(tmp_path / "wrapped.safetensors", target)
    assert_equal(case, twin)
    assert ledger.by_target[f"{prefix}norm.weight"].sources == ("student.layernorm.weight",)


def test_what_the_user_says_goes_before(tmp_path: Path) -> None:
    """A rename that leads elsewhere, an ignored head and an adapter of one's own."""
    case = "ViT into timm's"
    target = VisionTransformer(**{**SIZES, "num_classes": 0})
    ledger = accounted(case, tmp_path, target, ignore=["classifier.*"])
    assert {each.reason for each in ledger.donor_tensors if not each.used} == {"ignore: classifier.*"}
    wider = VisionTransformer(**{**SIZES, "num_classes": 7})
    rule = "output_pad"
    ledger = accounted(case, tmp_path, wider, adapt={"head.*": rule})
    assert ledger.by_target["head.weight"].rule.endswith("output_pad: W'[:5] = W, W'[5:] = 0")
    renamed = accounted(case, tmp_path, None, rename=[(r"^vit\.", "trunk.vit."), (r"^classifier", "trunk.classifier")])
    assert "rename ^vit" in renamed.by_target["norm.weight"].rule


def test_a_key_without_its_bias_is_refused_with_both_sides() -> None:
    state = dict(donor_of("ViT into timm's").state_dict())
    del state["vit.layers.1.attention.k_proj.bias"]
    with pytest.raises(TransferError, match=r"blocks.1.attn.qkv.bias") as caught:
        transfer(state, CASES["ViT into timm's"][1]())
    assert "vit.layers.1.attention.q_proj.bias" in caught.value.unused


def test_a_deit_whose_distillation_token_has_no_place_is_refused(tmp_path: Path) -> None:
    """Its attention sees the token, so a twin without it computes something else."""
    with pytest.raises(TransferError, match=r"deit\.embeddings\.distillation_token"):
        accounted("distilled DeiT", tmp_path, VisionTransformer(**SIZES))


def test_another_kind_of_network_is_not_forced(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="donor tensors have no use"):
        accounted("ViT into timm's", tmp_path, CASES["ConvNeXt into timm's"][1]())


def test_two_networks_in_one_file_are_not_guessed_between() -> None:
    state = donor_of("ViT without a head, with a pooler").state_dict()
    both = {f"{side}.{name}": value for side in ("student", "teacher") for name, value in state.items()}
    with pytest.raises(TransferError, match="have no use"):
        transfer(both, CASES["ViT without a head, with a pooler"][1]())


def test_names_made_to_hurt_are_answered_like_others() -> None:
    state = donor_of("Swin into timm's").state_dict()
    digits, dots = "9" * 5000, "a." * 2000
    hostile = {f"swin.encoder.layers.{digits}.downsample.norm.weight": torch.zeros(1), f"{dots}x": torch.zeros(1)}
    with pytest.raises(TransferError, match="2 of 81 donor tensors have no use"):
        transfer({**state, **hostile}, CASES["Swin into timm's"][1]())


def test_published_names_of_timm_are_left_alone() -> None:
    """No translation where names agree."""
    module = timm.create_model("resnet18", num_classes=3)
    assert transfer(module, timm.create_model("resnet18", num_classes=3)).remarks == []
