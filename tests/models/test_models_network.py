"""Networks by name: the library's own model, other channels and sizes, the same weights for the same seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, Config, DataConfig, HeadConfig, HeadKind, Library
from graft.models.backbones import check_name, construct, timm_cfg, torchvision_weights
from graft.models.network import Network, build_network, network_for, plain_model, rebuild

LINEAR = HeadConfig(kind=HeadKind.linear)


def build(library: str, name: str, *, head: HeadConfig = LINEAR, device: str = "meta", **settings: Any) -> Network:
    own = {key: settings.pop(key) for key in ("kwargs", "stages", "head_path") if key in settings}
    backbone = BackboneConfig(
        library=Library(library),
        name=name,
        kwargs=own.get("kwargs", {}),
        stages=own.get("stages", {}),
        head=own.get("head_path"),
    )
    return build_network(backbone, head, num_classes=5, device=device, **settings)


@pytest.mark.parametrize(
    ("library", "name", "nearest"),
    [
        (Library.torchvision, "resnet51", "resnet50"),
        (Library.timm, "tf_efficientnet_lit0", "tf_efficientnet_lite0"),
        (Library.timm, "resnet50.a1_in2k", "resnet50.a1_in1k"),
        (Library.torchvision, "tf_efficientnet_lite0", "backbone=timm backbone.name=tf_efficientnet_lite0"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(library: Library, name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=nearest):
        check_name(library, name)


def test_the_libraries_metadata_is_read_without_a_download() -> None:
    assert torchvision_weights("resnet50").url.endswith("resnet50-11ad3fa6.pth")
    assert torchvision_weights("resnet50", "IMAGENET1K_V1").url.endswith("resnet50-0676ba61.pth")
    assert timm_cfg("resnet50", "a1_in1k").tag == "a1_in1k"
    with pytest.raises(InputError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        torchvision_weights("resnet50", "IMAGENET1K_V3")


@pytest.mark.parametrize(
    ("library", "name"),
    [(Library.torchvision, "regnet_x_400mf"), (Library.torchvision, "swin_v2_t"), (Library.timm, "test_convnext")],
)
def test_without_storage_names_shapes_and_dtypes_are_the_real_ones(library: Library, name: str) -> None:
    thin = construct(library, name, {}, num_classes=3, device="meta")
    real = construct(library, name, {}, num_classes=3)
    described = [
        {key: (value.shape, value.dtype) for key, value in [*module.named_parameters(), *module.named_buffers()]}
        for module in (thin, real)
    ]
    assert described[0] == described[1]
    assert all(value.is_meta for value in [*thin.parameters(), *thin.buffers()])


def test_the_same_seed_gives_the_same_weights_and_leaves_the_caller_s_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    weights = [build("torchvision", "squeezenet1_1", device="cpu", seed=seed).module.state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["classifier.1.weight"], weights[2]["classifier.1.weight"])
    assert not torch.equal(weights[0]["features.0.weight"], weights[2]["features.0.weight"])


def test_all_that_a_config_says_of_its_network_is_heeded() -> None:
    config = Config(
        backbone=BackboneConfig(library=Library.torchvision, name="squeezenet1_1"),
        head=LINEAR,
        data=DataConfig(channels=1, image_size=80, crop_fraction=0.8, reduced_jpeg=True),
        seed=2,
    )
    network = network_for(config.network, 4)
    said = network.preprocess
    assert (said.channels, said.image_size, said.crop_fraction, said.reduced_jpeg) == (1, 80, 0.8, True)
    assert network.classes == 4
    other = network_for(replace(config, data=replace(config.data, reduced_jpeg=False), seed=3).network, 4)
    assert not other.preprocess.reduced_jpeg
    first, second = (each.module.state_dict()["features.3.squeeze.weight"] for each in (network, other))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize(("library", "name"), [("torchvision", "squeezenet1_1"), ("timm", "test_efficientnet")])
def test_other_channels_change_the_first_convolution_alone(library: str, name: str, channels: int) -> None:
    network, usual = (build(library, name, channels=count) for count in (channels, 3))
    shapes = [{key: tuple(value.shape) for key, value in each.module.state_dict().items()} for each in (network, usual)]
    changed = [key for key in shapes[0] if shapes[0][key] != shapes[1][key]]
    assert len(changed) == 1
    assert shapes[0][changed[0]][1] == channels
    first = next(layer for layer in network.module.modules() if isinstance(layer, nn.Conv2d))
    other = next(layer for layer in usual.module.modules() if isinstance(layer, nn.Conv2d))
    assert first.in_channels == channels
    assert (first.stride, first.padding, first.bias is None) == (other.stride, other.padding, other.bias is None)
    assert network.preprocess.channels == len(network.preprocess.mean) == channels


@pytest.mark.parametrize(("library", "name"), [("torchvision", "shufflenet_v2_x0_5"), ("timm", "test_efficientnet")])
def test_a_network_of_four_channels_loads_into_the_plain_model_of_its_record(library: str, name: str) -> None:
    network = build(library, name, device="cpu", channels=4, image_size=32)
    again = plain_model(network.build)
    again.load_state_dict(network.module.state_dict(), strict=True)
    x = torch.rand(2, 4, 32, 32)
    assert torch.equal(again.eval()(x), network.module.eval()(x))


def test_a_replaced_first_convolution_is_spread_as_the_library_s() -> None:
    new, old = (build("torchvision", "resnet18", device="cpu", channels=count).module.conv1 for count in (4, 3))
    assert float(new.weight.detach().std() / old.weight.detach().std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("library", "name", "key", "size"),
    [
        ("torchvision", "vit_b_32", "image_size", 64),
        ("timm", "test_vit", "img_size", 64),
        ("timm", "resnet18", None, 64),
        ("torchvision", "resnet18", None, 64),
    ],
)
def test_the_image_size_reaches_the_models_that_are_built_for_one(
    library: str, name: str, key: str | None, size: int
) -> None:
    network = build(library, name, image_size=size)
    assert network.build["kwargs"] == ({key: size} if key else {})
    assert network.preprocess.image_size == size


@pytest.mark.parametrize(
    ("library", "name", "size"),
    [("torchvision", "vit_b_32", 100), ("torchvision", "maxvit_t", 96), ("torchvision", "alexnet", 32)],
)
def test_a_size_that_does_not_fit_is_answered_by_the_plan(library: str, name: str, size: int) -> None:
    with pytest.raises(InputError, match=r"data\.image_size"):
        build(library, name, image_size=size)


def test_arguments_that_the_constructor_refuses_are_answered() -> None:
    with pytest.raises(InputError, match=r"(?s)resnet18 takes, received .*drop_path.*backbone\.kwargs"):
        build("torchvision", "resnet18", kwargs={"drop_path": 0.1})


def test_declared_stages_that_do_not_fit_are_answered() -> None:
    with pytest.raises(InputError, match=r"layer4\.0\.conv1\.weight is in no stage"):
        build("torchvision", "resnet18", stages={"stem": ["conv1", "bn1"], "body": ["layer1", "layer2", "layer3"]})
    with pytest.raises(InputError, match=r"backbone\.head: expected a module of resnet18, received 'fcc'; try fc"):
        build("torchvision", "resnet18", head_path="fcc")


def test_the_two_inputs_normalised_inside_are_normalised_outside_the_same() -> None:
    network = build("torchvision", "googlenet")
    inside = torchvision.models.GoogLeNet(num_classes=2, aux_logits=False, transform_input=True, init_weights=False)
    values = torch.rand(1, 3, 4, 4)
    usual = torchvision.transforms.functional.normalize(values, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    ours = torchvision.transforms.functional.normalize(values, network.preprocess.mean, network.preprocess.std)
    torch.testing.assert_close(ours, inside._transform_input(usual))
    assert network.module.transform_input is False


def test_a_record_with_a_custom_head_is_not_imported_unasked() -> None:
    head = HeadConfig(kind=HeadKind.custom, target="torch.nn.Linear", kwargs={"bias": False})
    network = build("torchvision", "squeezenet1_1", head=head, device="cpu", image_size=64)
    with pytest.raises(InputError, match="import_code=True"):
        rebuild(network.build, network.head)
    again = rebuild(network.build, network.head, import_code=True)
    again.load_state_dict(network.module.state_dict(), strict=True)


@pytest.mark.parametrize(
    ("name", "kwargs", "reason"),
    [
        ("resnet18", {"norm_layer": "syncbatchnorm"}, "KeyError: 'syncbatchnorm'"),
        ("resnet18", {"act_layer": "reluu"}, "KeyError: 'reluu'"),
        ("resnet18", {"layers": [1]}, "ZeroDivisionError"),
        ("resnet18", {"block": "basic"}, "AttributeError: 'str' object has no attribute 'expansion'"),
        ("resnet18", {"checkpoint_path": "nowhere.pth"}, "FileNotFoundError"),
        ("convnext_atto", {"depths": [1]}, "IndexError"),
        ("vit_tiny_patch16_224", {"num_heads": 0}, "ZeroDivisionError"),
    ],
)
def test_arguments_that_a_constructor_stumbles_over_are_answered(
    name: str, kwargs: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=f"arguments that timm's {name} takes.*: {reason}.*backbone.kwargs"):
        build("timm", name, kwargs=kwargs)


def test_a_stumble_without_arguments_is_not_put_on_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.create_model", lambda *_, **__: {}["weights"])
    with pytest.raises(KeyError):
        construct(Library.timm, "resnet18", {}, num_classes=2)


def test_the_description_of_a_network_is_built_once_and_each_caller_has_a_copy() -> None:
    backbone = BackboneConfig(library=Library.timm, name="test_efficientnet", kwargs={}, stages={}, head=None)
    config = replace(Config().network, backbone=backbone, head=LINEAR)
    first = network_for(config, 5, device="meta")
    first.module.requires_grad_(False)
    first.head["at"] = "elsewhere"
    names = first.names
    del first.module.conv_stem
    second = network_for(config, 5, device="meta")
    assert second.names == names
    assert second.head["at"] == "classifier"
    assert all(parameter.requires_grad for parameter in second.module.parameters())
    assert network_for(config, 6, device="meta").classes == 6
    assert network_for(replace(config, image_size=64), 5, device="meta").preprocess.image_size == 64
