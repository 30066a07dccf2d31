"""Turns averages of weights into networks, and writes the chosen one.

The output is laid out like a run's folder, without the files that only training writes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.figures import FIGURES, LOSS
from graft.page.words import measured
from graft.results.calibration import calibrate
from graft.results.export import made_by, separate_tensors, write_folder
from graft.results.intervals import interval_record
from graft.results.left_out import LeftOut, in_words, left_out
from graft.results.model import OpenedModel
from graft.results.predictions import Predictions, write_predictions
from graft.results.threshold import choose_threshold, read_threshold
from graft.system.files import write_json
from graft.weights.average import average
from graft.weights.judge import Judge, PartAnswers
from graft.weights.members import Member
from graft.weights.statistics import moved_norms, recompute


class Mixer:
    """Loads weighted averages of the members into one network, and recomputes its batch-norm statistics."""

    def __init__(self, members: Sequence[Member], judge: Judge) -> None:
        self.states = [{name: value.cpu() for name, value in member.state.items()} for member in members]
        self.judge = judge
        self.network: nn.Module = copy.deepcopy(members[0].opened.module)

    def equally(self, chosen: Sequence[int]) -> nn.Module:
        """The plain mean of the members with these indices."""
        return self.mix([(place in chosen) / len(chosen) for place in range(len(self.states))])

    def mix(self, weights: Sequence[float]) -> nn.Module:
        """The average with these weights, one per member. A member with weight 1 is returned unchanged, bit by bit.

        Every call returns the same module, in eval mode, and overwrites its weights.

        Raises:
            InputError: there are too few training images to recompute batch-norm statistics.
        """
        states = [state for state, weight in zip(self.states, weights, strict=True) if weight]
        self.network.load_state_dict(average(states, [weight for weight in weights if weight]))
        norms = moved_norms(self.network, states) if len(states) > 1 else ()
        if norms:
            self.network.to(self.judge.device)
            if not recompute(self.network, norms, self.judge.training_images()):
                raise InputError(
                    "expected two training images or more to take batch-norm statistics from, received"
                    f" {len(self.judge.table.train)}; try runs of more data"
                )
        return self.network.eval()


def write_combined(
    output: Path,
    members: Sequence[Member],
    weights: Sequence[float],
    judge: Judge,
    *,
    command: str,
    record: dict[str, Any],
    base: int,
    test: bool,
    say: Callable[[str], None],
) -> None:
    """Writes model/, metrics.json and predictions.csv of an average, for `graft.load`, predict, export and report.

    Args:
        output: the folder to write.
        weights: one per member.
        command: the command line, for model.json.
        record: how the average was made, stored as `combined` in model.json. The figures of the base are added to it.
        base: index of the member that the average is compared with. The average takes its build, classes and
            preprocessing.
        test: whether the test part is evaluated too.
        say: receives a line for each part and for the folder.
    """
    network = Mixer(members, judge).mix(weights)
    metrics: dict[str, float] = {}
    predictions: list[Predictions] = []
    compared = members[base]
    out: LeftOut = {}
    answers_of = {part: judge.predict(network, part) for part in ("val", *(["test"] if test else []))}
    calibration, answers_of = _calibrated(judge, answers_of)
    threshold = _threshold(members[base].opened, judge, answers_of)
    output.mkdir(parents=True, exist_ok=True)
    for part, answers in answers_of.items():
        own_figures, other = answers.figures(), judge.predict(compared.opened.module, part).figures()
        metrics.update({f"{part}/{name}": value for name, value in own_figures.items()})
        paths = tuple(sample.path for sample in judge.table.part(part))
        predictions.append(
            Predictions(part=part, paths=paths, truth=answers.truth, answers_NK=answers.answers_NK, task=answers.task)
        )
        shown = (*FIGURES[answers.task][:2], LOSS)
        say(
            f"{part}: {', '.join(f'{figure.title} {measured(own_figures[figure.name], 4)}' for figure in shown)}; "
            f"{compared.name} alone {', '.join(f'{measured(other[figure.name], 4)}' for figure in shown)}"
        )
        record[f"{part} of {compared.name}"] = other
        out.update(left_out(part, answers.truth, judge.table.classes, answers.task))
    write_predictions(output, predictions, classes=judge.table.classes)
    intervals = interval_record(predictions)
    combination = {
        "metrics": metrics,
        "intervals": intervals,
        "left_out": out,
        "calibration": calibration,
        "threshold": threshold,
        "command": command,
        "combined": record,
    }
    _write_model(output / "model", network, members, weights, base, combination)
    further = {"left_out": out, "intervals": intervals, "calibration": calibration}
    further |= {"threshold": threshold} if threshold else {}
    write_json(output / "metrics.json", {**metrics, **further})
    for line in in_words(out, members[base].opened.task.kind):
        say(line)
    say(f"written: {output}")


def _calibrated(
    judge: Judge, answers_of: Mapping[str, PartAnswers]
) -> tuple[dict[str, Any] | None, Mapping[str, PartAnswers]]:
    """The record of the average's calibration, and the calibrated answers.

    The temperature is fitted again, because the average needs another one than its members.
    """
    if judge.task.kind is TaskKind.regression:
        return None, answers_of
    calibration = calibrate(
        judge.task, {part: (answers.logits, torch.from_numpy(answers.truth)) for part, answers in answers_of.items()}
    )
    task = judge.task.with_temperature(calibration.temperature)
    calibrated = {
        part: replace(answers, answers_NK=task.answers(answers.logits).double().numpy())
        for part, answers in answers_of.items()
    }
    return calibration.record(), calibrated


def _threshold(opened: OpenedModel, judge: Judge, answers_of: Mapping[str, PartAnswers]) -> dict[str, Any] | None:
    """The record of the average's threshold, chosen again by the member's rule; None if the member has none."""
    rule = read_threshold(opened.record)
    if rule is None:
        return None
    parts = {
        part: Predictions(
            part=part, paths=(), truth=answers.truth, answers_NK=answers.answers_NK, task=TaskKind.single_label
        )
        for part, answers in answers_of.items()
    }
    classes = judge.table.classes
    chosen = choose_threshold(parts["val"], classes, rule.positive, rule.sensitivity, rule.cost)
    return chosen.record(parts, classes)


def _write_model(
    folder: Path,
    network: nn.Module,
    members: Sequence[Member],
    weights: Sequence[float],
    base: int,
    combination: dict[str, Any],
) -> None:
    parents = [member for member, weight in zip(members, weights, strict=True) if weight]
    certificates = [dict(member.opened.record.get("tensors", {})) for member in parents]
    record = {
        **members[base].opened.record,
        "made_by": made_by(),
        **combination,
        "tensors": merged_certificate(certificates),
    }
    write_folder(folder, separate_tensors(network), record)


def merged_certificate(certificates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The birth certificate of an average: a tensor is trained if any member trained it.

    Its origin is stated only if all members agree on it.
    """
    first = certificates[0].get("each", {})
    each: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for name in first:
        entries = [certificate.get("each", {}).get(name, {}) for certificate in certificates]
        origins, sources = {entry.get("origin") for entry in entries}, {entry.get("source") for entry in entries}
        each[name] = {
            "origin": origins.pop() if len(origins) == 1 else "several",
            "source": sources.pop() if len(sources) == 1 else None,
            "trained": any(entry.get("trained", True) for entry in entries),
        }
        pair = f"{each[name]['origin']}, {'trained' if each[name]['trained'] else 'untouched'}"
        counts[pair] = counts.get(pair, 0) + 1
    return {"summary": counts, "each": each}
