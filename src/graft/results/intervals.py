"""The figures of a part, each with the interval that its images leave open."""

from __future__ import annotations

from graft.config.choices import TaskKind
from graft.config.figures import FIGURES
from graft.results.evaluate import Floats
from graft.results.resampling import Interval, Truth, bootstrap

WORK = 400_000_000  # images × classes × resamples that one interval may cost
SORTED = ("auroc", "map")  # which cost the most


def intervals(answers_NK: Floats, truth: Truth, task: TaskKind = TaskKind.single_label) -> dict[str, Interval]:
    """Each figure with its interval; fewer resamples for large parts, and no curve where it would take too long."""
    cells = answers_NK.size
    if not cells:
        return {}
    resamples = max(50, min(1000, WORK // cells))
    wanted = [figure.name for figure in FIGURES[task] if figure.name not in SORTED or cells <= WORK // 80]
    return {name: bootstrap(answers_NK, truth, name, task=task, resamples=resamples) for name in wanted}
