"""New last layers. `install_head` mutates a library's model: it replaces the last layer and leaves everything else
unchanged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.config.faults import InputError, nearest
from graft.config.import_path import call_object
from graft.config.schema import BackboneConfig, HeadConfig, HeadKind
from graft.models.stage_head import describe_taps, tap
from graft.models.stages import Stages

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
}
HEAD_STD = 0.01
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class DropoutLinear(nn.Linear):
    """The library's last layer after dropout, with the same tensor names."""

    def __init__(self, layer: nn.Linear, p: float) -> None:
        super().__init__(layer.in_features, layer.out_features, "bias" in layer.state_dict(), device="meta")
        self.weight, self.bias, self.p = layer.weight, layer.bias, p

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.dropout(input, self.p, self.training))


class DropoutConv1x1(nn.Conv2d):
    """The library's last layer after dropout, if it is a 1×1 convolution, with the same tensor names."""

    def __init__(self, layer: nn.Conv2d, p: float) -> None:
        super().__init__(layer.in_channels, layer.out_channels, 1, bias=layer.bias is not None, device="meta")
        self.weight, self.bias, self.p = layer.weight, layer.bias, p

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.dropout(input, self.p, self.training))


def describe_head(backbone: BackboneConfig, head: HeadConfig, heads: Sequence[str]) -> dict[str, Any]:
    """The arguments of `install_head` as JSON values; `at` is the path of the head.

    Raises:
        InputError: this kind of head does not take the settings, or does not fit this backbone.
    """
    _check_settings(head)
    described: dict[str, Any] = {"kind": head.kind.value, "at": heads[0]}
    if head.kind is HeadKind.linear:
        return {**described, "dropout": head.dropout}
    if head.kind is HeadKind.none:
        return described
    if len(heads) > 1:
        raise InputError(
            f"head={head.kind.value}: expected a backbone with one last layer, received {backbone.name} with "
            f"{', '.join(heads)}; try head=linear"
        )
    if head.kind is HeadKind.stages:
        return {**described, "statistics": list(head.pool), "taps": head.taps.value}
    described |= {"at": backbone.classifier or heads[0], "pool": backbone.pool}
    if head.kind is HeadKind.mlp:
        return described | {
            "hidden": list(head.hidden),
            "dropout": head.dropout,
            "activation": head.activation,
            "norm": head.norm,
        }
    return described | {"target": head.target, "kwargs": dict(head.kwargs)}


def install_head(
    module: nn.Module,
    described: Mapping[str, Any],
    *,
    num_classes: int,
    stages: Stages | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Mutates the library's model: installs the described head. A linear head is the library's own last layer.

    Args:
        stages: the model's stages; like `image_shape`, needed if `described` lacks the shape of the head's input.
        image_shape: channels, height and width of the images.

    Returns:
        The model with the head (for head=stages another module with the same tensors), and `described` with the
        head's input (`width`, and `map` for [B, C, H, W] rather than [B, C]).
    """
    kind, path = HeadKind(described["kind"]), described["at"]
    if kind is HeadKind.none:
        return module, dict(described)
    if kind is HeadKind.linear:
        _start_small(module.get_submodule(path))
        if described["dropout"]:
            module.set_submodule(path, _with_dropout(module.get_submodule(path), path, described["dropout"]))
        return module, dict(described)
    if kind is HeadKind.stages:
        if "width" not in described:
            assert stages is not None, FIRST
            assert image_shape is not None, FIRST
            described = describe_taps(module, stages, described, image_shape)
        network = tap(module, described, num_classes=num_classes)
        _start_small(network.get_submodule(path))
        return network, dict(described)
    if described["pool"]:
        module.set_submodule(described["pool"], nn.AdaptiveAvgPool2d(1))
    described = dict(described)
    if "width" not in described:
        assert image_shape is not None, FIRST
        described["width"], described["map"] = _entering(module, path, image_shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if described["map"]:
        layers["pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten(1)
    if kind is HeadKind.mlp:
        layers |= mlp_layers(described["width"], num_classes, **{key: described[key] for key in MLP_KEYS})
    else:
        layers["head"] = _custom(described["target"], described["width"], num_classes, described["kwargs"])
    new = layers["head"] if list(layers) == ["head"] else nn.Sequential(layers)
    on_meta = next(module.parameters()).is_meta
    module.set_submodule(path, new.to("meta") if on_meta else new)
    return module, described


FIRST = "a head's first installation finds its width by a forward pass"
MLP_KEYS = ("hidden", "dropout", "activation", "norm")


def mlp_layers(
    width: int, num_classes: int, *, hidden: Sequence[int], dropout: float, activation: str, norm: str
) -> OrderedDict[str, nn.Module]:
    """For each hidden width: linear, norm, activation, dropout; then the last linear layer."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, wide in enumerate(hidden, start=1):
        layers[f"linear{number}"] = nn.Linear(width, wide)
        if norm != "none":
            layers[f"norm{number}"] = NORMS[norm](wide)
        layers[f"activation{number}"] = ACTIVATIONS[activation]()
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        width = wide
    layers["out"] = nn.Linear(width, num_classes)
    return layers


def _check_settings(head: HeadConfig) -> None:
    if not 0.0 <= head.dropout < 1.0:
        raise InputError(f"head.dropout: expected a share from 0 to below 1, received {head.dropout}")
    if head.kind is HeadKind.none and head.dropout:
        raise InputError(f"head.dropout: expected 0 with head=none, received {head.dropout}; try head=linear")
    if head.kind is HeadKind.custom and not head.target:
        raise InputError("head.target: expected the import path of a module class (head=custom), received none")
    if head.kind is not HeadKind.mlp:
        if head.hidden:
            raise InputError(
                f"head.hidden: expected none with head={head.kind.value}, received {head.hidden}; try head=mlp"
            )
        return
    if not head.hidden or any(width < 1 for width in head.hidden):
        raise InputError(f"head.hidden: expected widths of 1 or more, received {head.hidden}; try head.hidden=[256]")
    for key, value, choices in (("activation", head.activation, ACTIVATIONS), ("norm", head.norm, ("none", *NORMS))):
        if value not in choices:
            hint = nearest(value, choices, 1)
            raise InputError(
                f"head.{key}: expected {', '.join(choices)}, received {value!r}" + (f"; try {hint[0]}" if hint else "")
            )


def _start_small(layer: nn.Module) -> None:
    """Initialises a layer so that logits start near zero, whatever the library's initialisation: timm's EfficientNet
    gives a head of 2 classes weights of ±0.7, and a first loss of 6 instead of ln 2."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if isinstance(weight, Tensor):
        nn.init.trunc_normal_(weight, std=HEAD_STD)
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)


def _with_dropout(layer: nn.Module, path: str, p: float) -> nn.Module:
    if type(layer) is nn.Linear:
        return DropoutLinear(layer, p)
    if type(layer) is nn.Conv2d and layer.kernel_size == (1, 1):
        return DropoutConv1x1(layer, p)
    raise InputError(
        f"head.dropout: expected a linear layer or a 1x1 convolution at {path}, received {type(layer).__name__}; "
        "try the backbone's own dropout (backbone.kwargs.drop_rate)"
    )


def _entering(module: nn.Module, path: str, image_shape: tuple[int, int, int]) -> tuple[int, bool]:
    """The width of a module's input, and whether it is a feature map [B, C, H, W] rather than a vector [B, C]."""
    layer = module.get_submodule(path)
    if isinstance(layer, nn.Linear):
        return layer.in_features, False
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, True
    shapes: list[tuple[int, ...]] = []

    def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes.append(tuple(inputs[0].shape))

    parameter = next(module.parameters())
    images = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    hook = layer.register_forward_pre_hook(see)
    training = {child: child.training for child in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(images)
    except RuntimeError:
        # What lies behind may refuse the pooled vector that its successor will take.
        if not shapes:
            raise
    finally:
        hook.remove()
        for child, mode in training.items():
            child.training = mode
    shape = shapes[0]
    if len(shape) not in (2, 4):
        raise InputError(
            f"head: expected a vector or a map to reach {path}, received shape {list(shape)}; try head=linear"
        )
    return shape[1], len(shape) == 4


def _custom(target: str, width: int, num_classes: int, kwargs: Mapping[str, Any]) -> nn.Module:
    head = call_object("head.target", target, width, num_classes, **kwargs)
    if not isinstance(head, nn.Module):
        raise InputError(f"head.target: expected {target} to make a torch.nn.Module, received {type(head).__name__}")
    return head
