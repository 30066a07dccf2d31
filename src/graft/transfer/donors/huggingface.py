"""Reads config.json beside a Hugging Face file, for properties of the network that its tensors do not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graft.config.faults import InputError, one_line
from graft.config.processor_images import PROCESSOR, json_beside
from graft.transfer.donor import Donor
from graft.transfer.spellings import Reading, read

_CONFIG = "config.json"
_EPSILONS = {
    "vit": 1e-12, "deit": 1e-12, "swin": 1e-5, "convnext": 1e-12, "convnextv2": 1e-12, "dinov2": 1e-6,
    "dinov2_with_registers": 1e-6,
}  # fmt: skip
"""transformers' default of layer_norm_eps, used if config.json has none."""
_ACTIVATIONS = {"resnet": "relu"}
_BY_TOKEN = ("vit", "deit", "dinov2", "dinov2_with_registers")
"""Networks whose classifier takes the class token; the others take the mean over positions."""
_OF_BLOCKS = ("norm1.weight", "norm2.weight")


def with_config(donor: Donor, path: str) -> Donor:
    """The donor with the epsilons in its config.json, and with remarks on other differences.

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
    donor.own_trunk = lambda used: _own_trunk(path, kind)
    return donor


class _Trunk(nn.Module):
    """Maps normalised images to the input of transformers' own classifier of this kind."""

    def __init__(self, model: nn.Module, *, token: bool) -> None:
        super().__init__()
        self.model, self._token = model, token

    def forward(self, images: Tensor) -> Tensor:
        answer = self.model(pixel_values=images)
        return answer.last_hidden_state[:, 0] if self._token else answer.pooler_output.flatten(1)


def _own_trunk(path: str, kind: str) -> nn.Module:
    """The model that transformers builds from the folder's config.json and weights. No code in the folder is executed.

    Raises:
        InputError: transformers is not installed, or cannot build the model.
    """
    folder = Path(path).expanduser()
    folder = folder if folder.is_dir() else folder.parent
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(
            "donor.verify: expected the package transformers, which runs the donor's own model, received none; try "
            "pip install transformers, or donor.verify=false"
        ) from error
    logging.set_verbosity_error()  # else a report of the weights that only its classifier has, and a bar
    logging.disable_progress_bar()
    plain = {"add_pooling_layer": False} if kind in ("vit", "deit") else {}
    try:
        model: nn.Module = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **plain)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(
            f"donor.verify: expected a folder of which transformers builds its model, received {folder}:"
            f" {one_line(error)}; try donor.verify=false"
        ) from error
    return _Trunk(model.eval(), token=kind in _BY_TOKEN)


def _norms(reading: Reading, *, only_last: bool) -> Iterator[str]:
    """The layer norms that use layer_norm_eps; ConvNeXt's others have their own epsilon."""
    for name, common in reading.common.items():
        if common == "norm.weight" or (not only_last and common.endswith(_OF_BLOCKS)):
            yield name


def _differences(config: Mapping[str, Any], kind: str) -> Iterator[str]:
    usual, act = _ACTIVATIONS.get(kind, "gelu"), config.get("hidden_act")
    gated = config.get("use_swiglu_ffn") is True
    if isinstance(act, str) and act != usual and not gated:
        yield (
            f"config.json: hidden_act is {act[:40]!r}, and timm's and torchvision's models have {usual}, so the same "
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
