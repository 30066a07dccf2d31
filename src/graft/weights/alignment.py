"""Linear centred kernel alignment (Kornblith et al. 2019, "Similarity of neural network representations revisited").

CKA(X, Y) = ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) for features X [N, P] and Y [N, Q] with centred columns, computed from their Gram
matrices XXᵀ and YYᵀ [N, N], which are small however many features there are. It is 1 where one is an orthogonal
transform of the other, times any scale, and does not see either.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

COLUMNS = 1 << 16  # features multiplied at once, each product in single precision and their sum in double


def gram(x_NP: Tensor, y_MP: Tensor) -> Tensor:
    """Inner products [N, M] of each row with each row, in double precision."""
    total_NM = torch.zeros(len(x_NP), len(y_MP), dtype=torch.float64)
    for x_part, y_part in zip(x_NP.split(COLUMNS, 1), y_MP.split(COLUMNS, 1), strict=True):
        total_NM += (x_part @ y_part.T).double()
    return total_NM


def centred(gram_NN: Tensor) -> Tensor:
    """The Gram matrix of the features less their mean over the images."""
    return gram_NN - gram_NN.mean(0, keepdim=True) - gram_NN.mean(1, keepdim=True) + gram_NN.mean()


def cka(gram_x_NN: Tensor, gram_y_NN: Tensor) -> float:
    """From two Gram matrices over the same images; NaN where one network gives every image the same features."""
    x, y = centred(gram_x_NN), centred(gram_y_NN)
    scale = float(x.norm() * y.norm())
    return float((x * y).sum()) / scale if scale > 0 else math.nan


def linear_cka(x_NP: Tensor, y_NQ: Tensor) -> float:
    """From features, a row an image."""
    return cka(gram(x_NP, x_NP), gram(y_NQ, y_NQ))
