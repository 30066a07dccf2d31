"""Networks as users write them: a ResNet for CIFAR, a U-Net's encoder, a network of one-dimensional signals."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if stride == 1 and width == out else nn.Conv2d(width, out, 1, stride)

    def forward(self, images: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(images))


class CifarResNet(nn.Module):
    """He et al. 2016, section 4.2, with `blocks` blocks in each of three stages."""

    def __init__(self, num_classes: int, blocks: int = 1, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, 1)
        self.layer2 = self._stage(width, 2 * width, blocks, 2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2)
        self.fc = nn.Linear(4 * width, num_classes)

    @staticmethod
    def _stage(width: int, out: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(width, out, stride), *(Block(out, out, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        images = functional.relu(self.bn1(self.conv1(images)))
        images = self.layer3(self.layer2(self.layer1(images)))
        return self.fc(functional.adaptive_avg_pool2d(images, 1).flatten(1))


def cifar_resnet(num_classes: int, **kwargs: int) -> nn.Module:
    return CifarResNet(num_classes, **kwargs)


class UNetEncoder(nn.Module):
    """The contracting path, with a classifier on its bottom. `forward_features` gives what a decoder joins."""

    def __init__(self, num_classes: int, in_channels: int = 3, widths: tuple[int, ...] = (4, 8, 16)) -> None:
        super().__init__()
        ins = (in_channels, *widths[:-1])
        self.downs = nn.ModuleList(self._double(a, b) for a, b in zip(ins, widths, strict=True))
        self.classifier = nn.Linear(widths[-1], num_classes)

    @staticmethod
    def _double(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
            nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
        )  # fmt: skip

    def forward_features(self, images: Tensor) -> list[Tensor]:
        skips: list[Tensor] = []
        for number, down in enumerate(self.downs):
            images = down(functional.max_pool2d(images, 2) if number else images)
            skips.append(images)
        return skips

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.forward_features(images)[-1].mean((2, 3)))


class SignalNet(nn.Module):
    """One-dimensional convolutions along the width of a grey image, whose rows are the signal's channels (the bands
    of a spectrogram, say)."""

    def __init__(self, num_classes: int, channels: int, bands: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv1d(channels * bands, 8, 5, padding=2)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU()),
            nn.Sequential(nn.Conv1d(8, 16, 3, 2, padding=1), nn.BatchNorm1d(16), nn.ReLU()),
        )
        self.head = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images.flatten(1, 2))).mean(2))


def of_values(num_classes: int) -> nn.Module:
    """Its constructor reads values, which a tensor without storage does not have."""
    rates = torch.linspace(0, 1, 3)
    return CifarResNet(num_classes, width=4 + round(float(torch.ones(3).sum()) * float(rates[2])))


def broken(num_classes: int) -> nn.Module:
    widths = {"small": 8}
    return CifarResNet(num_classes, width=widths["large"])


def not_a_module(num_classes: int) -> list[int]:
    return [num_classes]


NUMBER = 3
