"""Training from Python: `graft train` and `graft plan` for scripts and notebooks."""

from __future__ import annotations

import html
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from torch import nn

from graft.config.compose import Composed, parse
from graft.config.hydra_job import run_words
from graft.config.overrides import words_of
from graft.config.schema import Config
from graft.inference.images import load
from graft.pipeline.inputs import shared_inputs
from graft.pipeline.run import run
from graft.plan.describe import describe
from graft.plan.plan import make_plan
from graft.results.predictions import FILE, Predictions, read_predictions
from graft.system.stopping import SIGNALS, Stopped, StopSignals

MODE = "mode"
FRAME = '<iframe srcdoc="{}" style="width: 100%; height: 40em; border: 0"></iframe>'


@dataclass(frozen=True)
class Run:
    """A finished run. Its files are read on first access."""

    folder: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The contents of metrics.json."""
        return json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))

    @cached_property
    def model(self) -> nn.Module:
        """The result of `graft.load` for the folder."""
        return load(self.folder, import_code=True)  # what this process has just run

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """The paths, labels and predictions of the images by part ("val", "test")."""
        return read_predictions(self.folder / FILE)

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    def figures(self) -> dict[str, dict[str, float]]:
        """Metrics by part and name, such as test and accuracy."""
        rows: dict[str, dict[str, float]] = {}
        for name, value in self.metrics.items():
            part, slash, figure = name.partition("/")
            if slash and part in ("train", "val", "test") and isinstance(value, int | float):
                rows.setdefault(part, {})[figure] = value
        return rows

    def __str__(self) -> str:
        lines = [
            f"{part:5} " + ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
            for part, figures in self.figures().items()
        ]
        return "\n".join([f"run {self.folder}", *lines])

    def _repr_html_(self) -> str:
        """For notebooks: the metrics as a table, followed by the report."""
        figures = self.figures()
        names = list(dict.fromkeys(name for row in figures.values() for name in row))
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *names))
        rows = "".join(
            f"<tr><th>{part}</th>"
            + "".join(f"<td>{row[name]:.4g}</td>" if name in row else "<td></td>" for name in names)
            + "</tr>"
            for part, row in figures.items()
        )
        title = f"<p><code>{html.escape(str(self.folder))}</code></p>"
        table = f"{title}<table><tr>{head}</tr>{rows}</table>"
        return table + (FRAME.format(html.escape(self.report.read_text("utf-8"))) if self.report.exists() else "")


@dataclass(frozen=True)
class Preview:
    """The plan of a run."""

    text: str
    """The output of `graft plan`."""
    record: dict[str, Any]
    """The contents of plan.json."""

    def __str__(self) -> str:
        return self.text


def train(*overrides: str, folder: Path | str | None = None, quiet: bool = False, **settings: Any) -> Run:
    """Trains like `graft train` with the same arguments, and returns the run.

    >>> done = train(
    ...     "backbone=timm", "backbone.name=test_resnet", "donor=none", "freeze=none", "data=folder",
    ...     data={"root": pictures, "image_size": 64}, trainer={"max_epochs": 1, "threads": 1, "progress": False},
    ...     folder=empty / "run", quiet=True,
    ... )
    >>> done.folder == empty / "run", done.metrics["epochs"], sorted(done.predictions)
    (True, 1, ['val'])
    >>> done.model.classes
    ('red', 'teal')

    Args:
        overrides: command-line arguments, such as "backbone=resnet50" or "optimizer.lr=1e-4".
        folder: the run's folder; an interrupted run in it is resumed. None: a new folder below outputs/.
        quiet: do not print the command's output.
        settings: further settings as values: the name of a group's option (`backbone="resnet50"`), or a mapping of
            some of its keys (`optimizer={"lr": 1e-4}`). They come after the overrides.

    Raises:
        InputError: the arguments, the images or the donor are wrong; nothing was started.
        RunFailed: the run started and could not be finished.
        KeyboardInterrupt: the run was stopped, with a checkpoint; the same call with its folder resumes it.
    """
    words = words_of(overrides, settings, folder)
    places: list[Path] = []

    def job(composed: Composed, place: Path, overrides: Sequence[str]) -> None:
        places.append(place)
        with StopSignals() as signals:
            run(parse(composed), place, overrides, signals, None, shared_inputs())

    with redirect_stdout(StringIO()) if quiet else nullcontext():
        _with_handlers(lambda: run_words(words, job))
    return Run(places[0])


def plan(*overrides: str, **settings: Any) -> Preview:
    """The plan of `train` with the same arguments. Nothing is written.

    >>> small = ["backbone=timm", "backbone.name=test_resnet", "donor=none", "freeze=none"]
    >>> seen = plan(*small, "data=folder", data={"root": pictures})
    >>> seen.record["classes"], seen.record["parameters"]["frozen"]
    (['red', 'teal'], 0)

    Raises:
        InputError: the arguments, the images or the donor are wrong.
    """
    config = _config(words_of([*overrides, f"{MODE}=plan"], settings, None))
    inputs = shared_inputs()
    course = make_plan(config, inputs.table(config), lambda: inputs.donor(config), overrides)
    return Preview(describe(course), course.to_dict())


def _config(words: Sequence[str]) -> Config:
    from graft.config.presets import composed

    return composed(words)


def _with_handlers(action: Callable[[], object]) -> None:
    """Does it, and leaves signals as they were, since this process goes on where a command ends.

    Raises:
        KeyboardInterrupt: a signal stopped it.
    """
    before: Mapping[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        action()
    except Stopped as stopped:
        raise KeyboardInterrupt(str(stopped)) from None
    finally:
        try:
            for number, handler in before.items():
                signal.signal(number, handler)
        except ValueError:  # not the main thread, in which no handler was set
            pass
