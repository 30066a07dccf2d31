"""Linear centred kernel alignment (Kornblith et al. 2019, "Similarity of neural network representations revisited").

CKA(X, Y) = ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) for features X [N, P] and Y [N, Q] with centred columns. It is computed from the Gram
matrices XXᵀ and YYᵀ [N, N], whose size does not depend on the number of features. CKA is invariant to orthogonal
transforms and to isotropic scaling of either side: it is 1 if Y is X rotated and scaled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

COLUMNS = 1 << 16  # features per matrix product; products are float32, and their sum is float64


def gram(x_NP: Tensor, y_MP: Tensor) -> Tensor:
    """The inner products of the rows of x [N, P] with the rows of y [M, P]: float64 [N, M]."""
    total_NM = torch.zeros(len(x_NP), len(y_MP), dtype=torch.float64)
    for x_part, y_part in zip(x_NP.split(COLUMNS, 1), y_MP.split(COLUMNS, 1), strict=True):
        total_NM += (x_part @ y_part.T).double()
    return total_NM


def centred(gram_NN: Tensor) -> Tensor:
    """The Gram matrix [N, N] of the features after their mean over the images is subtracted."""
    return gram_NN - gram_NN.mean(0, keepdim=True) - gram_NN.mean(1, keepdim=True) + gram_NN.mean()


def cka(gram_x_NN: Tensor, gram_y_NN: Tensor) -> float:
    """CKA, from two Gram matrices over the same images. NaN if the features of one side do not depend on the image."""
    x, y = centred(gram_x_NN), centred(gram_y_NN)
    scale = float(x.norm() * y.norm())
    return float((x * y).sum()) / scale if scale > 0 else math.nan


def linear_cka(x_NP: Tensor, y_NQ: Tensor) -> float:
    """CKA, from features [N, P] and [N, Q] of the same N images.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]])
        >>> round(linear_cka(x, 2 * x.flip(1)), 6)
        1.0
    """
    return cka(gram(x_NP, x_NP), gram(y_NQ, y_NQ))
