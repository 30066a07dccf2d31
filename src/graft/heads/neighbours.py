"""k nearest neighbours on cached features, which need no training."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from graft.heads.rows import Features, Scaling

NEIGHBOURS = 10
BLOCK = 1024
SHARPNESS = 0.07
"""Temperature of a neighbour's vote, exp(cosine / SHARPNESS) [Wu et al. 2018]."""


def vote(
    train_ND: Features, class_N: torch.Tensor, others_MD: Features, classes: int, *, count: int = NEIGHBOURS
) -> torch.Tensor:
    """Votes [M, K] of each image's nearest training images by cosine similarity, on features scaled as for a solved
    head.

    Example:
        >>> import torch
        >>> train, others = torch.tensor([[0.0, 1], [0, 2], [1, 0], [3, 0]]), torch.tensor([[0.0, 5], [2, 0]])
        >>> vote(train, torch.tensor([0, 0, 1, 1]), others, 2, count=2).argmax(1).tolist()
        [0, 1]
    """
    scaling = Scaling.of(train_ND)
    known_ND = F.normalize(scaling(train_ND[:]), dim=1).float()
    shares_NK = F.one_hot(class_N, classes).float()
    votes: list[torch.Tensor] = []
    for start in range(0, len(others_MD), BLOCK):
        cosine = F.normalize(scaling(others_MD[start : start + BLOCK]), dim=1).float() @ known_ND.T
        nearest = cosine.topk(min(count, len(class_N)), dim=1)
        weight = (nearest.values / SHARPNESS).exp()
        votes.append((shares_NK[nearest.indices] * weight[:, :, None]).sum(1))
    return torch.cat(votes)
