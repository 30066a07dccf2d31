"""A training loss of one's own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def poly(outputs: Tensor, targets: Tensor, epsilon: float = 1.0) -> Tensor:
    """Cross-entropy with the polynomial term of PolyLoss (Leng et al. 2022).

    Args:
        outputs: logits [B, K].
        targets: classes [B].

    Returns:
        The loss of each image [B].
    """
    loss = F.cross_entropy(outputs, targets, reduction="none")
    return loss + epsilon * (1 - (-loss).exp())
