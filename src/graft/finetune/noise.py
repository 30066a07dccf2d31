"""Seeds the random numbers of dropout and similar layers for every step."""

from __future__ import annotations

import torch


def seed_noise(seed: int, device: torch.device) -> None:
    """Seeds the generator used by dropout and similar layers. (torch.manual_seed queues a call for every GPU that is
    not used.)"""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
