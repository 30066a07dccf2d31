"""Stochastic depth and dropout of backbones: whose constructor takes which, and what each block then has."""

import pytest
import torch

from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, HeadConfig, HeadKind, Library
from graft.models.backbones import drop_kwargs
from graft.models.network import build_network, plain_model


def backbone(library, name, **options):
    return BackboneConfig(library=Library(library), name=name, **options)


def rates(module, kind, attribute):
    return [getattr(part, attribute) for part in module.modules() if type(part).__name__ == kind]


def test_timms_blocks_drop_more_towards_the_head():
    built = backbone("timm", "resnet18", drop_path=0.2)
    network = build_network(built, HeadConfig(kind=HeadKind.linear), num_classes=2, image_size=32, device="meta")
    assert rates(network.module, "DropPath", "drop_prob") == pytest.approx([0.2 * block / 7 for block in range(1, 8)])
    assert network.build["kwargs"] == {"drop_path_rate": 0.2}
    again = plain_model(network.build)
    assert set(again.state_dict()) == set(network.module.state_dict())


def test_torchvisions_blocks_too():
    kwargs = drop_kwargs(backbone("torchvision", "efficientnet_b0", drop_path=0.4, drop_rate=0.5), {})
    assert kwargs == {"stochastic_depth_prob": 0.4, "dropout": 0.5}
    network = build_network(
        backbone("torchvision", "efficientnet_b0", drop_path=0.4), HeadConfig(kind=HeadKind.linear),
        num_classes=2, image_size=32, device="meta",
    )  # fmt: skip
    assert rates(network.module, "StochasticDepth", "p") == pytest.approx([0.4 * block / 16 for block in range(16)])


def test_dropout_by_the_constructors_own_name():
    assert drop_kwargs(backbone("torchvision", "densenet121", drop_rate=0.1), {}) == {"drop_rate": 0.1}
    assert drop_kwargs(backbone("torchvision", "alexnet", drop_rate=0.1), {}) == {"dropout": 0.1}
    assert drop_kwargs(backbone("timm", "resnet18", drop_rate=0.1), {}) == {"drop_rate": 0.1}
    assert drop_kwargs(backbone("timm", "resnet18"), {}) == {}


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("resnet18", "drop_path", "takes stochastic_depth_prob, received torchvision's resnet18, which has no"),
        ("resnet18", "drop_rate", "takes dropout or drop_rate, received torchvision's resnet18"),
        ("swin_t", "drop_path", "swin_t, which has no stochastic depth to set; try backbone.drop_path=null"),
    ],
)
def test_a_backbone_without_it_is_refused(name, key, message):
    with pytest.raises(InputError, match=message):
        drop_kwargs(backbone("torchvision", name, **{key: 0.1}), {})


def test_the_same_rate_twice_is_refused():
    with pytest.raises(InputError, match=r"backbone\.drop_path: .* received another as backbone\.kwargs\.drop_path_ra"):
        drop_kwargs(backbone("timm", "resnet18", drop_path=0.1), {"drop_path_rate": 0.2})


def test_dropped_blocks_leave_the_evaluation_alone():
    plain, dropping = (
        build_network(
            backbone("timm", "resnet18", drop_path=rate), HeadConfig(kind=HeadKind.linear),
            num_classes=2, image_size=32,
        ).module for rate in (None, 0.5)
    )  # fmt: skip
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, part in plain.named_modules():
        if name.endswith("bn2"):
            torch.nn.init.ones_(part.weight)  # timm starts the blocks' last norms at zero, where a skip changes nothing
    dropping.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert plain.eval()(images).equal(dropping.eval()(images))
        torch.manual_seed(0)
        one = dropping.train()(images)
        assert not one.equal(dropping.train()(images))
