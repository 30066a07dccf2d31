"""An exponential moving average of the weights, which is evaluated, selected and exported in their place."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from graft.finetune.route import Route


class Average:
    """Exponential moving average: after each step w̄ ← d·w̄ + (1 − d)·w [Polyak & Juditsky 1992; Tarvainen & Valpola
    2017], with d = min(decay, (1 + n) / (10 + n)) in step n, so that short trainings forget the start too.

    It is a separate network, so the trained one is never disturbed. Batch-norm statistics are averaged like weights;
    counters are copied.

    Args:
        route: the network's route, with the parts after its cuts, which share its tensors.
        still: tensors that never change; parameters among them are shared with the network.
    """

    def __init__(self, route: Route, decay: float, still: Collection[str]) -> None:
        self.decay = decay
        self.steps = 0
        parameters = route.network.named_parameters()
        shared: dict[int, Any] = {id(value): value for name, value in parameters if name in still}
        self.network, behind = copy.deepcopy((route.network, route.behind), shared)
        self.route = Route(self.network, route.stages, behind)
        for module in (self.network, *behind.values()):
            module.eval()
        self.names = [name for name in _tensors(self.network) if name not in still]
        self._moving: list[tuple[Tensor, Tensor]] = []

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        self._moving = []  # a buffer that moves to another device becomes another tensor
        self.route.channels_last = memory_format is torch.channels_last
        for module in (self.network, *self.route.behind.values()):
            module.to(device=device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Adds the network's current weights; it must always be the same network."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        if not self._moving:  # looked up once: going through all modules costs as much as a step of a head
            present, mean = _tensors(network), _tensors(self.network)
            self._moving = [(mean[name], present[name]) for name in self.names]
        for mine, its in self._moving:
            if mine.is_floating_point():
                mine.lerp_(its, 1 - decay)
            else:
                mine.copy_(its)

    def agree(self) -> None:
        """With several processes, whose batch-norms saw different images, all use the statistics of the first."""
        if distributed.is_available() and distributed.is_initialized():
            for _, value in self.network.named_buffers():
                distributed.broadcast(value, 0)

    @torch.no_grad()
    def write_to(self, network: nn.Module) -> None:
        """Copies the averages into the network."""
        present, mean = _tensors(network), _tensors(self.network)
        for name in self.names:
            present[name].copy_(mean[name])

    def state(self) -> dict[str, Any]:
        mean = _tensors(self.network)
        return {"steps": self.steps, "tensors": {name: mean[name].detach() for name in self.names}}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a checkpoint's state."""
        self.steps = state["steps"]
        mean = _tensors(self.network)
        saved: Mapping[str, Tensor] = state["tensors"]
        assert set(saved) == set(self.names), "a checkpoint of the same run"
        for name, value in saved.items():
            mean[name].copy_(value)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
