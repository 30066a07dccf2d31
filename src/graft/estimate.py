"""How much memory a step needs, computed on the meta device: nothing is allocated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

FLOAT32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on the training device, for one step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    methods: int = 0
    """What methods keep beside the network: starting points, a mean of the weights, the donor."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.methods


def estimate_memory(
    module: nn.Module,
    *,
    batch_size: int,
    trainable: Collection[str],
    state: int,
    activations: int,
    beside: int = 0,
) -> Memory:
    """Memory of a float32 step of `module` (on the meta device) at a batch size.

    Args:
        trainable: names of the parameters that train in the largest phase.
        state: numbers that the optimizer keeps (`finetune.optimizer.state_numbers`).
        activations: numbers kept for one image (`activation_numbers`).
        beside: numbers that methods keep.
    """
    parameters = dict(module.named_parameters())
    weights = sum(tensor.numel() for tensor in (*parameters.values(), *module.buffers()))
    trained = sum(parameter.numel() for name, parameter in parameters.items() if name in trainable)
    return Memory(
        weights=weights * FLOAT32,
        gradients=trained * FLOAT32,
        optimizer=state * FLOAT32,
        activations=activations * FLOAT32 * batch_size,
        methods=beside * FLOAT32,
    )


def activation_numbers(module: nn.Module, image_CHW: tuple[int, int, int], trainable: Collection[str]) -> int:
    """Numbers kept for the backward pass of one image: outputs of every leaf from the first trainable one on.

    Before that, autograd keeps nothing and only the largest pair of neighbours is alive at once.
    """
    kept = 0
    alive = 0
    training = False

    def record(leaf: nn.Module, name: str, output: object) -> None:
        nonlocal kept, alive, training
        training = training or any(f"{name}.{part}" in trainable for part, _ in leaf.named_parameters(recurse=False))
        count = output.numel() if isinstance(output, torch.Tensor) else 0
        if training:
            kept += count
        else:
            alive = max(alive, 2 * count)

    hooks = [
        leaf.register_forward_hook(lambda leaf, _inputs, output, name=name: record(leaf, name, output))
        for name, leaf in module.named_modules()
        if not any(True for _ in leaf.children())
    ]
    was_training = module.training
    module.eval()  # a batch of one image passes every norm
    try:
        with torch.no_grad():
            module(torch.empty(1, *image_CHW, device="meta"))
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    return kept + alive
