"""What config.json beside a file of Hugging Face's says of the network that its tensors do not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from graft.config.processor_images import PROCESSOR, json_beside
from graft.transfer.donor import Donor
from graft.transfer.spellings import Reading, read

_CONFIG = "config.json"
_EPSILONS = {
    "vit": 1e-12, "deit": 1e-12, "swin": 1e-5, "convnext": 1e-12, "convnextv2": 1e-12, "dinov2": 1e-6,
    "dinov2_with_registers": 1e-6,
}  # fmt: skip
"""What transformers takes for layer_norm_eps where config.json has none."""
_ACTIVATIONS = {"resnet": "relu"}
_OF_BLOCKS = ("norm1.weight", "norm2.weight")


def with_config(donor: Donor, path: str) -> Donor:
    """The donor with the epsilons that its config.json tells, and remarks on what its twins do otherwise.

    Raises:
        InputError: config.json is damaged.
    """
    reading = read(donor.infos)
    if reading is None:
        return donor
    config = json_beside(path, _CONFIG) or {}
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in {*_EPSILONS, *_ACTIVATIONS}:
        return donor
    epsilon = config.get("layer_norm_eps", _EPSILONS.get(kind))
    if isinstance(epsilon, float) and 0 < epsilon < 1 and kind in _EPSILONS:
        infos = dict(donor.infos)
        for name in _norms(reading, only_last=kind.startswith("convnext")):
            infos[name] = replace(infos[name], epsilon=epsilon)
        donor.infos = infos
    donor.remarks += [*_differences(config, kind), *_squash(json_beside(path, PROCESSOR) or {})]
    return donor


def _norms(reading: Reading, *, only_last: bool) -> Iterator[str]:
    """The layer norms that layer_norm_eps is for; ConvNeXt's others have one of their own."""
    for name, common in reading.common.items():
        if common == "norm.weight" or (not only_last and common.endswith(_OF_BLOCKS)):
            yield name


def _differences(config: Mapping[str, Any], kind: str) -> Iterator[str]:
    usual, given = _ACTIVATIONS.get(kind, "gelu"), config.get("hidden_act")
    gated = config.get("use_swiglu_ffn") is True
    if isinstance(given, str) and given != usual and not gated:
        yield (
            f"config.json: hidden_act is {given[:40]!r}, and timm's and torchvision's models have {usual}, so the same "
            "weights compute something else; try backbone.kwargs.act_layer"
        )
    if config.get("downsample_in_bottleneck") is True:
        yield (
            "config.json: downsample_in_bottleneck strides the first convolution of a block, timm's and torchvision's "
            "models the second, so the same weights compute something else"
        )


def _squash(processor: Mapping[str, Any]) -> Iterator[str]:
    size = processor.get("size")
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        yield (
            f"{PROCESSOR} resizes an image to a square whatever its sides; here the shorter edge is resized and the "
            "centre taken, which differs for images that are not square"
        )
