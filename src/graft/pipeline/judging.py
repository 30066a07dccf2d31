"""From a finished training to what is told of it: calibrated answers, a threshold, figures by subgroup."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graft.config.choices import TaskKind
from graft.config.schema import ResultsConfig
from graft.data.columns import columns_of
from graft.data.table import Table
from graft.finetune.fit_result import FitResult
from graft.pipeline.calibration import calibrate
from graft.plan.plan import Plan
from graft.results.predictions import Predictions
from graft.results.subgroups import subgroups
from graft.results.threshold import choose_threshold, no_positive, positive_class


def asks_threshold(results: ResultsConfig) -> bool:
    return results.sensitivity is not None or results.cost is not None


def check_results(results: ResultsConfig, table: Table) -> None:
    """Raises InputError where the images cannot have what is asked for; before anything trains."""
    if not asks_threshold(results):
        return
    key = "results.cost" if results.sensitivity is None else "results.sensitivity"
    place = positive_class(table.classes, results.positive, key)
    if results.sensitivity is not None and place not in table.labels_of("val"):
        raise no_positive(table.classes[place])


def judge(plan: Plan, result: FitResult) -> FitResult:
    """The result with calibrated answers, and with what `results` asks for."""
    result = calibrate(plan, result)
    parts = {each.part: each for each in predictions_of(plan, result)}
    results, classes = plan.config.results, plan.table.classes
    finite = all(bool(np.isfinite(each.answers_NK).all()) for each in parts.values())
    threshold = by = None
    if finite and plan.task.kind is TaskKind.single_label and asks_threshold(results):
        positive = classes[positive_class(classes, results.positive, "results.positive")]
        threshold = choose_threshold(parts["val"], classes, positive, results.sensitivity, results.cost).record(
            parts, classes
        )
    if finite and results.by and plan.config.data.root:
        by = subgroups([*parts.values()], columns_of(plan.config.data.root, results.by), results.by)
    return replace(result, threshold=threshold, by=by)


def predictions_of(plan: Plan, result: FitResult) -> list[Predictions]:
    """The answers of every part, image by image."""
    parts: list[Predictions] = []
    for part, outputs in result.outputs.items():
        samples = plan.table.evaluated(part, crossed=result.folds is not None)
        images = [samples[index] for index in outputs.index.tolist()]
        parts.append(
            Predictions(
                part=part,
                paths=tuple(image.path for image in images),
                truth=outputs.label.numpy(),
                answers_NK=outputs.answers.double().numpy(),
                task=plan.task.kind,
                folds=tuple(image.fold for image in images if image.fold is not None) if result.folds else (),
            )
        )
    return parts
