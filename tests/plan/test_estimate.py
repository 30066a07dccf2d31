"""Memory, estimated without allocating."""

from __future__ import annotations

import torch
from torch import nn

from graft.plan.memory import activation_numbers, estimate_memory


def network() -> nn.Sequential:
    with torch.device("meta"):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        )


def memory(trainable: set[str]):
    activations = activation_numbers(network(), (3, 16, 16), trainable)
    return estimate_memory(network(), batch_size=4, trainable=trainable, state=77, activations=activations)


def test_everything_trains():
    found = memory({"0.weight", "0.bias", "4.weight", "4.bias"})
    parameters = 3 * 8 * 9 + 8 + 8 * 2 + 2
    assert found.weights == parameters * 4
    assert (found.gradients, found.optimizer) == (parameters * 4, 77 * 4)
    assert found.activations == 4 * 4 * (8 * 256 * 2 + 8 + 8 + 2)


def test_before_the_first_trained_layer_only_neighbours_are_alive():
    found = memory({"4.weight", "4.bias"})
    assert found.gradients == (8 * 2 + 2) * 4
    assert found.activations == 4 * 4 * (2 + 2 * 8 * 256)
