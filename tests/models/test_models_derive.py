"""Stages and head of backbones that declare none."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, HeadConfig, HeadKind, Library
from graft.models.backbones import construct
from graft.models.cut import split
from graft.models.derive import call_order, derive_heads, derive_stages
from graft.models.network import Network, build_network
from graft.models.stages import check_partition, tensor_names

KNOWN = {
    ("torchvision", "resnet18"): ("fc", ["stem", "layer1", "layer2", "layer3", "layer4"]),
    ("torchvision", "shufflenet_v2_x0_5"): ("fc", ["stem", "stage2", "stage3", "stage4"]),
    ("torchvision", "vit_b_32"): ("heads.head", ["stem", *(f"stage{number}" for number in range(1, 13))]),
    ("torchvision", "vgg11_bn"): ("classifier.6", ["stem", *(f"stage{number}" for number in range(1, 8))]),
    ("timm", "resnet18"): ("fc", ["stem", "layer1", "layer2", "layer3", "layer4"]),
    ("timm", "lcnet_050"): ("classifier", ["stem", *(f"stage{number}" for number in range(1, 7))]),
    ("timm", "test_convnext"): ("head.fc", ["stem", "stage1", "stage2", "stage3", "stage4"]),
    ("timm", "test_vit"): ("head", ["stem", *(f"stage{number}" for number in range(1, 7))]),
    ("timm", "vgg11"): ("head.fc", ["stem", *(f"stage{number}" for number in range(1, 8))]),
}
# One or more of timm's families each: convolutional, attention, both, several heads, blocks that pass tuples.
FAMILIES = (
    "beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "coat_lite_tiny", "convmixer_768_32", "convnext_atto",
    "crossvit_tiny_240", "cspresnet50", "davit_tiny", "deit_tiny_distilled_patch16_224", "densenet121", "dla34",
    "dpn48b", "edgenext_xx_small", "efficientformer_l1", "eva02_tiny_patch14_224", "fastvit_t8", "ghostnet_050",
    "hrnet_w18_small", "inception_v4", "levit_128s", "mixer_s32_224", "mobilenetv4_conv_small", "mobilevit_xxs",
    "mobileone_s0", "nfnet_l0", "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "regnety_002", "repvit_m0_9",
    "res2net50_14w_8s", "resnetv2_50", "rexnet_100", "selecsls42", "swin_tiny_patch4_window7_224",
    "tf_mobilenetv3_small_minimal_100", "tiny_vit_5m_224", "tresnet_m", "twins_svt_small", "vit_tiny_patch16_224",
    "vovnet39a", "xception41", "xcit_nano_12_p16_224",
)  # fmt: skip


def build(library: str, name: str, device: str = "meta", image_size: int | None = None) -> Network:
    backbone = BackboneConfig(library=Library(library), name=name)
    linear = HeadConfig(kind=HeadKind.linear)
    return build_network(backbone, linear, num_classes=5, device=device, image_size=image_size)


@pytest.mark.parametrize(("library", "name"), KNOWN)
def test_stages_and_head_are_read_off_the_module_tree(library: str, name: str) -> None:
    network = build(library, name)
    head, stages = KNOWN[library, name]
    assert (network.stages.heads, list(network.stages.names)) == ((head,), stages)


class Interleaved(nn.Module):
    """Embeddings and blocks are kept apart and run by turns, as in Twins; `last` is defined before it runs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3, 1, 1))
        self.last = nn.Conv2d(4, 4, 1)
        self.parts = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(3))
        self.first = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.logits = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x + self.token)
        for part in self.parts:
            x = part(x)
        return self.logits(self.norm(self.last(x)).mean((2, 3)))


def test_what_runs_first_is_the_stem_wherever_it_is_defined() -> None:
    with torch.device("meta"):
        module = Interleaved(5)
    heads = derive_heads(Interleaved, "interleaved")
    assert heads == ("logits",)
    stages = derive_stages(module, heads, call_order(module, 8, 3, pytest.fail))
    assert {stage.name: stage.prefixes for stage in stages.trunk} == {
        "stem": ("token", "first"),
        "stage1": ("parts.0",),
        "stage2": ("parts.1",),
        "stage3": ("parts.2", "last", "norm"),
    }


def test_an_order_that_is_a_guess_is_named() -> None:
    class Asking(Interleaved):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.mean().item() > 0 else self.logits(x.mean((2, 3)))

    with torch.device("meta"):
        module = Asking(5)
    told: list[str] = []
    assert call_order(module, 8, 3, told.append) == {}
    assert len(told) == 1
    assert told[0].startswith("the order of the stages is a guess: that in which Asking defines its layers, as its")
    assert told[0].endswith("backbone.stages= declares them")


def test_a_model_without_a_last_layer_is_answered() -> None:
    with pytest.raises(InputError, match=r"shape with the class count, received none; try backbone\.head"):
        derive_heads(lambda _: nn.Linear(2, 2), "fixed")


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_any_classification_model_of_torchvision_has_stages(name: str) -> None:
    network = build("torchvision", name)
    assert len(network.stages.heads) == 1
    assert len(network.stages.names) >= 4
    check_partition(network.stages, tensor_names(network.module))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_timm_s_families_have_stages_and_can_be_cut(name: str) -> None:
    try:
        network = build("timm", name, "cpu", image_size=64)
        network.module.eval()(torch.zeros(1, 3, 64, 64))
    except (InputError, RuntimeError, AssertionError):  # built for one size, or for more than this
        network = build("timm", name, "cpu")
    module, side, stages = network.module.eval(), network.preprocess.image_size, network.stages
    check_partition(stages, tensor_names(module))
    assert len(stages.names) >= 4
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = module(x)
        assert float((expected[0] - expected[1]).abs().max()) > 0
        for stage in (stages.names[0], stages.names[len(stages.names) // 2], stages.names[-1]):
            prefix, rest = split(module, stages, stage)
            torch.testing.assert_close(rest(prefix(x)), expected, atol=1e-5, rtol=1e-5)


def test_without_storage_a_large_model_takes_no_memory() -> None:
    module = construct(Library.timm, "vit_giant_patch14_224", {}, num_classes=2, device="meta")
    assert sum(parameter.numel() for parameter in module.parameters()) > 1e9
