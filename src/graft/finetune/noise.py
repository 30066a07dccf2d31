"""What dropout and its like draw from, seeded anew for every step."""

from __future__ import annotations

import torch


def seed_noise(seed: int, device: torch.device) -> None:
    """Seeds what dropout and its like draw from. (torch.manual_seed queues a call for every GPU never used.)"""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
