"""Shortcuts: properties of the files, not of what they show, that predict the labels.

A network that learns them is right on images from the same source only. Each property is divided into bins of about
equal counts. A ridge regression on the bins then predicts the class of every image, with that image left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from graft.audit.looks import Looks
from graft.data.table import Sample
from graft.heads.ridge import solve_ridge

BINS = 8
FEWEST = 10
"""Number of images that a class must have to be judged alone."""
DISTINCT = 0.97
"""AUROC from which a property distinguishes a class."""
ABOVE_CHANCE = 0.3
"""Difference of the accuracy from that of always answering the largest class, from which a property is a shortcut."""
MOST = 2000
"""Maximum number of images that are examined, evenly spaced."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """How well one property alone predicts the labels."""

    name: str
    accuracy: float
    chance: float
    """Accuracy of always answering the largest class."""
    place: int
    """Index of the class that the property distinguishes best from all others."""
    auroc: float
    """AUROC of this distinction."""

    @property
    def is_suspect(self) -> bool:
        return self.auroc >= DISTINCT or self.accuracy - self.chance >= ABOVE_CHANCE


def find_shortcuts(
    looks: Looks, samples: Sequence[Sample], label_N: Sequence[int], classes: Sequence[str]
) -> list[Shortcut]:
    """Each property that is not the same in all images, the most predictive one first."""
    rows = np.arange(len(label_N))[:: max(1, len(label_N) // MOST)]
    labels = np.asarray(label_N)[rows]
    shortcuts = [
        _shortcut(name, values_ND[rows], labels, len(classes))
        for name, values_ND in _properties(looks, samples, classes).items()
        if len(np.unique(values_ND[rows], axis=0)) > 1
    ]

    def rank(each: Shortcut) -> tuple[bool, float, str]:
        return not each.is_suspect, -max(each.accuracy - each.chance, each.auroc - DISTINCT), each.name

    return sorted(shortcuts, key=rank)


def _properties(looks: Looks, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Floats]:
    width, height = np.maximum(looks.width_N, 1), np.maximum(looks.height_N, 1)
    size = np.log(np.maximum(looks.bytes_N, 1))
    properties = {
        "file size": np.stack([size, size - np.log(width * height)], axis=1),
        "image size": np.stack([width, height], axis=1).astype(np.float64),
        "proportions": (np.log(width) - np.log(height))[:, None],
        "colour channels": looks.is_grey_N[:, None].astype(np.float64),
        "brightness and contrast": np.stack([looks.brightness_N, looks.contrast_N], axis=1),
        "border": np.column_stack([looks.border_N3, looks.spread_N]),
    }
    folders = [Path(sample.path).parent.name for sample in samples]
    if not set(folders) & set(classes):  # a folder that is named like a class is where its label comes from
        names = sorted(set(folders))
        properties["folder"] = np.array([[float(names.index(folder))] for folder in folders])
    return properties


def _shortcut(name: str, values_ND: Floats, labels: NDArray[np.int64], classes: int) -> Shortcut:
    bins_NB = np.concatenate([_bins(column_N) for column_N in values_ND.T], axis=1)
    targets_NK = torch.nn.functional.one_hot(torch.from_numpy(labels), classes).double()
    answers_NK = solve_ridge(torch.from_numpy(bins_NB), targets_NK).left_out_NK.numpy()
    counts = np.bincount(labels, minlength=classes)
    aurocs = [
        _auroc(answers_NK[:, k], labels == k) if FEWEST <= counts[k] < len(labels) else 0.0 for k in range(classes)
    ]
    place = int(np.argmax(aurocs))
    return Shortcut(
        name=name, accuracy=float((answers_NK.argmax(1) == labels).mean()), chance=float(counts.max() / len(labels)),
        place=place, auroc=float(aurocs[place]),
    )  # fmt: skip


def _bins(column_N: Floats) -> Floats:
    """One column for each value, or for each bin of about as many images."""
    values = np.unique(column_N)
    if len(values) > BINS:
        edges = np.unique(np.quantile(column_N, np.linspace(0, 1, BINS + 1)[1:-1]))
        column_N, values = np.digitize(column_N, edges).astype(np.float64), np.arange(len(edges) + 1, dtype=np.float64)
    return (column_N[:, None] == values).astype(np.float64)


def _auroc(score_N: Floats, positive_N: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; equal scores count half."""
    _, place_N, counts = np.unique(score_N, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    rank_N = (ends - (counts - 1) / 2)[place_N]
    positives = int(positive_N.sum())
    below = float(rank_N[positive_N].sum()) - positives * (positives + 1) / 2
    return below / (positives * (len(score_N) - positives))
