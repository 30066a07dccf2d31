"""Temperature scaling: one temperature for a network's logits that calibrates its probabilities [Guo et al. 2017]."""

from __future__ import annotations

from torch import Tensor

from graft.tasks.task import Task

MOST = 20.0
"""Temperatures beyond this, or below its inverse, tell that the images do not determine one."""
STEPS = 100
PRECISION = 1e-12


def fit_temperature(task: Task, outputs_NK: Tensor, label: Tensor) -> float | None:
    """The temperature with the smallest negative log-likelihood of the labels, in float64.

    The negative log-likelihood is convex in 1/temperature. It is minimised by Newton's method within a bracket from the
    signs of the slopes.

    Args:
        outputs_NK: logits of images that the network was not trained on.
        label: the truth as returned by `Task.label`.

    Returns:
        None if no temperature from 1/20 to 20 is the best, for example because every prediction is right.
    """
    low, high = 1 / MOST, MOST
    ends = task.sharpness_slopes(outputs_NK, label, low), task.sharpness_slopes(outputs_NK, label, high)
    if ends[0] is None or ends[1] is None or not ends[0][0] < 0 < ends[1][0]:
        return None
    sharpness = 1.0
    for _ in range(STEPS):
        slopes = task.sharpness_slopes(outputs_NK, label, sharpness)
        assert slopes is not None, "the ends have them"
        slope, curvature = slopes
        low, high = (sharpness, high) if slope < 0 else (low, sharpness)
        step = sharpness - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - sharpness) <= PRECISION * sharpness:
            break
        sharpness = following
    return 1 / sharpness
