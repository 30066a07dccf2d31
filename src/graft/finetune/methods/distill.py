"""Learning without forgetting: keeps the donor's own outputs on the new images [Li & Hoiem 2016]."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.models.fingerprint import fingerprint


class Distillation:
    """The penalty λ · T² · KL(softmax(z_donor / T) ‖ softmax(z / T)), a mean over images [Hinton et al. 2015].

    Images have the same weights in this mean as in the loss.

    z_donor are the donor's logits for the images. z are the logits of a copy of the donor's head on the features of the
    trained trunk. The paper trains this copy together with the trunk. Here it stays fixed, so that only the trunk can
    prevent forgetting. It is not exported.

    Args:
        network: the network being trained.
        teacher: the complete frozen donor.
        head: path of the last layer (or layers), the same in both.
        strength: λ.
        temperature: T; 2 in the paper.
    """

    def __init__(self, network: nn.Module, teacher: nn.Module, head: str, strength: float, temperature: float) -> None:
        self.network, self.teacher, self.head = network, teacher, head
        self.strength, self.temperature = strength, temperature
        self.identity = fingerprint(teacher)
        self._features: Tensor | None = None

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        self.teacher.to(device=device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]

    @contextmanager
    def listening(self) -> Generator[None]:
        """Within this context, a forward pass of the network records its features here."""

        def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._features = inputs[0]

        hook = self.network.get_submodule(self.head).register_forward_pre_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def penalty(self, images: Tensor, weights: Tensor | None = None) -> Tensor:
        """The penalty for the preceding forward pass, with the images that passed through it.

        Args:
            images: the images [B, C, H, W].
            weights: weight of each image [B]; None: all the same.
        """
        assert self._features is not None, "the network's forward pass went on while this was listening"
        with torch.no_grad():
            expected = self.teacher(images).float()
        logits = self.teacher.get_submodule(self.head)(self._features).float()
        self._features = None
        t = self.temperature
        divergence_BK = F.kl_div(
            (logits / t).log_softmax(1), (expected / t).log_softmax(1), log_target=True, reduction="none"
        )
        divergence_B = divergence_BK.sum(1)
        mean = divergence_B.mean() if weights is None else (divergence_B * weights).sum() / weights.sum()
        return mean * (self.strength * t * t)
