"""Metrics for regression: pure functions of numpy arrays.

`predicted_NK` and `true_NK` have one row per image and one column per number. `weights_RN` has one row per resample,
with the number of times that it contains each image. With several numbers, each metric is the mean over them, and R²
the mean over those that vary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graft.tasks.evaluate import Floats, mean_over_outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberFigures:
    """Metrics per number, each [K]."""

    mae: Floats
    rmse: Floats
    r2: Floats
    bias: Floats
    """How much too high on average."""
    worst: Floats
    """The largest error."""


def number_figures(predicted_NK: Floats, true_NK: Floats) -> NumberFigures:
    once, errors_NK = np.ones((1, len(true_NK))), predicted_NK - true_NK
    return NumberFigures(
        mae=_mae(predicted_NK, true_NK, once)[0],
        rmse=_rmse(predicted_NK, true_NK, once)[0],
        r2=_r2(predicted_NK, true_NK, once)[0],
        bias=errors_NK.mean(0),
        worst=np.abs(errors_NK).max(0),
    )


def _mean(values_NK: Floats, weights_RN: Floats) -> Floats:
    return weights_RN @ values_NK / weights_RN.sum(1, keepdims=True)


def _mae(predicted_NK: Floats, true_NK: Floats, weights_RN: Floats) -> Floats:
    return _mean(np.abs(predicted_NK - true_NK), weights_RN)


def _rmse(predicted_NK: Floats, true_NK: Floats, weights_RN: Floats) -> Floats:
    return np.sqrt(_mean((predicted_NK - true_NK) ** 2, weights_RN))


def _r2(predicted_NK: Floats, true_NK: Floats, weights_RN: Floats) -> Floats:
    """1 minus the mean squared error over the variance; NaN if the truth does not vary."""
    centred_NK = true_NK - true_NK.mean(0)  # or the difference of squares below would lose its digits
    spread_RK = _mean(centred_NK**2, weights_RN) - _mean(centred_NK, weights_RN) ** 2
    varies_K = (true_NK != true_NK[:1]).any(0)  # of equal numbers the mean may be another, in its last digit
    defined = varies_K & (spread_RK > 1e-12 * np.maximum((centred_NK**2).mean(0), np.finfo(np.float64).tiny))
    return np.where(
        defined, 1 - _rmse(predicted_NK, true_NK, weights_RN) ** 2 / np.where(defined, spread_RK, 1), np.nan
    )


WEIGHTED: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "mae": lambda *arrays: _mae(*arrays).mean(1),
    "rmse": lambda *arrays: _rmse(*arrays).mean(1),
    "r2": lambda *arrays: mean_over_outputs(_r2(*arrays)),
}
"""Each figure on each resample [R]."""
