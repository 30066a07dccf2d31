"""Backbone and head as one network: the library's own model, with the new head in place of its last layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from graft.config.choices import Resize
from graft.config.faults import InputError, nearest, one_line
from graft.config.keras_donor import backbone_for_donor
from graft.config.schema import BackboneConfig, HeadConfig, HeadKind, Library, NetworkConfig, PreprocessConfig
from graft.models.altered import alter, resolved
from graft.models.backbones import construct, drop_kwargs, size_kwargs
from graft.models.derive import call_order, derive_heads, derive_stages
from graft.models.heads import describe_head, install_head
from graft.models.memo import once, once_for
from graft.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, preprocess_for
from graft.models.stages import HEAD, Stages, check_partition, declared_stages, tensor_names


@dataclass(slots=True, kw_only=True)
class Network:
    """A model that is ready for weights, and its metadata."""

    module: nn.Module
    """The library's model with the new head; every tensor of the trunk keeps the library's name."""
    stages: Stages
    preprocess: Preprocess
    classes: int
    build: dict[str, Any]
    """The arguments of `plain_model`, as JSON values, from which it builds the library's own model again."""
    head: dict[str, Any]
    """The arguments that `rebuild` also needs to install the head, as JSON values."""
    remarks: tuple[str, ...] = ()
    """Properties that were guessed."""

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters and buffers, by the library's names."""
        return tensor_names(self.module)


def build_network(
    backbone: BackboneConfig,
    head: HeadConfig,
    *,
    num_classes: int,
    channels: int = 3,
    image_size: int | None = None,
    crop_fraction: float | None = None,
    resize: Resize = Resize.crop,
    reduced_jpeg: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> Network:
    """Builds the network with random weights, the same for the same seed. The caller's random state is not changed.

    Args:
        channels: channels of the images; other than 3 changes the first convolution.
        image_size: side in pixels; None: the donor's.
        crop_fraction: fraction of each side that the centre crop keeps; None: the donor's.
        resize: how an image becomes a square.
        reduced_jpeg: whether the preprocessing decodes large JPEGs at a reduced size.
        device: "meta" builds names, shapes and dtypes without storage, and checks the image size by a forward pass.

    Raises:
        InputError: backbone, head, channels or image size are invalid.
    """
    preprocess = preprocess_for(
        backbone, channels=channels, image_size=image_size, crop_fraction=crop_fraction, resize=resize,
        reduced_jpeg=reduced_jpeg,
    )  # fmt: skip
    if head.kind is HeadKind.auto:  # of which a linear one can be made
        head = replace(head, kind=HeadKind.stages)
    library, name = backbone.library, backbone.name
    kwargs = {**size_kwargs(library, name, preprocess.image_size), **backbone.kwargs}
    kwargs |= drop_kwargs(backbone, kwargs)
    build = {
        "library": library.value,
        "name": name,
        "kwargs": kwargs,
        "num_classes": num_classes,
        "channels": channels,
    }
    image_shape = (channels, preprocess.image_size, preprocess.image_size)
    bare = construct(library, name, kwargs, num_classes=num_classes, channels=channels, device="meta")
    if backbone.alter:
        build["altered"] = resolved(bare, backbone.alter)
        alter(bare, build["altered"])
    heads = _heads(backbone, bare, build)
    remarks = _guesses(backbone)
    stages = _stages(backbone, heads, bare, image_shape, remarks.append)
    described = describe_head(backbone, head, heads)
    with seeded(seed + 1):
        bare, described = install_head(bare, described, num_classes=num_classes, stages=stages, image_shape=image_shape)
    if head.kind in (HeadKind.mlp, HeadKind.custom):
        stages = Stages(stages.without([described["at"]]).trunk, (described["at"],))
    check_partition(stages, tensor_names(bare))
    network = Network(
        module=bare,
        stages=stages,
        preprocess=preprocess,
        classes=num_classes,
        build=build,
        head=described,
        remarks=tuple(remarks),
    )
    if device == "meta":
        once_for(network, lambda: _check_forward(network, image_shape), "goes through", image_shape)
    else:
        network = with_values(network, seed)
        network.module.to(device)
    return network


def with_values(network: Network, seed: int) -> Network:
    """A network on the CPU with random weights, as described by one on the meta device.

    The head's values do not depend on how many random numbers the trunk used.
    """
    with seeded(seed):
        module = plain_model(network.build)
    with seeded(seed + 1):
        module, _ = install_head(module, network.head, num_classes=network.classes)
    return replace(network, module=module)


def take_trunk(network: Network, other: Network) -> None:
    """Mutates a network: copies all tensors except the head's from another network with the same trunk."""
    trunk = other.module.state_dict()
    own = network.module.state_dict()
    head = {name for name in own if network.stages.stage_of(name) == HEAD}
    network.module.load_state_dict({name: own[name] if name in head else trunk[name] for name in own}, strict=True)


def network_for(config: NetworkConfig, classes: int, *, device: str = "cpu") -> Network:
    """The network of a config, for the given classes. Raises InputError as `build_network` does."""
    backbone = backbone_for_donor(config.backbone, config.donor)

    def build() -> Network:
        return build_network(
            backbone, config.head, num_classes=classes, channels=config.channels, image_size=config.image_size,
            crop_fraction=config.crop_fraction, resize=config.resize, reduced_jpeg=config.reduced_jpeg,
            seed=config.seed, device=device,
        )  # fmt: skip

    if device != "meta" or backbone.library is Library.custom or config.head.kind is HeadKind.custom:
        return build()  # a user's code may give another network each time
    network = once(f"network {backbone} {config} {classes}", build)
    return copy.deepcopy(network)


def with_donor_preprocess(network: Network, config: NetworkConfig, own: PreprocessConfig | None) -> Network:
    """The network with the preprocessing of the donor's file. The user's settings and the image size take
    precedence."""
    if own is None:
        return network
    preprocess = preprocess_for(
        backbone_for_donor(config.backbone, config.donor, own),
        channels=config.channels, image_size=network.preprocess.image_size,
        crop_fraction=config.crop_fraction, resize=config.resize, reduced_jpeg=config.reduced_jpeg,
    )  # fmt: skip
    return replace(network, preprocess=preprocess)


def plain_model(build: Mapping[str, Any]) -> nn.Module:
    """The library's own model for a network's `build` record, on the CPU, with random weights.

    The layers that `build` lists as altered are altered. With head=linear and head=none it loads the network's state
    dict with strict=True.
    """
    module = construct(
        Library(build["library"]),
        build["name"],
        build["kwargs"],
        num_classes=build["num_classes"],
        channels=build["channels"],
    )
    alter(module, build.get("altered", {}))
    return module


def rebuild(build: Mapping[str, Any], head: Mapping[str, Any], *, import_code: bool = False) -> nn.Module:
    """The network's module with its head, from a model's record, with random weights.

    Args:
        import_code: for backbone=custom and head=custom, import what the record names. Only for trusted records.

    Raises:
        InputError: the backbone or the head is custom and `import_code` is false.
    """
    named = {
        "backbone=custom": build["name"] if Library(build["library"]) is Library.custom else None,
        "head=custom": head["target"] if HeadKind(head["kind"]) is HeadKind.custom else None,
    }
    for part, target in named.items():
        if target is not None and not import_code:
            raise InputError(
                f"model: expected a network of the libraries' and graft's own, received {part} with {target}, which "
                "loading would import and run; try import_code=True (--import-code) if you trust this file"
            )
    module, _ = install_head(plain_model(build), head, num_classes=build["num_classes"])
    return module


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Runs a block under a seed, and then restores the CPU's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _heads(backbone: BackboneConfig, bare: nn.Module, build: Mapping[str, Any]) -> tuple[str, ...]:
    """Module paths of the last layer (or layers), declared or derived."""
    if backbone.head is None:
        library, kwargs, channels = backbone.library, build["kwargs"], build["channels"]
        return derive_heads(
            lambda classes: construct(
                library, backbone.name, kwargs, num_classes=classes, channels=channels, device="meta"
            ),
            backbone.name,
        )
    for key, path in (("head", backbone.head), ("pool", backbone.pool), ("classifier", backbone.classifier)):
        modules = dict(bare.named_modules())
        if path is not None and path not in modules:
            hint = nearest(path, modules)
            remedy = f"; try {', '.join(hint)}" if hint else ""
            raise InputError(f"backbone.{key}: expected a module of {backbone.name}, received {path!r}{remedy}")
    return (backbone.head,)


def _guesses(backbone: BackboneConfig) -> list[str]:
    """What nobody has said of the images that a user's own backbone was trained on."""
    own = backbone.published.preprocess
    if backbone.library is not Library.custom or (own.mean is not None and own.std is not None):
        return []
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return [
        f"images are normalised by ImageNet's mean ({mean}) and standard deviation ({std}), which is a guess; "
        "backbone.published.preprocess= declares others"
    ]


def _stages(
    backbone: BackboneConfig,
    heads: Sequence[str],
    bare: nn.Module,
    image_shape: tuple[int, int, int],
    say: Callable[[str], None],
) -> Stages:
    if backbone.stages:
        return declared_stages(backbone.stages, heads)
    return derive_stages(bare, heads, call_order(bare, image_shape[1], image_shape[0], say))


def _check_forward(network: Network, image_shape: tuple[int, int, int]) -> None:
    """Passes two images without values through the network, so that the plan reports an image size that the backbone
    does not take."""
    training = network.module.training
    try:
        with torch.no_grad():
            logits = network.module.eval()(torch.empty(2, *image_shape, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"data.image_size: expected a size that {network.build['name']} takes, "
            f"received {image_shape[1]}: {one_line(error)}; try a larger one, or leave it out for the donor's"
        ) from error
    finally:
        network.module.train(training)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, network.classes):
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"backbone: expected {network.build['name']} to give [2, {network.classes}] logits for 2 images, "
            f"received {shape}; try other backbone.kwargs"
        )
