"""Learning without forgetting: the donor's own outputs on the new images are to stay as they were [Li & Hoiem 2016]."""

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

    An image weighs in this mean what it weighs in the loss.

    z_donor are the donor's logits for the images. z are those of the donor's head on the features that the trained
    trunk has for them: the head stands a second time beside the new one. The paper goes on training that second head
    with the trunk; here it is the donor's, frozen, so that the trunk alone answers for what is forgotten. It is not
    exported.

    Args:
        network: the trained one.
        teacher: the donor, whole and frozen.
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
        """Within it, a forward pass of the network leaves its features here."""

        def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._features = inputs[0]

        hook = self.network.get_submodule(self.head).register_forward_pre_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def penalty(self, images: Tensor, weights: Tensor | None = None) -> Tensor:
        """Of the forward pass before, which these images went through.

        Args:
            weights: what each weighs [B]; None: all the same.
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
