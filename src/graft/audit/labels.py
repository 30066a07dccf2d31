"""Labels that are probably wrong, and classes that the features cannot tell apart, from leave-one-out answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from graft.heads.ridge import solve_ridge

MOST = 4000
"""Images that are answered together: the factorisation takes time cubic in their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """An image whose label the others do not bear out."""

    image: int
    label: int
    proposal: int
    """The class that a head fitted to all other images answers, its own label's aside."""
    margin: float
    """The answer for the proposal less that for the label: above 0 the image would be told as the proposal."""


def rank_labels(features_ND: Tensor, label_N: Tensor, classes: int, *, most: int = MOST, seed: int = 0) -> list[Doubt]:
    """Every image, the most doubtful label first.

    A ridge head with exact leave-one-out answers for each image, so no image bears out its own label. More than `most`
    images are shuffled into parts of about equal size, each answered by itself.

    Args:
        features_ND: floating point.
        label_N: integers from 0.
        classes: number of classes, at least 2.

    Example:
        >>> import torch
        >>> features = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2], [0.15]])
        >>> first = rank_labels(features, torch.tensor([0, 0, 0, 1, 1, 1, 1]), 2)[0]
        >>> first.image, first.label, first.proposal
        (6, 1, 0)
    """
    order = torch.randperm(len(label_N), generator=torch.Generator().manual_seed(seed))
    margin_N, proposal_N = torch.empty(len(label_N), dtype=torch.float64), torch.empty_like(label_N)
    for rows in order.chunk(max(1, -(-len(order) // most))):
        label = label_N[rows]
        answer_NK = solve_ridge(features_ND[rows], one_hot(label, classes).double()).left_out_NK
        others_NK = answer_NK.scatter(1, label[:, None], -torch.inf)
        best = others_NK.max(1)
        margin_N[rows] = best.values - answer_NK.gather(1, label[:, None])[:, 0]
        proposal_N[rows] = best.indices
    return [
        Doubt(image=image, label=int(label_N[image]), proposal=int(proposal_N[image]), margin=float(margin_N[image]))
        for image in margin_N.argsort(descending=True, stable=True).tolist()
    ]


def confusable(doubts: list[Doubt]) -> list[tuple[int, int, int]]:
    """Pairs of classes, and how many images of either are answered as the other; the most first."""
    pairs = Counter(
        (min(doubt.label, doubt.proposal), max(doubt.label, doubt.proposal)) for doubt in doubts if doubt.margin > 0
    )
    return [(one, other, count) for (one, other), count in pairs.most_common()]
