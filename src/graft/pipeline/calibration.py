"""From a finished training to calibrated answers: the temperature, and the figures that it changes."""

from __future__ import annotations

from dataclasses import replace

from graft.config.choices import TaskKind
from graft.finetune.fit_result import FitResult
from graft.finetune.metrics import Outputs
from graft.plan.plan import Plan
from graft.results import calibration
from graft.tasks.task import Task

REFIT = "the head was solved on the validation images too (head.refit)"


def calibrate(plan: Plan, result: FitResult) -> FitResult:
    """The result with calibrated answers; that of a regression, which has no probabilities, as it is.

    The losses stay those of the plain logits, which runs are compared by and which exports compute. Figures that go by
    answers (AUROC of several classes) become those of the calibrated ones.
    """
    if plan.task.kind is TaskKind.regression:
        return result
    parts = {part: (outputs.logits, outputs.label) for part, outputs in result.outputs.items()}
    refit = bool(result.head and result.head.get("refit"))
    fitted = calibration.calibrate(plan.task, parts, REFIT if refit else None)
    task = plan.task.with_temperature(fitted.temperature)
    outputs = {part: replace(each, answers=task.answers(each.logits)) for part, each in result.outputs.items()}
    metrics = dict(result.metrics)
    if fitted.temperature != 1:
        for part in fitted.ece:
            metrics |= _figures(task, part, outputs[part])
    return replace(result, outputs=outputs, metrics=metrics, calibration=fitted)


def _figures(task: Task, part: str, outputs: Outputs) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, metric in task.every_metric().items():
        metric.update(outputs.answers, outputs.label)
        figures[f"{part}/{name}"] = float(metric.compute())
    return figures
