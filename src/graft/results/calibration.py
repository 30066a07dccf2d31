"""Temperature scaling, and the calibration error before and after it [Guo et al. 2017]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from graft.config.choices import TaskKind
from graft.results.left_out import Truth
from graft.tasks.evaluate import Floats, Reliability, reliability
from graft.tasks.task import Task
from graft.tasks.temperature import MOST, fit_temperature

FEWEST = 50
"""With fewer validation images no temperature is fitted, because it would be mostly noise."""
LEAST_GAIN = 1.0
"""The log-likelihood, summed over all images, that a temperature must gain. A parameter that gains less than 1 fits
noise, by the Akaike information criterion [Akaike 1974]."""
DRAWS = 100
"""How often labels are drawn at random to find the calibration error by chance."""
NUMBERS = 2e8
"""Upper limit of draws × images × classes. A part with many images needs few draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The temperature of a network, and its effect on the calibration of each part."""

    temperature: float
    images: int
    """The number of images that it was fitted on; 0 if it was not fitted."""
    reason: str | None
    """Why it was not fitted; None if it was."""
    ece: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """For each part, the expected calibration error in 15 bins of equal width: `before`, `after` and `chance`. The last
    is the mean error of exact probabilities for this number of images."""
    nll: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """For each part, the mean negative log-likelihood of the labels: `before` and `after`."""

    def record(self) -> dict[str, Any]:
        """For metrics.json and model.json."""
        return asdict(self)

    def in_words(self, part: str) -> str:
        """One line for the terminal."""
        if self.reason is not None:
            return f"not calibrated: {self.reason}"
        error = self.ece[part]
        return (
            f"calibrated on {self.images:,} images: temperature {self.temperature:.3g}, {part} ECE"
            f" {error['after']:.3f} ({error['before']:.3f} before, {error['chance']:.3f} of exact probabilities)"
        )


def calibrate(task: Task, parts: Mapping[str, tuple[Tensor, Tensor]], obstacle: str | None = None) -> Calibration:
    """Fits a temperature on the validation part, and measures its effect on every part.

    Args:
        task: the task at temperature 1.
        parts: logits [N, K] and labels of each part. `val` must be among them.
        obstacle: why no temperature may be fitted on these validation images, if so.
    """
    logits_NK, label = parts["val"]
    if not bool(logits_NK.isfinite().all()):
        obstacle = "some answers to validation images are not finite"
    calibration = fit(task, logits_NK, label) if obstacle is None else unfitted(obstacle)
    for part, (logits_NK, label) in parts.items():
        if not bool(logits_NK.isfinite().all()):
            continue
        before = _errors(task, logits_NK, label)
        after = _errors(task.with_temperature(calibration.temperature), logits_NK, label)
        for name, record in (("ece", calibration.ece), ("nll", calibration.nll)):
            record[part] = {"before": before[name], "after": after[name]}
        answers_NK = task.with_temperature(calibration.temperature).answers(logits_NK).double().numpy()
        calibration.ece[part]["chance"] = chance_error(answers_NK, task.kind)
    return calibration


def _errors(task: Task, logits_NK: Tensor, label: Tensor) -> dict[str, float]:
    answers_NK = task.answers(logits_NK)
    loss_N = task.judged(answers_NK, label)[1]
    return {
        "ece": calibration_error(answers_NK.double().numpy(), label.numpy(), task.kind),
        "nll": float(loss_N.mean()),
    }


def fit(task: Task, logits_NK: Tensor, label: Tensor) -> Calibration:
    """The temperature that minimizes the negative log-likelihood, unless it gains no more than chance.

    Args:
        logits_NK: for images that the network was not trained on.
        label: classes [N], or labels [N, K].
    """
    if len(label) < FEWEST:
        return unfitted(f"{len(label)} validation images are fewer than {FEWEST}")
    temperature = fit_temperature(task, logits_NK, label)
    if temperature is None:
        return unfitted(
            f"the {len(label):,} validation images determine no temperature between {1 / MOST:g} and {MOST:g}"
        )
    losses = (
        float(each.judged(each.answers(logits_NK), label)[1].mean())
        for each in (task, task.with_temperature(temperature))
    )
    if len(label) * (next(losses) - next(losses)) <= LEAST_GAIN:
        return unfitted(
            f"probabilities of the {len(label):,} validation images are no less likely as they are: temperature"
            f" {temperature:.3g} is within chance of 1"
        )
    return Calibration(temperature=temperature, images=len(label), reason=None)


def unfitted(reason: str) -> Calibration:
    """Temperature 1, with the reason why none was fitted."""
    return Calibration(temperature=1.0, images=0, reason=reason)


def calibration_error(answers_NK: Floats, truth: Truth, task: TaskKind) -> float:
    """The expected calibration error: the mean gap between confidence and accuracy [Guo et al. 2017].

    For multi-label tasks, every label of every image counts as one binary answer.

    Args:
        answers_NK: probabilities.
        truth: classes [N], or labels [N, K].

    Example:
        >>> calibration_error(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]), TaskKind.single_label)
        0.0
    """
    return reliability_of(answers_NK, truth, task).error


def chance_error(answers_NK: Floats, task: TaskKind, draws: int = DRAWS) -> float:
    """The mean calibration error if the labels are drawn from these probabilities.

    It is not 0, because a bin with few images is rarely right exactly as often as expected.

    Args:
        answers_NK: probabilities.
        draws: upper limit of the number of draws.
    """
    generator = np.random.default_rng(0)
    errors: list[float] = []
    sums_NK = answers_NK.cumsum(1)
    for _ in range(max(1, min(draws, int(NUMBERS / max(answers_NK.size, 1))))):
        if task is TaskKind.multi_label:
            truth = (generator.random(answers_NK.shape) < answers_NK).astype(np.float64)
        else:
            truth = (generator.random((len(answers_NK), 1)) * sums_NK[:, -1:] > sums_NK).sum(1)
        errors.append(calibration_error(answers_NK, truth, task))
    return float(np.mean(errors))


def reliability_of(answers_NK: Floats, truth: Truth, task: TaskKind) -> Reliability:
    """Accuracy and confidence of one part's answers, in bins of equal width."""
    if task is TaskKind.multi_label:
        yes_M = answers_NK.ravel()
        return reliability(np.stack([1 - yes_M, yes_M], axis=1), (truth > 0.5).ravel().astype(np.int64))
    return reliability(answers_NK, truth)
