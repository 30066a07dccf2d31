"""A network of one's own: three stages and a linear head."""

from __future__ import annotations

from torch import nn


def block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def small(num_classes: int, width: int = 16) -> nn.Module:
    network = nn.Sequential()
    network.stem = block(3, width)
    network.layer1 = block(width, 2 * width)
    network.layer2 = block(2 * width, 4 * width)
    network.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.fc = nn.Linear(4 * width, num_classes)
    return network
