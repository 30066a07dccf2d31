"""Carries out what `graft choose` decides: a pass over the images for each donor, and trials as runs of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graft.config.choices import TaskKind
from graft.config.faults import InputError, RunFailed
from graft.config.schema import Config
from graft.pipeline.choose import AUGMENTS, Donor, Result, Search, Trial, next_trial
from graft.pipeline.inputs import shared_inputs
from graft.pipeline.probe import Probe, probe
from graft.pipeline.session import Run, train
from graft.plan.recipe import with_recipe
from graft.results.predictions import in_order_of
from graft.system.files import write_json
from graft.tasks.evaluate import Floats

FILE = "choose.json"
TRIALS = "trials"
SIZE = "data.image_size"
Say = Callable[[str], None]


class Record:
    """The search's file, which is written after every step.

    Args:
        folder: the search's folder.
        words: the words of every trial: the images and the user's own keys.

    Raises:
        InputError: the folder has the record of another search.
    """

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self.path, self.words = folder / FILE, list(words)
        self.donors: list[Donor] = []
        self.results: list[Result] = []
        self.begun: list[Trial] = []
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            words = content["words"]
            self.donors = [Donor(**each) for each in content["donors"]]
            self.begun = [Trial(**each) for each in content["begun"]]
            self.results = [Result(trial=Trial(**each.pop("trial")), **each) for each in content["results"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{self.path}: expected the record of a search, received something else ({error}); try another --out"
            ) from None
        if words != self.words:
            raise InputError(
                f"{self.path.parent}: expected a search of {' '.join(self.words)}, received one of {' '.join(words)};"
                " try another --out"
            )

    def write(self) -> None:
        write_json(
            self.path,
            {
                "words": self.words,
                "donors": [asdict(each) for each in self.donors],
                "begun": [asdict(each) for each in self.begun],
                "results": [asdict(each) for each in self.results],
            },
        )

    def folder_of(self, trial: Trial) -> Path:
        """The trial's own folder, the same whenever it is asked for."""
        if trial not in self.begun:
            self.begun.append(trial)
            self.write()
        return self.path.parent / TRIALS / f"{self.begun.index(trial) + 1:02d}"


def choose(configs: Sequence[tuple[str, Config]], recipe: Config, record: Record, budget: float, say: Say) -> Search:
    """Carries out the search as far as the budget allows and returns its state.

    Args:
        configs: for each backbone, the config of a run with head=stages on kept features.
        recipe: the config of a fine-tuning, whose number of epochs it sets.
        budget: seconds, of which the steps recorded so far have used some.
        say: prints a line.

    Raises:
        InputError: the images or a donor are wrong, or the task is not single_label.
        RunFailed: no trial succeeded.
    """
    _look(configs, record, say)
    donors = sorted(record.donors, key=lambda each: -each.score)
    whole, _ = with_recipe(recipe, len(shared_inputs().table(recipe).train))
    keys = {word.lstrip("+").partition("=")[0] for word in record.words}
    search = Search(
        budget=budget, probing=sum(each.seconds for each in donors), donors=donors,
        epochs=int(whole.trainer.max_epochs), results=tuple(record.results),
        augments=("",) if "augment" in keys else AUGMENTS, enlarges=SIZE not in keys,
    )  # fmt: skip
    while (trial := next_trial(search)) is not None:
        folder = record.folder_of(trial)
        say(f"{folder.name}  {trial.described()} …")
        result = _carry_out(trial, record.words, folder)
        record.results.append(result)
        record.write()
        search = replace(search, results=tuple(record.results))
        say(f"    {_outcome(result)}; {max(0.0, search.left):,.0f} s left")
    if not search.ranked():
        raise RunFailed(
            f"no trial succeeded; the first: {search.results[0].failure}"
            if search.results
            else "the budget was used up before the first trial; try a larger --budget"
        )
    return search


def _look(configs: Sequence[tuple[str, Config]], record: Record, say: Say) -> None:
    """One pass over the images for each backbone that has had none yet."""
    for backbone, config in configs:
        if any(donor.backbone == backbone for donor in record.donors):
            continue
        began = time.perf_counter()
        rows = probe(config, shared_inputs())
        best = max(rows, key=_score)
        donor = Donor(
            backbone=backbone, image_size=best.image_size, score=_score(best), seconds=time.perf_counter() - began
        )
        record.donors.append(donor)
        record.write()
        say(f"{backbone}: {donor.score:.4f} with a ridge regression on the {best.taps}; {donor.seconds:.0f} s")


def _score(row: Probe) -> float:
    """Accuracy on the validation images and, each left out in turn, the training images."""
    return (row.ridge * row.images + row.ridge_left_out * row.solved_on) / (row.images + row.solved_on)


def _carry_out(trial: Trial, words: Sequence[str], folder: Path) -> Result:
    began = time.perf_counter()
    place = str(Path(*folder.parts[-2:]))
    try:
        others = (word for word in words if not word.startswith(f"{SIZE}="))  # which the trial has
        run = train(*trial.words(), *others, folder=folder, quiet=True)
        brier, accuracy = figures_of(run)
    except (InputError, RunFailed) as error:
        return Result(trial=trial, folder=place, seconds=time.perf_counter() - began, failure=str(error))
    return Result(trial=trial, folder=place, seconds=time.perf_counter() - began, brier=brier, accuracy=accuracy)


def figures_of(run: Run) -> tuple[float, float]:
    """The Brier score and the accuracy of a run's answers to its validation images."""
    scores_N, right_N = _each_image([run], "val")
    return float(scores_N.mean()), float(right_N.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """The mean answers of several trials."""

    folders: tuple[Path, ...]
    brier: float
    accuracy: float
    """Of the validation images, like the Brier score."""
    test: tuple[float, float] | None
    """Test accuracy of the best trial and of the average; None if there are no test images."""


def average_of(search: Search, folder: Path) -> Average:
    """The average of the best trial and all within one standard error of it.

    The standard error is that of the difference between the Brier scores on the same validation images.
    """
    ranked = search.ranked()
    runs = [Run(folder / each.folder) for each in ranked]
    best_N, _ = _each_image(runs[:1], "val")
    near = [run for run in runs if _within_an_error(_each_image([run], "val")[0] - best_N)]
    scores_N, right_N = _each_image(near, "val")
    test = None
    if "test" in runs[0].predictions:
        alone_N, together_N = (_each_image(each, "test")[1] for each in (runs[:1], near))
        test = float(alone_N.mean()), float(together_N.mean())
    return Average(
        folders=tuple(run.folder for run in near), brier=float(scores_N.mean()), accuracy=float(right_N.mean()),
        test=test,
    )  # fmt: skip


def _within_an_error(differences_N: Floats) -> bool:
    count = len(differences_N)
    return bool(differences_N.mean() <= differences_N.std() / max(count - 1, 1) ** 0.5)


def _each_image(runs: Sequence[Run], part: str) -> tuple[Floats, Floats]:
    """The Brier score of the runs' mean answer to each image of a part, and whether it is right (1 or 0)."""
    first = runs[0].predictions[part]
    assert first.task is TaskKind.single_label, "probe refuses others"
    same = [in_order_of(first, run.predictions[part]) for run in runs]
    answers_NK = np.mean([each.answers_NK for each in same if each is not None], axis=0, dtype=np.float64)
    classes_N = np.asarray(first.truth)
    truth_NK = (np.arange(first.answers_NK.shape[1]) == classes_N[:, None]).astype(np.float64)
    return ((answers_NK - truth_NK) ** 2).sum(1), (answers_NK.argmax(1) == classes_N).astype(np.float64)


def _outcome(result: Result) -> str:
    if result.failure:
        return f"failed: {result.failure}"
    return f"validation accuracy {result.accuracy:.4f}, Brier score {result.brier:.4f}; {result.seconds:.0f} s"


def to_json(search: Search, folder: Path) -> dict[str, Any]:
    """The search for programs, best trial first."""
    average = average_of(search, folder)
    return {
        "donors": [asdict(each) for each in search.donors],
        "trials": [{**asdict(each), "words": each.trial.words()} for each in search.ranked()],
        "failed": [asdict(each) for each in search.results if each.failure],
        "average": {**asdict(average), "folders": [str(each) for each in average.folders]},
        "seconds_left": search.left,
    }
