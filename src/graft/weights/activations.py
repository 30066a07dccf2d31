"""The outputs of each stage of a network, as Gram matrices over the images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graft.config.faults import InputError
from graft.config.schema import Library
from graft.models.backbones import construct
from graft.models.derive import call_order, derive_stages
from graft.models.stages import HEAD, Stages, covers, declared_stages
from graft.results.model import OpenedModel
from graft.system.machine import full_float32
from graft.weights.alignment import gram

BYTES = 1 << 29  # approximate limit of features in memory; above it, features are computed again per pair of blocks
BATCH = 32

Images = Callable[[Sequence[int]], Tensor]
"""Maps indices of images to their batch [B, C, H, W], preprocessed."""


def stages_of(opened: OpenedModel) -> Stages:
    """The stages in the model's record. An old record has none: they are then derived from the module tree."""
    record = opened.record
    if record.get("stages"):
        return declared_stages(record["stages"], record["heads"])
    at = record["head"]["at"]
    heads = (at,) if isinstance(at, str) else tuple(at)
    build = record["build"]
    bare = construct(
        Library(build["library"]), build["name"], build["kwargs"], num_classes=build["num_classes"],
        channels=build["channels"], device="meta",
    )  # fmt: skip
    settings = opened.preprocess.settings
    return derive_stages(bare, heads, call_order(bare, settings.image_size, settings.channels, _note))


def _note(line: str) -> None:
    print(line, file=sys.stderr)


class Capture:
    """Runs a network and returns the output of each stage, and the logits.

    A stage's output is that of its module that runs last.
    """

    def __init__(self, network: nn.Module, stages: Stages, device: torch.device) -> None:
        self.network, self.device = network.to(device).eval(), device
        # A stage's module returns after its children, so its output wins. With head=stages only they are called.
        self.owners = {
            path: stage.name
            for stage in stages.trunk
            for path, _ in network.named_modules()
            if any(covers(prefix, path) for prefix in stage.prefixes)
        }
        self.order = (*stages.names, HEAD)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The features of each stage, in forward order. A stage whose output is not a tensor is left out.

        Args:
            images: [N, C, H, W].

        Returns:
            Stage to features [N, P], flattened, float32 on the CPU.
        """
        tensors: dict[str, Tensor] = {}
        hooks = [
            self.network.get_submodule(path).register_forward_hook(_keeper(tensors, stage))
            for path, stage in self.owners.items()
        ]
        try:
            with full_float32(self.device):
                logits = self.network(images.to(self.device))
        finally:
            for hook in hooks:
                hook.remove()
        tensors[HEAD] = logits
        return {stage: tensors[stage].float().cpu().flatten(1) for stage in self.order if stage in tensors}


def _keeper(tensors: dict[str, Tensor], stage: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor = next((each for each in output if isinstance(each, Tensor)), None) if _is_several(output) else output
        if isinstance(tensor, Tensor) and tensor.ndim > 1:
            tensors[stage] = tensor

    return keep


def _is_several(output: Any) -> bool:
    return isinstance(output, list | tuple)


def grams(capture: Callable[[Tensor], dict[str, Tensor]], images: Images, count: int) -> dict[str, Tensor]:
    """The Gram matrix of each stage over the images: float64 [count, count], exactly symmetric.

    Raises:
        InputError: there are fewer than 2 images, which is too few to compare.
    """
    if count < 2:
        raise InputError(f"expected two readable images or more to compare on, received {count}; try a folder of them")
    one = capture(images([0]))
    per_image = sum(features.numel() * 4 for features in one.values())
    size = max(2, BYTES // max(per_image, 1) // 2)
    blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    squares = {stage: torch.zeros(count, count, dtype=torch.float64) for stage in one}
    for place, rows in enumerate(blocks):
        here = _features(capture, images, rows)
        for columns in blocks[: place + 1]:
            there = here if columns is rows else _features(capture, images, columns)
            for stage, x_NP in here.items():
                products = gram(x_NP, there[stage])
                if columns is rows:  # BLAS may round the two halves of a symmetric product differently
                    products = products.triu() + products.triu(1).T
                squares[stage][rows.start : rows.stop, columns.start : columns.stop] = products
                squares[stage][columns.start : columns.stop, rows.start : rows.stop] = products.T
    return squares


def _features(capture: Callable[[Tensor], dict[str, Tensor]], images: Images, rows: range) -> dict[str, Tensor]:
    parts = [capture(images(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH)]
    return {stage: torch.cat([part[stage] for part in parts]) for stage in parts[0]}
