"""Images that are nearly the same in two parts: crops, re-encodings, mirror images, other brightness.

Each image of a later part is compared with its nearest images of the earlier parts, by small grey pictures. Of such a
pair one picture is moved and stretched until it lies on the other (Gauss-Newton on scale, shift, gain and offset), and
the details of both, without what is smooth, are correlated where they overlap. Copies correlate, similar images do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

NEIGHBOURS = 3
LEAST_COSINE = 0.5  # of a pair that is looked at
SCREENED = 0.35  # correlation at half the size, below which no pair is looked at more closely
LEAST = 0.82
"""Correlation of details from which on a pair is nearly the same. Chosen on planted copies (docs/audit.md)."""
ALIKE, LEAST_IF_ALIKE = 0.7, 0.995
"""If more than a tenth of other pairs correlate that much, images are too alike to tell crops of one from another: then
only pairs that correlate as copies at the same scale are reported."""
BLOCK = 512


class NearPair(NamedTuple):
    """Two images that are nearly the same, by their positions."""

    one: int
    other: int
    """Of the later part."""
    correlation: float
    mirrored: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NearCopies:
    """All pairs, the most alike first."""

    pairs: tuple[NearPair, ...]
    threshold: float
    """The correlation from which on a pair was reported."""

    @property
    def are_alike(self) -> bool:
        """Whether the images are too alike to find crops among them."""
        return self.threshold > LEAST


def find_near(
    small_NSS: NDArray[np.uint8], part_N: Sequence[int], same_N: Sequence[str], *, neighbours: int = NEIGHBOURS
) -> NearCopies:
    """The pairs across parts.

    Args:
        small_NSS: small grey pictures.
        part_N: the number of each image's part; images of later parts are compared with those of earlier ones.
        same_N: a value for each image; images with equal values are identical, so their pairs are left out.
    """
    pictures = torch.from_numpy(np.ascontiguousarray(small_NSS)).float()
    parts = torch.tensor(list(part_N))
    pairs = _neighbours(pictures, parts, neighbours)
    pairs = pairs[[same_N[one] != same_N[other] for one, other in pairs[:, :2].tolist()]]
    scores = torch.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        scores[start : start + BLOCK] = _correlations(pictures, pairs[start : start + BLOCK])
    threshold = _threshold(pairs, scores)
    best: dict[tuple[int, int], NearPair] = {}
    for (one, other, mirrored), score in zip(pairs.tolist(), scores.tolist(), strict=True):
        if score >= threshold and ((one, other) not in best or score > best[one, other].correlation):
            best[one, other] = NearPair(one, other, score, bool(mirrored))
    return NearCopies(pairs=tuple(sorted(best.values(), key=lambda pair: -pair.correlation)), threshold=threshold)


def _neighbours(pictures_NSS: Tensor, part_N: Tensor, count: int) -> Tensor:
    """Pairs [P, 3]: one of an earlier part, the other, and whether it is mirrored."""
    plain, mirrored = (_embedded(each) for each in (pictures_NSS, pictures_NSS.flip(2)))
    pairs: list[Tensor] = []
    for part in part_N.unique().tolist()[1:]:
        earlier, later = (part_N < part).nonzero()[:, 0], (part_N == part).nonzero()[:, 0]
        for start in range(0, len(later), BLOCK):
            rows = later[start : start + BLOCK]
            cosines = torch.stack([plain[rows] @ each[earlier].T for each in (plain, mirrored)])
            best = cosines.amax(0).topk(min(count, len(earlier)), dim=1)
            place, column = (best.values > LEAST_COSINE).nonzero(as_tuple=True)
            column = best.indices[place, column]
            is_mirrored = cosines[1, place, column] > cosines[0, place, column]
            pairs.append(torch.stack([earlier[column], rows[place], is_mirrored.long()], 1))
    return torch.cat(pairs) if pairs else torch.empty(0, 3, dtype=torch.int64)


def _embedded(pictures_NSS: Tensor) -> Tensor:
    """Vectors of length 1: 12 by 12 pixels without what all images have in common."""
    vectors = F.adaptive_avg_pool2d(pictures_NSS[:, None], 12).flatten(1)
    vectors = F.normalize(vectors - vectors.mean(1, keepdim=True), dim=1)
    return F.normalize(vectors - vectors.mean(0), dim=1)


def _correlations(pictures_NSS: Tensor, pairs_P3: Tensor) -> Tensor:
    """The correlation of details of each pair [P]; a rough one for pairs that are clearly different."""
    one, other = pictures_NSS[pairs_P3[:, 0]], pictures_NSS[pairs_P3[:, 1]]
    one = torch.where(pairs_P3[:, 2, None, None] > 0, one.flip(2), one)
    one, other = _standardised(one), _standardised(other)
    half_one, half_other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
    warp_P4 = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(len(one), 1)
    warp_P4 = _aligned(half_one, half_other, warp_P4, blur=1, steps=8)
    score = _correlation(half_one, half_other, warp_P4, blur=1)
    near = score > SCREENED
    if near.any():
        closer = _aligned(one[near], other[near], warp_P4[near], blur=1, steps=6)
        score[near] = _correlation(one[near], other[near], closer, blur=2)
    return score


def _standardised(pictures_NSS: Tensor) -> Tensor:
    centred = pictures_NSS - pictures_NSS.mean((1, 2), keepdim=True)
    return (centred / centred.std((1, 2), keepdim=True).clamp_min(1))[:, None]


def _aligned(one_P1SS: Tensor, other_P1SS: Tensor, warp_P4: Tensor, *, blur: int, steps: int) -> Tensor:
    """The warp [P, 4] (two scales, two shifts) that lays each first picture on the second, by Gauss-Newton steps that
    solve for gain and offset too."""
    one, other = _blurred(one_P1SS, blur), _blurred(other_P1SS, blur)
    side = one.shape[-1]
    across, down = F.pad(one[..., 2:] - one[..., :-2], (1, 1)), F.pad(one[..., 2:, :] - one[..., :-2, :], (0, 0, 1, 1))
    stacked = torch.cat([one, across * side / 4, down * side / 4], 1)
    y_SS, x_SS = _coordinates(side)
    for _ in range(steps):
        grid, inside = _grid(warp_P4, side)
        value, slope_x, slope_y = F.grid_sample(stacked, grid, padding_mode="border", align_corners=False).unbind(1)
        columns = (slope_x * x_SS, slope_y * y_SS, slope_x, slope_y, value, torch.ones_like(value))
        jacobian = torch.stack(columns, -1).flatten(1, 2)
        weighted = (jacobian * inside.flatten(1)[..., None]).transpose(1, 2)
        square = weighted @ jacobian
        square = square + torch.diag_embed(1e-4 * torch.diagonal(square, dim1=1, dim2=2) + 1e-6)
        solved = torch.linalg.solve(square, weighted @ other.flatten(1)[..., None])[..., 0]
        step = (solved[:, :4] / solved[:, 4:5].clamp_min(0.2)).clamp(-0.05, 0.05)
        scale, shift = (warp_P4 + step).split(2, dim=1)
        warp_P4 = torch.cat([scale.clamp(0.85, 1.18), shift.clamp(-0.2, 0.2)], 1)
    return warp_P4


def _correlation(one_P1SS: Tensor, other_P1SS: Tensor, warp_P4: Tensor, *, blur: int) -> Tensor:
    """The correlation of details, where the pictures overlap."""
    grid, inside = _grid(warp_P4, one_P1SS.shape[-1])
    details = one_P1SS - _blurred(one_P1SS, blur)
    one = F.grid_sample(details, grid, padding_mode="border", align_corners=False)[:, 0]
    other = (other_P1SS - _blurred(other_P1SS, blur))[:, 0]
    number = inside.sum((1, 2), keepdim=True)
    one = (one - (one * inside).sum((1, 2), keepdim=True) / number) * inside
    other = (other - (other * inside).sum((1, 2), keepdim=True) / number) * inside
    return (one * other).sum((1, 2)) / (one.square().sum((1, 2)) * other.square().sum((1, 2)) + 1e-6).sqrt()


def _grid(warp_P4: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where each pixel of the second picture lies in the first, and 1 where that is inside."""
    y_SS, x_SS = _coordinates(side)
    scale_x, scale_y, shift_x, shift_y = (value[:, None, None] for value in warp_P4.unbind(1))
    x, y = scale_x * x_SS + shift_x, scale_y * y_SS + shift_y
    return torch.stack([x, y], -1), ((x.abs() <= 1) & (y.abs() <= 1)).float()


def _coordinates(side: int) -> tuple[Tensor, Tensor]:
    line = (2 * torch.arange(side) + 1) / side - 1
    y_SS, x_SS = torch.meshgrid(line, line, indexing="ij")
    return y_SS, x_SS


def _blurred(pictures_P1SS: Tensor, sigma: int) -> Tensor:
    radius = 3 * sigma
    kernel = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(pictures_P1SS, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def _threshold(pairs_P3: Tensor, scores_P: Tensor) -> float:
    """Stricter if also pairs that are nobody's most alike correlate."""
    others: list[float] = []
    best: dict[int, float] = {}
    for other, score in zip(pairs_P3[:, 1].tolist(), scores_P.tolist(), strict=True):
        if other in best:
            others.append(min(score, best[other]))
        best[other] = max(score, best.get(other, -1.0))
    if not others:
        return LEAST
    return LEAST_IF_ALIKE if float(np.quantile(others, 0.9)) > ALIKE else LEAST
