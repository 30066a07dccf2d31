"""What a sweep came to, in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from graft.study_record import STATES, StudyRecord, TrialRecord

SHOWN = 5
"""Of the best trials, where there are several objectives."""


def summary(study: StudyRecord) -> str:
    counts = Counter(trial.state for trial in study.trials)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"\n{len(study.trials)} trials: {told or 'none'}"]
    lines += [f"best      {_line(study, trial)}" for trial in study.best[:SHOWN]]
    if len(study.best) > SHOWN:
        lines.append(f"          and {len(study.best) - SHOWN} more that none other dominates")
    lines.append(f"sweep: {study.folder} (graft report, graft best)")
    return "\n".join(lines)


def failures(study: StudyRecord) -> str:
    """A table of the trials that failed, or nothing."""
    if not study.failed:
        return ""
    rows = [(str(trial.number), _choices(trial), trial.reason) for trial in study.failed]
    headers = ("trial", "overrides", "reason")
    widths = [max(len(row[place]) for row in [headers, *rows]) for place in (0, 1)]
    return "\n".join([
        f"{len(rows)} of {len(study.trials)} trials failed:",
        _row(headers, widths),
        *(_row(row, widths) for row in rows),
        "the same command with hydra.sweeper.retry_failed=true tries them again",
    ])  # fmt: skip


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Further lines of the last cell stand below its first."""
    first, *rest = cells[2].splitlines() or [""]
    lines = [f"  {cells[0]:>{widths[0]}}  {cells[1]:{widths[1]}}  {first}"]
    lines += [" " * (widths[0] + widths[1] + 6) + line for line in rest]
    return "\n".join(lines)


def _line(study: StudyRecord, trial: TrialRecord) -> str:
    told = ", ".join(f"{each.metric} {value:.6g}" for each, value in zip(study.objectives, trial.values, strict=True))
    return f"trial {trial.number} ({told}): {_choices(trial)}"


def _choices(trial: TrialRecord) -> str:
    return " ".join(f"{key}={value}" for key, value in trial.choices.items())
