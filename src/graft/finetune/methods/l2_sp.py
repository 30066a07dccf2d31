"""L2-SP: pulls weights towards the donor's values rather than to zero [Li, Grandvalet & Davoine 2018]."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from graft.finetune.decay import BIAS, NORM, VECTOR, undecayed
from graft.models.fingerprint import fingerprint
from graft.models.stages import HEAD, Stages


class Anchors:
    """The penalty α/2 · ‖w − w⁰‖², where w⁰ are the weights at construction.

    The paper adds β/2 · ‖w‖² for the new layers. This is optimizer.weight_decay, which the groups apply to those only.

    Args:
        names: the anchored weights; those that do not train at the moment contribute nothing.
        strength: α.
    """

    def __init__(self, network: nn.Module, names: Collection[str], strength: float) -> None:
        self.strength = strength
        self.pairs = [
            (parameter, parameter.detach().clone()) for name, parameter in network.named_parameters() if name in names
        ]
        self.identity = fingerprint(network, names)

    def to(self, device: torch.device) -> None:
        self.pairs = [(parameter, start.to(device)) for parameter, start in self.pairs]

    def __call__(self) -> Tensor | float:
        """The penalty, a scalar; its gradient is α (w − w⁰)."""
        distances = [(weight - start).square().sum() for weight, start in self.pairs if weight.requires_grad]
        return torch.stack(distances).sum() * (self.strength / 2) if distances else 0.0


def anchored(network: nn.Module, stages: Stages, filled: Iterable[str]) -> frozenset[str]:
    """The names of the weights that L2-SP pulls back: the trunk's weights with the donor's values.

    As with weight decay, biases, norms and scales are excluded; unlike there, tokens and position tables are not.

    Args:
        filled: the tensors with the donor's values.
    """
    parameters = {name for name, _ in network.named_parameters()}
    alone = {name for name, reason in undecayed(network).items() if reason in (BIAS, NORM, VECTOR)}
    penalised = parameters.intersection(filled) - alone
    return frozenset(name for name in penalised if stages.stage_of(name) != HEAD)
